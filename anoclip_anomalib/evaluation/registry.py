"""The table of metrics by name: what rows hold, tables show and quoted figures may be called."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from anoclip_anomalib.evaluation import curves
from anoclip_anomalib.evaluation.curves import Curve, ScoreCounts


@dataclass(frozen=True)
class Metric:
    """A metric of a finished test, 0..1, the higher the better.

    Attributes:
        title: As it heads a column.
        level: Whether it is of image scores or of pixels.
        compute: Its value from counts of scores and a threshold; raises UndefinedMetricError where it has none.
    """

    title: str
    level: Literal["image", "pixel"]
    compute: Callable[[ScoreCounts, float], float]


def _of_curve(read: Callable[[Curve], float]) -> Callable[[ScoreCounts, float], float]:
    return lambda counts, threshold: read(counts.curve)


METRICS = {
    "image_AUROC": Metric("Image AUROC", "image", _of_curve(curves.auroc)),
    "image_F1Max": Metric("Image F1-max", "image", _of_curve(lambda curve: curves.f1_max(curve)[0])),
    "image_AP": Metric("Image AP", "image", _of_curve(curves.average_precision)),
    "image_F1": Metric("Image F1 at threshold", "image", curves.f1_at),
    "pixel_AUROC": Metric("Pixel AUROC", "pixel", _of_curve(curves.auroc)),
    "pixel_F1Max": Metric("Pixel F1-max", "pixel", _of_curve(lambda curve: curves.f1_max(curve)[0])),
    "pixel_AP": Metric("Pixel AP", "pixel", _of_curve(curves.average_precision)),
    "AUPRO": Metric("AUPRO (0.3)", "pixel", _of_curve(curves.aupro)),
    "AUPRO_0.05": Metric("AUPRO at 0.05", "pixel", _of_curve(lambda curve: curves.aupro(curve, 0.05))),
    "AUPRO_paper": Metric("AUPRO_paper", "pixel", lambda counts, threshold: curves.aupro_paper(counts)),
    "SegF1": Metric("SegF1 at threshold", "pixel", curves.f1_at),
}
