"""Raw-score metrics beside anomalib's own, for any model: a callback."""

from typing import Any

import torch
from anomalib.metrics.base import AnomalibMetric
from lightning.pytorch import LightningModule, Trainer

from anoclip_anomalib.evaluation.epoch_metrics import EpochMetrics
from anoclip_anomalib.evaluation.evaluator import StreamingEvaluator
from anoclip_anomalib.evaluation.metrics import standard_metrics
from anoclip_anomalib.evaluation.raw_batch import raw_maps, raw_scores
from anoclip_anomalib.evaluation.raw_predictions import RawPredictions


class RawEvaluation(RawPredictions):
    """Measure a model's own scores, before anomalib normalises and clamps them to 0..1.

    Works with every anomalib model that predicts images::

        anomalib test --model Padim --trainer.callbacks anoclip_anomalib.evaluation.RawEvaluation ...

    Args:
        prefix: Put before the logged names of the standard metrics.
        resolution: "model" or "original": the size at which maps and masks are compared.
        metrics: Metrics to use instead of :func:`standard_metrics`.
    """

    stages = ("test",)

    def __init__(self, prefix: str = "raw_", resolution: str = "model", metrics: list[AnomalibMetric] | None = None) -> None:
        super().__init__()
        self.evaluator = StreamingEvaluator(test_metrics=standard_metrics(prefix, resolution) if metrics is None else metrics)
        self._epoch = EpochMetrics(self.evaluator.test_metrics)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Metrics on the CPU unless several devices need to agree."""
        self.evaluator.setup(trainer, pl_module, stage)
        if trainer.num_devices > 1:
            self.evaluator.to(pl_module.device)

    def begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what was measured before."""
        self._epoch.start()

    def read(self, batch: Any, trainer: Trainer, pl_module: LightningModule, loader: int = 0) -> None:
        """Add a batch.

        Raises:
            ValueError: If a score or map is not finite.
        """
        scores = raw_scores(batch)
        raw_maps(batch)
        if batch.pred_score is None:
            batch.pred_score = torch.from_numpy(scores).float().to(batch.anomaly_map.device)
        self._epoch.update(batch, trainer.test_dataloaders, loader)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the values."""
        self._epoch.log(pl_module)
