"""Threshold curves and the numbers drawn from them. Pure functions on sorted counts.

A ``ScoreCounts`` holds, for each distinct score in ascending order, how many normal and anomalous elements have it. For
images these are images, for maps pixels; pixels of anomalous regions also carry ``overlap``, 1 / (area of their region).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.integrate import trapezoid

_PAPER_STEPS = 200  # thresholds of the zero-shot papers' AUPRO


class UndefinedMetricError(ValueError):
    """A metric has no value on this data; the message says why."""


@dataclass(frozen=True)
class ScoreCounts:
    """Counts per distinct score, ascending.

    Attributes:
        score: (K,) ascending scores.
        normal: (K,) normal elements with that score.
        anomalous: (K,) anomalous elements with that score.
        overlap: (K,) sum over anomalous pixels of 1 / region area; ``None`` for images.
        regions: Number of anomalous regions (0 for images).
        minimum, maximum: Exact extremes of the scores.
    """

    score: np.ndarray
    normal: np.ndarray
    anomalous: np.ndarray
    overlap: np.ndarray | None
    regions: float
    minimum: float
    maximum: float

    @cached_property
    def curve(self) -> "Curve":
        """:func:`threshold_curve` of these counts, computed once for all metrics that read it."""
        return threshold_curve(self)


@dataclass(frozen=True)
class Curve:
    """Rates when everything with a score of at least ``threshold`` is called anomalous; thresholds descend.

    Attributes:
        threshold: (K,) descending.
        tp, fp: (K,) numbers of true and false alarms.
        positives, negatives: Totals.
        overlap: (K,) mean overlap of the anomalous regions (PRO), or ``None``.
    """

    threshold: np.ndarray
    tp: np.ndarray
    fp: np.ndarray
    positives: float
    negatives: float
    overlap: np.ndarray | None


def count_scores(scores: np.ndarray, labels: np.ndarray) -> ScoreCounts:
    """Exact counts of (N,) finite scores with (N,) labels (0 normal, 1 anomalous).

    Raises:
        ValueError: If a score is not finite.
        UndefinedMetricError: If there is no score at all.
    """
    scores, labels = np.asarray(scores, dtype=np.float64).reshape(-1), np.asarray(labels).reshape(-1).astype(bool)
    if not len(scores):
        raise UndefinedMetricError("no scores")
    if not np.isfinite(scores).all():
        raise ValueError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite")
    values, index = np.unique(scores, return_inverse=True)
    anomalous = np.bincount(index, weights=labels, minlength=len(values))
    total = np.bincount(index, minlength=len(values))
    return ScoreCounts(values, total - anomalous, anomalous, None, 0, float(values[0]), float(values[-1]))


def threshold_curve(counts: ScoreCounts) -> Curve:
    """Cumulate counts from the highest score down.

    Raises:
        UndefinedMetricError: If one of the two classes is missing.
    """
    tp, fp = np.cumsum(counts.anomalous[::-1]), np.cumsum(counts.normal[::-1])
    if not len(tp) or tp[-1] + fp[-1] == 0:
        raise UndefinedMetricError("no scores")
    for total, name in ((tp[-1], "anomalous"), (fp[-1], "normal")):
        if total == 0:
            raise UndefinedMetricError(f"no {name} elements: only one class")
    overlap = None
    if counts.overlap is not None and counts.regions:
        overlap = np.minimum(np.cumsum(counts.overlap[::-1]) / counts.regions, 1.0)
    return Curve(counts.score[::-1], tp, fp, float(tp[-1]), float(fp[-1]), overlap)


def roc(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rate from (0, 0) to (1, 1), each (K + 1,)."""
    return np.append(0.0, curve.fp / curve.negatives), np.append(0.0, curve.tp / curve.positives)


def auroc(curve: Curve) -> float:
    """Area under the ROC curve, 0..1."""
    fpr, tpr = roc(curve)
    return float(trapezoid(tpr, fpr))


def precision_recall(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Recall, ascending to 1, and precision, each (K,): one point for each threshold."""
    return curve.tp / curve.positives, curve.tp / (curve.tp + curve.fp)


def average_precision(curve: Curve) -> float:
    """Average precision, 0..1: sum of precision times gain in recall (scikit-learn's, no interpolation)."""
    precision = curve.tp / (curve.tp + curve.fp)
    # Counts are subtracted before they are divided: gains of recalls would not add up to 1 in the last digit.
    gain = np.diff(np.append(0.0, curve.tp)) / curve.positives
    return float((precision * gain).sum())


def f1_max(curve: Curve) -> tuple[float, float]:
    """Largest F1 over all thresholds, 0..1, and a threshold that reaches it (score >= threshold)."""
    f1 = 2 * curve.tp / (curve.tp + curve.fp + curve.positives)
    best = int(np.argmax(f1))
    return float(f1[best]), float(curve.threshold[best])


def f1_at(counts: ScoreCounts, threshold: float) -> float:
    """F1, 0..1, of calling anomalous what scores more than ``threshold`` (SegF1 on pixels).

    Raises:
        UndefinedMetricError: If nothing is anomalous, or the threshold is not a number.
    """
    if not np.isfinite(threshold):
        raise UndefinedMetricError("no threshold")
    positives = float(counts.anomalous.sum())
    if positives == 0:
        raise UndefinedMetricError("no anomalous elements: only one class")
    above = counts.score > threshold
    tp, fp = float(counts.anomalous[above].sum()), float(counts.normal[above].sum())
    return 2 * tp / (tp + fp + positives)


def pro_curve(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """False positive rate and mean region overlap from (0, 0) on, each (K + 1,).

    Raises:
        UndefinedMetricError: If there are no anomalous regions.
    """
    if curve.overlap is None:
        raise UndefinedMetricError("no anomalous regions")
    return np.append(0.0, curve.fp / curve.negatives), np.append(0.0, curve.overlap)


def aupro(curve: Curve, fpr_limit: float = 0.3) -> float:
    """Area under the PRO curve up to ``fpr_limit``, divided by it (MVTec's evaluation code), 0..1.

    The curve is interpolated linearly at the limit.

    Raises:
        ValueError: If the limit is not in (0, 1].
        UndefinedMetricError: If there are no anomalous regions.
    """
    if not 0 < fpr_limit <= 1:
        raise ValueError(f"fpr_limit={fpr_limit} must lie in (0, 1]")
    fpr, overlap = pro_curve(curve)
    last = int(np.flatnonzero(fpr <= fpr_limit)[-1])
    x, y = fpr[: last + 1], overlap[: last + 1]
    if x[-1] < fpr_limit and last + 1 < len(fpr):
        part = (fpr_limit - fpr[last]) / (fpr[last + 1] - fpr[last])
        x = np.append(x, fpr_limit)
        y = np.append(y, overlap[last] + part * (overlap[last + 1] - overlap[last]))
    return float(trapezoid(y, x) / fpr_limit)


def aupro_paper(counts: ScoreCounts, fpr_limit: float = 0.3) -> float:
    """AUPRO as the zero-shot papers print it, 0..1.

    200 thresholds evenly from the smallest to below the largest score of all maps; points with a false positive
    rate below ``fpr_limit`` are kept; their false positive rates are stretched to 0..1; then the trapezoid rule. Because
    of the coarse thresholds and the stretched axis this is not comparable with :func:`aupro`.

    Raises:
        UndefinedMetricError: If there are no anomalous regions, or the kept points span no range.
    """
    curve = counts.curve
    if curve.overlap is None or counts.overlap is None:
        raise UndefinedMetricError("no anomalous regions")
    if counts.maximum <= counts.minimum:
        raise UndefinedMetricError("all scores are equal")
    step = (counts.maximum - counts.minimum) / _PAPER_STEPS
    thresholds = counts.minimum + step * np.arange(_PAPER_STEPS)
    # Elements above a threshold: cumulated counts from the first score that is larger.
    first = np.searchsorted(counts.score, thresholds, side="right")
    fpr = np.append(np.cumsum(counts.normal[::-1])[::-1], 0.0)[first] / curve.negatives
    overlap = np.append(np.cumsum(counts.overlap[::-1])[::-1], 0.0)[first] / counts.regions
    kept = fpr < fpr_limit
    if kept.sum() < 2 or fpr[kept].max() == fpr[kept].min():
        raise UndefinedMetricError(f"fewer than two of the {_PAPER_STEPS} thresholds have different rates below {fpr_limit}")
    x, y = fpr[kept][::-1], overlap[kept][::-1]
    x = (x - x.min()) / (x.max() - x.min())
    return float(trapezoid(y, x))


def downsample(x: np.ndarray, y: np.ndarray, points: int = 200) -> tuple[list[float], list[float]]:
    """Keep at most ``points`` points of a curve for drawing, first and last included, evenly along its length."""
    if len(x) <= points:
        return x.tolist(), y.tolist()
    length: np.ndarray = np.append(0.0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    kept = np.unique(np.searchsorted(length, np.linspace(0, length[-1], points)).clip(0, len(x) - 1))
    kept = np.union1d(kept, [0, len(x) - 1])
    return x[kept].tolist(), y[kept].tolist()
