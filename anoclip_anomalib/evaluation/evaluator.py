"""An anomalib Evaluator whose pixel metrics read each map once."""

from collections.abc import Sequence
from functools import partialmethod
from typing import Any, TypeAlias

from anomalib.metrics import Evaluator
from anomalib.metrics.base import AnomalibMetric
from lightning.pytorch import LightningModule, Trainer

from anoclip_anomalib.evaluation.epoch_metrics import DistinctImages
from anoclip_anomalib.evaluation.metrics import PixelMetric, standard_metrics

Metrics: TypeAlias = Sequence[AnomalibMetric] | AnomalibMetric | None


class StreamingEvaluator(Evaluator):
    """Evaluator that lets pixel metrics with the same fields and resolution share one histogram.

    In several processes each image counts once, also where the sampler repeats some to make the numbers even.
    Metrics of other kinds (anomalib's own) may be mixed in; they work as ever.

    Args:
        val_metrics: Metrics of validation.
        test_metrics: Metrics of the test; ``None`` means :func:`standard_metrics`.
        compute_on_cpu: As in anomalib.
    """

    def __init__(self, val_metrics: Metrics = None, test_metrics: Metrics = None, compute_on_cpu: bool = True) -> None:
        test_metrics = standard_metrics() if test_metrics is None else test_metrics
        super().__init__(val_metrics=val_metrics, test_metrics=test_metrics, compute_on_cpu=compute_on_cpu)
        for metrics in (self.val_metrics, self.test_metrics):
            leaders: dict[tuple, PixelMetric] = {}
            for metric in metrics:
                if isinstance(metric, PixelMetric) and (leader := leaders.setdefault(metric.group, metric)) is not metric:
                    metric.share(leader)
        self._distinct = DistinctImages()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count images."""
        self._distinct = DistinctImages()

    on_test_epoch_start = on_validation_epoch_start

    def _batch_end(
        self, stage: str, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, number: int, loader: int = 0
    ) -> None:
        """Add a batch to the metrics of its stage."""
        loaders = trainer.val_dataloaders if stage == "validation" else trainer.test_dataloaders
        if (distinct := self._distinct.of(batch, loaders, loader)) is not None:
            getattr(super(), f"on_{stage}_batch_end")(trainer, pl_module, outputs, distinct, number, loader)

    on_validation_batch_end = partialmethod(_batch_end, "validation")
    on_test_batch_end = partialmethod(_batch_end, "test")
