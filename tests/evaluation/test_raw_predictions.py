from types import SimpleNamespace

import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.data.utils import ValSplitMode
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from anoclip_anomalib.evaluation.raw_predictions import RawPredictions


class Kept(RawPredictions):
    def __init__(self):
        super().__init__()
        self.seen = []

    def read_validation(self, batch, scores, anomalous):
        self.seen.append((scores.tolist(), anomalous.tolist()))


def validated(mode=ValSplitMode.FROM_TEST, sanity_checking=False, **fields):
    """What is read of a validation batch."""
    callback = Kept()
    given = {"pred_score": torch.tensor([0.2, 0.7]), "anomaly_map": None, "gt_label": torch.tensor([0, 1]), "image_path": None}
    datamodule = SimpleNamespace(val_split_mode=mode)
    trainer = SimpleNamespace(sanity_checking=sanity_checking, datamodule=datamodule, val_dataloaders=None)
    callback.on_validation_batch_end(trainer, None, None, SimpleNamespace(**given | fields), 0)
    return callback.seen


def test_labelled_scores_of_held_out_images_are_read():
    assert validated() == [(pytest.approx([0.2, 0.7]), [False, True])]
    maps = torch.tensor([[[0.1, 0.3]], [[0.2, 0.9]]])
    assert validated(pred_score=None, anomaly_map=maps) == [(pytest.approx([0.3, 0.9]), [False, True])]


@pytest.mark.parametrize(
    "case",
    [
        {"mode": ValSplitMode.SAME_AS_TEST},
        {"sanity_checking": True},
        {"gt_label": None},
        {"pred_score": None},
    ],
)
def test_test_images_trial_batches_and_batches_without_label_or_score_are_not(case):
    assert validated(**case) == []


@pytest.mark.parametrize("stages", [("test",), ("predict",), ("test", "predict")])
def test_only_the_stages_asked_for_are_read(stages):
    calls = []

    class Both(RawPredictions):
        def begin(self, trainer, pl_module):
            calls.append("begin")

        def read(self, batch, trainer, pl_module, loader=0):
            calls.append((batch, loader))

        def end(self, trainer, pl_module):
            calls.append("end")

    callback = Both()
    callback.stages = stages
    trainer = SimpleNamespace(callbacks=[callback], test_dataloaders=None, predict_dataloaders=None)
    callback.on_test_start(trainer, None)
    callback.on_test_batch_end(trainer, None, "outputs", "batch", 0, 1)
    callback.on_test_end(trainer, None)
    callback.on_predict_start(trainer, None)
    callback.on_predict_batch_end(trainer, None, "outputs", "batch", 0, 2)
    callback.on_predict_end(trainer, None)
    read = {"test": ["begin", ("batch", 1), "end"], "predict": ["begin", ("outputs", 2), "end"]}
    assert calls == [call for stage in stages for call in read[stage]]


@pytest.mark.parametrize("stage", ["validation", "test", "predict"])
def test_images_that_a_sampler_repeats_are_left_out_of_every_epoch(stage):
    """This process has one image of three, and one that fills up."""
    seen, data = [], list(range(3))

    class Counted(RawPredictions):
        def read(self, batch, trainer, pl_module, loader=0):
            seen.append(len(batch))

        def read_validation(self, batch, scores, anomalous):
            seen.append(len(batch))

    loader = DataLoader(data, sampler=DistributedSampler(data, num_replicas=2, rank=1, shuffle=False))
    callback = Counted()
    trainer = SimpleNamespace(
        sanity_checking=False,
        datamodule=SimpleNamespace(val_split_mode=ValSplitMode.FROM_TEST),
        callbacks=[callback],
        val_dataloaders=loader if stage == "validation" else None,
        test_dataloaders=loader if stage == "test" else None,
        predict_dataloaders=loader if stage == "predict" else None,
    )
    batch = ImageBatch(image=torch.zeros(1, 3, 2, 2), pred_score=torch.ones(1), gt_label=torch.tensor([1]))
    for _ in range(2):
        getattr(callback, f"on_{stage}_{'epoch_' if stage == 'validation' else ''}start")(trainer, None)
        for _ in range(2):
            getattr(callback, f"on_{stage}_batch_end")(trainer, None, batch, batch, 0)
    assert seen == [1, 1]
