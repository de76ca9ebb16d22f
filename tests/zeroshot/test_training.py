"""The part of the training frame that methods share; the methods' own tests train."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from anoclip_anomalib.zeroshot.training import own_tower


@pytest.mark.parametrize(("device", "copied"), [("cpu", False), ("meta", True)])
def test_a_shared_text_tower_stays_where_it_is(device, copied):
    tower = nn.Linear(2, 2)
    text = SimpleNamespace(tower=tower)
    own_tower(text, SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device))))
    assert (text.tower is not tower) == copied
    assert text.tower.weight.device.type == device
    assert tower.weight.device.type == "cpu"
