"""From AA-CLIP's features to scores and maps. Always in float32."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from anoclip_anomalib.zeroshot.scoring import gaussian, upsample

TEMPERATURE = 100.0
"""CLIP's own, in the segmentation loss (the detection loss has none)."""
BLUR_KERNEL, BLUR_SIGMA = 7, 1.0
"""Of the maps on the patch grid (industrial images; 9 and 1.5 for medical ones)."""


def level_difference(levels: Sequence[torch.Tensor], anchors: torch.Tensor) -> torch.Tensor:
    """How much closer patches are to the anomalous than to the normal anchor, averaged over the levels.

    Args:
        levels: K levels of unit patch features (B, L, E).
        anchors: (2, E), or (B, 2, E), unit vectors, normal then anomalous.

    Returns:
        (B, L) in [-2, 2].
    """
    direction = (anchors[..., 1, :] - anchors[..., 0, :]).unsqueeze(-1)
    return torch.stack([(level @ direction).squeeze(-1) for level in levels]).mean(dim=0)


def segmentation_probability(
    level: torch.Tensor, anchors: torch.Tensor, grid: tuple[int, int], size: tuple[int, int]
) -> torch.Tensor:
    """Probabilities at the pixels, as the training sees them: logits of one level, upsampled, then softmax.

    Args:
        level: (B, L, E) unit patch features.
        anchors: (B, 2, E) unit vectors.
        grid: (h, w).
        size: (H, W).

    Returns:
        (B, 2, H, W), normal then anomalous.
    """
    logits = TEMPERATURE * (level @ anchors.mT).mT.unflatten(2, grid)
    return upsample(logits, size).softmax(dim=1)


def blur(maps: torch.Tensor, kernel: int = BLUR_KERNEL, sigma: float = BLUR_SIGMA) -> torch.Tensor:
    """Gaussian blur of (B, 1, h, w) maps, reflected at the border; on grids smaller than the kernel the border is repeated.

    Args:
        maps: Maps on the patch grid.
        kernel: Side in patches, odd; 1 for none.
        sigma: Standard deviation in patches.
    """
    if kernel == 1:
        return maps
    margin = kernel // 2
    mode = "reflect" if min(maps.shape[-2:]) > margin else "replicate"
    return gaussian(F.pad(maps, (margin,) * 4, mode=mode), margin, sigma)


def rescale(values: torch.Tensor, low: torch.Tensor | float, high: torch.Tensor | float) -> torch.Tensor:
    """``(values - low) / (high - low)``; zeros where the range is empty."""
    spread = torch.as_tensor(high - low, device=values.device)
    return torch.where(spread > 0, (values - low) / torch.where(spread > 0, spread, 1.0), torch.zeros_like(values))
