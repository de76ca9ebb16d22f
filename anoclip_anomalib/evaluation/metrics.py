"""The metric suite as anomalib metrics: thin shells over ``curves`` and ``accumulator``.

They are used in an ``Evaluator``, from Python or YAML, with any anomalib model::

    evaluator:
      class_path: anoclip_anomalib.evaluation.StreamingEvaluator
      init_args:
        test_metrics:
          - class_path: anoclip_anomalib.evaluation.ImageAUROC
          - class_path: anoclip_anomalib.evaluation.AUPRO

A metric without a value (no masks, one class) is NaN and says why in ``reason``; it is never 0.
"""

import copy
import itertools
import logging
from types import SimpleNamespace
from typing import Any

import torch
from anomalib.metrics.base import AnomalibMetric
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from anoclip_anomalib.evaluation import curves
from anoclip_anomalib.evaluation.accumulator import PixelAccumulator, counts_from_rows
from anoclip_anomalib.evaluation.curves import ScoreCounts, UndefinedMetricError
from anoclip_anomalib.evaluation.registry import METRICS
from anoclip_anomalib.evaluation.resolution import map_mask_pairs

logger = logging.getLogger(__name__)
_NUMBERS = itertools.count()


class StreamingMetric(AnomalibMetric, Metric):
    """Base: reads anomalib batches, is NaN with a ``reason`` where undefined.

    Args:
        fields: Batch fields (score, ground truth); each metric has its defaults.
        prefix: Put before the metric's name, e.g. "raw_".
        strict: Accepted for anomalib's sake; a missing field never raises here, it makes the metric NaN.

    Attributes:
        entry: Its name in the table of metrics.
    """

    entry: str
    full_state_update = False
    higher_is_better = True

    def __init__(self, fields: list[str] | None = None, prefix: str = "", strict: bool = False, **kwargs: Any) -> None:
        super().__init__(fields=fields, prefix=prefix, strict=strict, **kwargs)
        self.reason: str | None = None
        self._missing: set[str] = set()

    def update(self, batch: Any) -> None:
        """Add a batch; batches without the needed fields are passed over and named in ``reason``."""
        missing = {field for field in self.fields if getattr(batch, field, None) is None}
        self._missing |= missing
        if not missing:
            self.update_batch(batch)

    def update_batch(self, batch: Any) -> None:
        """Add a batch that has all fields."""
        raise NotImplementedError

    def forward(self, batch: Any) -> torch.Tensor:
        """Add a batch, and return the value of this batch alone (of this process, unless ``dist_sync_on_step``).

        torchmetrics would reset the metric meanwhile and put back only what it knows as states.
        """
        alone = self.empty_copy()
        alone.update(batch)
        self.update(batch)
        self._forward_cache = alone.compute()
        return self._forward_cache

    def empty_copy(self) -> "StreamingMetric":
        """A metric with the same settings that has seen nothing and shares nothing."""
        alone = copy.deepcopy(self)
        alone.reset()
        alone._to_sync = self.dist_sync_on_step  # noqa: SLF001
        return alone

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        # torchmetrics calls it only where there are several processes, and puts the states back afterwards.
        self.prepare_exchange()
        super()._sync_dist(*args, **kwargs)

    def prepare_exchange(self) -> None:
        """Bring the states into the form that processes exchange: one tensor each, of one type, on the metric's device."""
        raise NotImplementedError

    def counts(self) -> ScoreCounts:
        """Counts per score of everything seen (by all processes, if synchronised)."""
        raise NotImplementedError

    def value(self, counts: ScoreCounts) -> float:
        """The metric's value, 0..1: the table's unless it takes arguments."""
        return METRICS[self.entry].compute(counts, float("nan"))

    def compute(self) -> torch.Tensor:
        """Scalar tensor, NaN with ``reason`` set where the metric is undefined."""
        self.reason = None
        try:
            value = self.value(self.counts())
        except UndefinedMetricError as error:
            value = float("nan")
            lacked = f" (batches lacked {', '.join(sorted(self._missing))})" if self._missing else ""
            self.reason = f"{error}{lacked}"
            logger.warning("%s is undefined: %s", self.name, self.reason)
        return torch.tensor(value, dtype=torch.float32)

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._missing = set()


class ImageMetric(StreamingMetric):
    """Base of image metrics: keeps every image's score (exact)."""

    default_fields = ("pred_score", "gt_label")
    scores: Any  # (B, 2) of score and label: a list of them, or one when they were gathered from several processes

    def __init__(self, fields: list[str] | None = None, **kwargs: Any) -> None:
        super().__init__(fields, **kwargs)
        self.add_state("scores", default=[], dist_reduce_fx="cat")

    def update_batch(self, batch: Any) -> None:
        """Add (B,) scores and labels."""
        score, label = (getattr(batch, field).detach().reshape(-1).cpu() for field in self.fields)
        self.scores.append(torch.stack([score.double(), (label > 0).double()], dim=1))

    def prepare_exchange(self) -> None:
        """One tensor, also where a process saw no image."""
        self.scores = [self._whole().to(self.device)]

    def counts(self) -> ScoreCounts:
        """Exact counts."""
        return curves.count_scores(*self._whole().numpy().T)

    def _whole(self) -> torch.Tensor:
        parts = [self.scores] if torch.is_tensor(self.scores) else self.scores
        return torch.cat([torch.empty(0, 2, dtype=torch.float64), *(part.cpu() for part in parts)])


class PixelMetric(StreamingMetric):
    """Base of pixel metrics: keeps a histogram (bounded memory, values within 1e-4 of exact ones).

    Args:
        fields: Map and mask field of the batch.
        resolution: "model" or "original", see :func:`anoclip_anomalib.evaluation.resolution.map_mask_pairs`.
        capacity: Number of histogram bins.
        **kwargs: See :class:`StreamingMetric`.
    """

    default_fields = ("anomaly_map", "gt_mask")

    def __init__(
        self, fields: list[str] | None = None, *, resolution: str = "model", capacity: int = 1 << 19, **kwargs: Any
    ) -> None:
        super().__init__(fields, **kwargs)
        if resolution not in ("model", "original"):
            raise ValueError(f'resolution="{resolution}" must be "model" or "original"')
        if resolution == "original" and tuple(self.fields) != PixelMetric.default_fields:
            raise ValueError(f"The original resolution reads {PixelMetric.default_fields}, not {self.fields}")
        self.resolution, self.capacity = resolution, capacity
        self.accumulator = PixelAccumulator(capacity)
        self.shares_accumulator = False  # another metric of the same evaluator fills it
        # A name of its own: MetricCollection takes metrics whose states look alike for one, and updates only the first of them.
        self._rows = f"rows_{next(_NUMBERS)}"
        self.add_state(self._rows, default=[], dist_reduce_fx="cat")

    def share(self, other: "PixelMetric") -> None:
        """Use the accumulator of another metric, which must be updated with the same batches."""
        self.accumulator = other.accumulator
        self.shares_accumulator = True

    @property
    def group(self) -> tuple:
        """Metrics with equal groups can share one accumulator."""
        return (*self.fields, self.resolution, self.capacity)

    def update_batch(self, batch: Any) -> None:
        """Add maps and masks."""
        if self.shares_accumulator:
            return
        if tuple(self.fields) != PixelMetric.default_fields:
            anomaly_map, gt_mask = (getattr(batch, field) for field in self.fields)
            batch = SimpleNamespace(anomaly_map=anomaly_map, gt_mask=gt_mask)
        for maps, masks in map_mask_pairs(batch, self.resolution):
            self.accumulator.update(maps, masks)

    def empty_copy(self) -> "PixelMetric":
        """A metric with the same settings and an accumulator of its own."""
        alone = super().empty_copy()
        alone.shares_accumulator = False
        return alone

    def prepare_exchange(self) -> None:
        """The rows of the histogram; those of several processes are concatenated."""
        setattr(self, self._rows, [torch.from_numpy(self.accumulator.rows()).to(self.device)])

    def counts(self) -> ScoreCounts:
        """Counts per histogram bin."""
        if not self._is_synced:
            return self.accumulator.counts()
        return counts_from_rows(dim_zero_cat(getattr(self, self._rows)).cpu().numpy())

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.accumulator.reset()


class ImageAUROC(ImageMetric):
    """Image AUROC, 0..1."""

    entry = "image_AUROC"


class ImageF1Max(ImageMetric):
    """Largest image F1 over all thresholds, 0..1."""

    entry = "image_F1Max"


class ImageAP(ImageMetric):
    """Image average precision, 0..1."""

    entry = "image_AP"


class PixelAUROC(PixelMetric):
    """Pixel AUROC, 0..1."""

    entry = "pixel_AUROC"


class PixelF1Max(PixelMetric):
    """Largest pixel F1 over all thresholds, 0..1."""

    entry = "pixel_F1Max"


class PixelAP(PixelMetric):
    """Pixel average precision, 0..1."""

    entry = "pixel_AP"


class AUPRO(PixelMetric):
    """Area under the PRO curve as in MVTec's evaluation code, 0..1.

    Args:
        fields: Map and mask field.
        fpr_limit: Integrate up to this false positive rate, then divide by it.
        **kwargs: See :class:`PixelMetric`.
    """

    def __init__(self, fields: list[str] | None = None, *, fpr_limit: float = 0.3, **kwargs: Any) -> None:
        super().__init__(fields, **kwargs)
        if not 0 < fpr_limit <= 1:
            raise ValueError(f"fpr_limit={fpr_limit} must lie in (0, 1]")
        self.fpr_limit = fpr_limit
        if fpr_limit != 0.3:
            self.name += f"_{fpr_limit:g}"

    def value(self, counts: ScoreCounts) -> float:
        """Area up to the limit, divided by it."""
        return curves.aupro(curves.threshold_curve(counts), self.fpr_limit)


class AUPRO_paper(PixelMetric):  # noqa: N801 - the name under which the field's two conventions are told apart
    """AUPRO of the zero-shot papers, 0..1: 200 thresholds, stretched axis. See :func:`curves.aupro_paper`."""

    entry = "AUPRO_paper"


class SegF1(PixelMetric):
    """Pixel F1, 0..1, at a threshold fixed beforehand (see ``thresholds`` for rules without labels).

    Args:
        threshold: Pixels above it are called anomalous.
        fields: Map and mask field.
        **kwargs: See :class:`PixelMetric`.
    """

    def __init__(self, threshold: float, fields: list[str] | None = None, **kwargs: Any) -> None:
        super().__init__(fields, **kwargs)
        self.threshold = threshold

    def value(self, counts: ScoreCounts) -> float:
        """F1 at the threshold."""
        return curves.f1_at(counts, self.threshold)


def standard_metrics(prefix: str = "", resolution: str = "model") -> list[AnomalibMetric]:
    """The field's seven (image AUROC, F1-max, AP; pixel AUROC, F1-max, AP; AUPRO) and AUPRO at 0.05 and AUPRO_paper.

    Args:
        prefix: Put before every name.
        resolution: "model" or "original".
    """
    image = [metric(prefix=prefix) for metric in (ImageAUROC, ImageF1Max, ImageAP)]
    pixel = [metric(prefix=prefix, resolution=resolution) for metric in (PixelAUROC, PixelF1Max, PixelAP, AUPRO)]
    pixel.append(AUPRO(prefix=prefix, resolution=resolution, fpr_limit=0.05))
    return [*image, *pixel, AUPRO_paper(prefix=prefix, resolution=resolution)]
