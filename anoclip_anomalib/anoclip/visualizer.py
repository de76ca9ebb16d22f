"""Heatmaps that show something when nothing was normalised."""

import copy
from typing import Any

import torch
from anomalib.data import ImageBatch
from lightning.pytorch import LightningModule, Trainer

from anoclip_anomalib.data.pictures import NamedVisualizer

LOGIT_SCALE = 100.0
"""CLIP's own temperature, which AnoCLIP leaves out of its scores."""


def with_temperature(probability: torch.Tensor) -> torch.Tensor:
    """Spread probabilities near 0.5 over [0, 1]: what the softmax would be with CLIP's temperature. 0.5 stays where it is."""
    return (LOGIT_SCALE * probability.logit()).sigmoid()


class ContrastVisualizer(NamedVisualizer):
    """anomalib's pictures, with maps drawn at CLIP's temperature where no normalisation was fitted.

    AnoCLIP's probabilities lie within about 0.01 of 0.5. After validation anomalib's post-processor spreads them; in folder
    prediction it has nothing to go by, and a map would be one flat colour. Only the picture changes, not the prediction.
    """

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: ImageBatch, *args: Any, **kwargs: Any
    ) -> None:
        """Draw the images of a batch."""
        if batch.anomaly_map is not None and not _is_normalised(pl_module):
            batch = copy.copy(batch)
            batch.anomaly_map = with_temperature(batch.anomaly_map)
        super().on_test_batch_end(trainer, pl_module, outputs, batch, *args, **kwargs)


def _is_normalised(pl_module: LightningModule) -> bool:
    post_processor = getattr(pl_module, "post_processor", None)
    lowest = getattr(post_processor, "pixel_min", None)
    return bool(getattr(post_processor, "enable_normalization", False)) and lowest is not None and not lowest.isnan().any()
