"""Generated maps, masks and batches."""

import cv2
import numpy as np
import torch
from anomalib.data import ImageBatch


def maps_and_masks(kind: str = "plain", images: int = 24, size: int = 96, seed: int = 0):
    """Maps (B, H, W) float32 that are larger inside rectangles, and the rectangles as masks (B, H, W) uint8.

    kind: "plain" scores around 0; "probability" within 0.003 of 0.5; "outlier" within 1e-4 of 0.5 but for a 0 and a 1;
    "offset" 1000 +- 0.05; "wide" over 20 powers of ten; "coarse" with only 12 different values; "negative" below -5.
    """
    rng = np.random.default_rng(seed)
    masks = np.zeros((images, size, size), dtype=np.uint8)
    for mask in masks[::2]:
        for y, x, h, w in rng.integers([0, 0, 2, 2], [size - 20, size - 20, 20, 20], (3, 4)):
            mask[y : y + h, x : x + w] = 1
    smooth = np.stack([cv2.resize(rng.normal(size=(8, 8)), (size, size)) for _ in range(images)])
    maps = smooth + 1.2 * masks + 0.05 * rng.normal(size=smooth.shape)
    if kind == "probability":
        maps = 0.5 + 1e-3 * maps
    elif kind == "outlier":
        maps = 0.5 + 1e-5 * maps
        maps[0, 0, 0], maps[1, 0, 0] = 0.0, 1.0
    elif kind == "offset":
        maps = 1000 + 0.01 * maps
    elif kind == "wide":
        maps = np.exp(8 * maps)
    elif kind == "coarse":
        maps = np.round(2 * maps) / 2
    elif kind == "negative":
        maps = maps - 10
    return maps.astype(np.float32), masks


KINDS = ("plain", "probability", "outlier", "offset", "wide", "coarse", "negative")


def batch_of(maps: np.ndarray, masks: np.ndarray | None, **fields) -> ImageBatch:
    """An anomalib batch; image score is the map's maximum, label whether the mask holds anything."""
    if masks is not None:
        fields.setdefault("gt_mask", torch.from_numpy(masks.astype(bool)))
        fields.setdefault("gt_label", torch.from_numpy(masks.any(axis=(1, 2))))
    return ImageBatch(
        image=torch.zeros(len(maps), 3, *maps.shape[1:]),
        anomaly_map=torch.from_numpy(maps),
        pred_score=torch.from_numpy(maps.max(axis=(1, 2))),
        **fields,
    )
