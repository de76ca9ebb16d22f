"""Heatmaps that show something when nothing was normalised."""

import copy
from typing import Any

import torch
from anomalib.data import ImageBatch
from lightning.pytorch import LightningModule, Trainer

from anoclip_anomalib.data.pictures import NamedVisualizer

LOGIT_SCALE = 100.0
"""One divided by CLIP's own temperature, which AnoCLIP leaves out of its scores."""
FLAT = 0.1
"""Probabilities that all lie this near 0.5 would be drawn in one colour."""


def with_temperature(probability: torch.Tensor) -> torch.Tensor:
    """Spread probabilities near 0.5 over [0, 1]: what the softmax would be with CLIP's temperature. 0.5 stays where it is."""
    return (LOGIT_SCALE * probability.logit()).sigmoid()


def drawable(anomaly_map: torch.Tensor, *, spread: bool = True) -> torch.Tensor:
    """Bring maps to [0, 1] for drawing, each for itself.

    Probabilities near 0.5 are spread by CLIP's temperature, other values in [0, 1] stay, and anything else is scaled from its
    own minimum to its maximum. What is not finite is drawn as the smallest (NaN, -inf) or largest value (inf) there is.

    Args:
        anomaly_map: (B, ..., H, W) of any values.
        spread: ``False`` leaves values near 0.5 as they are.

    Returns:
        The same shape, finite, in [0, 1], float32.
    """
    return torch.stack([_drawable(one.float(), spread=spread) for one in anomaly_map])


def _drawable(one: torch.Tensor, *, spread: bool) -> torch.Tensor:
    finite = one[one.isfinite()]
    if finite.numel() == 0:
        return torch.zeros_like(one)
    low, high = finite.min().item(), finite.max().item()
    one = one.nan_to_num(nan=low, posinf=high, neginf=low)
    if low < 0 or high > 1:
        # In double: the largest float32 minus the smallest is more than float32 holds.
        return ((one.double() - low) / (high - low)).clamp(0, 1).float() if high > low else torch.zeros_like(one)
    return with_temperature(one) if spread and max(abs(low - 0.5), abs(high - 0.5)) <= FLAT else one


class ContrastVisualizer(NamedVisualizer):
    """Anomalib's pictures, with maps that show something, see :func:`drawable`.

    Zero-shot probabilities lie within about 0.01 of 0.5. After validation anomalib's post-processor spreads them; in folder
    prediction it has nothing to go by, and a map would be one flat colour. Only the picture changes, not the prediction.
    """

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: ImageBatch, *args: Any, **kwargs: Any
    ) -> None:
        """Draw the images of a batch."""
        if batch.anomaly_map is not None:
            batch = copy.copy(batch)
            batch.anomaly_map = drawable(batch.anomaly_map, spread=not _is_normalised(pl_module))
        super().on_test_batch_end(trainer, pl_module, outputs, batch, *args, **kwargs)


def _is_normalised(pl_module: LightningModule) -> bool:
    post_processor = getattr(pl_module, "post_processor", None)
    lowest = getattr(post_processor, "pixel_min", None)
    return bool(getattr(post_processor, "enable_normalization", False)) and lowest is not None and not lowest.isnan().any()
