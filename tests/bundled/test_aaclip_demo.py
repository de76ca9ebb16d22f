"""The adapters that come with the package: what their file says, and that they find defects of parts they never saw."""

from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from anoclip_anomalib.aaclip.adapters_file import load_adapters
from anoclip_anomalib.aaclip.torch_model import AaClipModel
from anoclip_anomalib.clip import load_clip
from anoclip_anomalib.data.sources import read_source
from anoclip_anomalib.demo.photo_textures import PACKAGES
from tests.bundled.held_out import pixel_auroc, read

FILE = files("anoclip_anomalib") / "bundled" / "weights" / "aaclip_demo.safetensors"


def test_the_file_is_small_and_says_what_it_was_trained_on() -> None:
    assert len(FILE.read_bytes()) < 3_000_000
    facts = load_adapters("demo").facts
    assert facts.backbone_digest == load_clip("demo").digest
    assert facts.auxiliary_data == "generated training parts, with masks"
    photographs = facts.settings["generated"]["photographs"]
    assert set(photographs) == set(PACKAGES)
    assert all(entry["version"] and entry["licences"] for entry in photographs.values())
    source = read_source(Path(__file__).parents[2] / "configs/sources/demo.yaml")
    assert source.name == facts.source
    assert {**asdict(source.generated), "photographs": photographs} == facts.settings["generated"]
    assert facts.images == source.generated.images


@pytest.mark.parametrize(("category", "defect", "least"), [("snakeskin", "scuff", 0.97), ("herringbone", "burn", 0.9)])
def test_heat_lies_on_defects_of_held_out_parts_and_good_parts_stay_cooler(category: str, defect: str, least: float) -> None:
    model = AaClipModel(adapters="demo", class_name=category)
    size = model.image_size[0]
    (bad, masks), (good, _) = read(category, defect, size), read(category, "good", size)
    with torch.no_grad():
        hot, cool = model(bad), model(good)
    auroc = pixel_auroc(hot.anomaly_map[:, 0], masks)
    assert auroc > least
    assert hot.anomaly_map.amax(dim=(1, 2, 3)).min() > cool.anomaly_map.amax(dim=(1, 2, 3)).mean()
    assert hot.pred_score.mean() > cool.pred_score.mean()
