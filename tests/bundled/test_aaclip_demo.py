"""The adapters that come with the package: what their file says, and that they find defects of parts they never saw."""

from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from anoclip_anomalib.aaclip.adapters_file import load_adapters
from anoclip_anomalib.aaclip.torch_model import AaClipModel
from anoclip_anomalib.clip import load_clip
from anoclip_anomalib.clip.constants import CLIP_MEAN, CLIP_STD
from anoclip_anomalib.data.sources import read_source
from anoclip_anomalib.demo.dataset import draw_sample
from anoclip_anomalib.demo.photo_textures import PACKAGES

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
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))

    def read(kind: str, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, mask, _ = draw_sample(category, kind, model.image_size[0], [5, index])
        return (torch.from_numpy(image).permute(2, 0, 1) / 255 - mean) / std, torch.from_numpy(mask)

    bad, good = ([read(kind, index) for index in range(4)] for kind in (defect, "good"))
    with torch.no_grad():
        hot, cool = (model(torch.stack([image for image, _ in group])) for group in (bad, good))
    auroc = _auroc(hot.anomaly_map[:, 0], torch.stack([mask for _, mask in bad]))
    assert auroc > least
    assert hot.anomaly_map.amax(dim=(1, 2, 3)).min() > cool.anomaly_map.amax(dim=(1, 2, 3)).mean()
    assert hot.pred_score.mean() > cool.pred_score.mean()


def _auroc(maps: torch.Tensor, masks: torch.Tensor) -> float:
    ranks = maps.flatten().argsort().argsort().double() + 1
    inside = masks.flatten()
    n, m = int(inside.sum()), int((~inside).sum())
    return float((ranks[inside].sum() - n * (n + 1) / 2) / (n * m))
