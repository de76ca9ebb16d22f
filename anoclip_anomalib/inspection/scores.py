"""Raw scores and maps of photographs, as ``anoclip predict`` computes them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from anoclip_anomalib.evaluation.resolution import squeeze_channel, to_numpy


class Scored(NamedTuple):
    """A photograph's image score, its map (h, w) float32, and what is wrong with them."""

    score: float
    anomaly_map: np.ndarray
    fault: str | None


def score_images(module: Any, images: Sequence[torch.Tensor]) -> list[Scored]:
    """Score photographs, those of one size together.

    Args:
        module: A Lightning model in evaluation mode that knows its class.
        images: (3, H, W) in [0, 1] of any sizes.

    Returns:
        One for each, in order.
    """
    transform = getattr(getattr(module, "pre_processor", None), "transform", None)
    found: dict[int, Scored] = {}
    with torch.inference_mode():
        ready = [image[None] if transform is None else transform(image[None]) for image in images]
        for size in {image.shape: None for image in ready}:
            places = [index for index, image in enumerate(ready) if image.shape == size]
            scored = module.model(torch.cat([ready[index] for index in places]).to(module.device))
            maps: np.ndarray = squeeze_channel(to_numpy(scored.anomaly_map)).astype(np.float32)
            scores = to_numpy(scored.pred_score).reshape(-1)
            for index, score, anomaly_map in zip(places, scores, maps, strict=True):
                finite = bool(np.isfinite(score) and np.isfinite(anomaly_map).all())
                found[index] = Scored(float(score), anomaly_map, None if finite else "The model's score or map is not finite")
    return [found[index] for index in range(len(images))]
