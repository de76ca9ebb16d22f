"""What the bundled weights say they were trained on, and held-out parts as they are to score them."""

from dataclasses import asdict
from pathlib import Path

import torch

from anoclip_anomalib.clip import load_clip
from anoclip_anomalib.clip.constants import CLIP_MEAN, CLIP_STD
from anoclip_anomalib.data.sources import read_source
from anoclip_anomalib.demo.dataset import draw_sample
from anoclip_anomalib.demo.photo_textures import PACKAGES
from anoclip_anomalib.zeroshot.learned_weights import TrainingFacts


def check_source(facts: TrainingFacts) -> None:
    """The header is about the bundled encoder and the generated parts of configs/sources/demo.yaml, with their photographs."""
    assert facts.backbone_digest == load_clip("demo").digest
    assert facts.auxiliary_data == "generated training parts, with masks"
    photographs = facts.settings["generated"]["photographs"]
    assert set(photographs) == set(PACKAGES)
    assert all(entry["version"] and entry["licences"] for entry in photographs.values())
    source = read_source(Path(__file__).parents[2] / "configs/sources/demo.yaml")
    assert source.name == facts.source
    assert {**asdict(source.generated), "photographs": photographs} == facts.settings["generated"]
    assert facts.images == source.generated.images


def read(category: str, kind: str, size: int, count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised images (B, 3, H, W) of a part, good or with a kind of defect, and masks (B, H, W)."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    drawn = [draw_sample(category, kind, size, [5, index]) for index in range(count)]
    images = torch.stack([(torch.from_numpy(image).permute(2, 0, 1) / 255 - mean) / std for image, _, _ in drawn])
    return images, torch.stack([torch.from_numpy(mask) for _, mask, _ in drawn])


def pixel_auroc(maps: torch.Tensor, masks: torch.Tensor) -> float:
    """Share of pairs of a defective and a good pixel in which the defective one is hotter."""
    ranks = maps.flatten().argsort().argsort().double() + 1
    inside = masks.flatten()
    n, m = int(inside.sum()), int((~inside).sum())
    return float((ranks[inside].sum() - n * (n + 1) / 2) / (n * m))
