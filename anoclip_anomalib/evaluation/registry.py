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
        hub_type: What kind of metric it is to the Hugging Face Hub.
        words: As a line of text names it that stands by itself.
    """

    title: str
    level: Literal["image", "pixel"]
    compute: Callable[[ScoreCounts, float], float]
    hub_type: str
    words: str


def _of_curve(read: Callable[[Curve], float]) -> Callable[[ScoreCounts, float], float]:
    return lambda counts, threshold: read(counts.curve)


_AUROC, _AP = _of_curve(curves.auroc), _of_curve(curves.average_precision)
_F1MAX = _of_curve(lambda curve: curves.f1_max(curve)[0])
_PRO, _PRO_05 = _of_curve(curves.aupro), _of_curve(lambda curve: curves.aupro(curve, 0.05))
_PAPER = "AUPRO (200 thresholds, rescaled, as zero-shot papers print it)"

METRICS = {
    "image_AUROC": Metric("Image AUROC", "image", _AUROC, "roc_auc", "image AUROC"),
    "image_F1Max": Metric("Image F1-max", "image", _F1MAX, "f1", "image F1-max"),
    "image_AP": Metric("Image AP", "image", _AP, "average_precision", "image AP"),
    "image_F1": Metric("Image F1 at threshold", "image", curves.f1_at, "f1", "image F1 at a label-free threshold"),
    "pixel_AUROC": Metric("Pixel AUROC", "pixel", _AUROC, "roc_auc", "pixel AUROC"),
    "pixel_F1Max": Metric("Pixel F1-max", "pixel", _F1MAX, "f1", "pixel F1-max"),
    "pixel_AP": Metric("Pixel AP", "pixel", _AP, "average_precision", "pixel AP"),
    "AUPRO": Metric("AUPRO (0.3)", "pixel", _PRO, "au_pro", "AUPRO (FPR up to 0.3)"),
    "AUPRO_0.05": Metric("AUPRO at 0.05", "pixel", _PRO_05, "au_pro", "AUPRO (FPR up to 0.05)"),
    "AUPRO_paper": Metric("AUPRO_paper", "pixel", lambda counts, threshold: curves.aupro_paper(counts), "au_pro", _PAPER),
    "SegF1": Metric("SegF1 at threshold", "pixel", curves.f1_at, "f1", "SegF1 at a label-free threshold"),
}
