"""Held-out parts as the bundled weights are to score them."""

import torch

from anoclip_anomalib.clip.constants import CLIP_MEAN, CLIP_STD
from anoclip_anomalib.demo.dataset import draw_sample


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
