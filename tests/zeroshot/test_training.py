"""The part of the training frame that methods share; the methods' own tests train."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from anoclip_anomalib.clip.state_dict import WeightFileError
from anoclip_anomalib.zeroshot.training import Training
from anoclip_anomalib.zeroshot.training_settings import TrainingSettings


@pytest.mark.parametrize(("device", "copied"), [("cpu", False), ("meta", True)])
def test_a_shared_text_tower_stays_where_it_is(device, copied):
    tower = nn.Linear(2, 2)
    text = SimpleNamespace(tower=tower)
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)))
    Training.setup(SimpleNamespace(text=text, trainer=trainer), "fit")
    assert (text.tower is not tower) == copied
    assert text.tower.weight.device.type == device
    assert tower.weight.device.type == "cpu"


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_checkpoint_holds_what_is_trained_alone_and_nothing_that_is_not_finite(tiny_clip, average):
    training = Training(tiny_clip(), nn.Linear(2, 2), TrainingSettings(epochs=1, batch_size=1, lr=1.0, average=average))
    training.trainer = Trainer(barebones=True, accelerator="cpu")
    checkpoint = {"state_dict": training.state_dict()}
    training.on_save_checkpoint(checkpoint)
    parts = {name.partition(".")[0] for name in checkpoint["state_dict"]}
    assert parts == ({"part", "averaged"} if average else {"part"})
    with torch.no_grad():
        training.part.bias[1] = torch.nan
    with pytest.raises(WeightFileError, match=r"The model after epoch 1 has NaN or infinite values in 'part\.bias'"):
        training.on_save_checkpoint({"state_dict": training.state_dict()})
