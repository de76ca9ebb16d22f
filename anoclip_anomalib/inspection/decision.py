"""What may be said about a photograph: a verdict where good images give a threshold, its rank where there are none."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from anoclip_anomalib.checks import did_you_mean

NATURAL_RULE = "natural threshold of the model: where it is undecided without any data; nothing promises few false alarms"
NO_VERDICTS = "No verdicts: nothing tells how high good ones score."
_VISIBLE = 0.001  # of the pixels; an outline around fewer would be a dot
_JUDGED = 1 << 18  # pixels are enough to tell the highest hundredth


@dataclass(frozen=True)
class GoodImage:
    """A good image: where it lies (``None`` if it is no file), and what it scores when it is left out."""

    path: str | None
    score: float


@dataclass(frozen=True)
class Decision:
    """From which score on a photograph is called a defect, and what is marked on it.

    There is one decision, that of the image score; everything else follows it. Nothing is outlined on a photograph that is
    called good. On one that is called a defect the pixels above the pixel threshold are, and if these are less than a
    thousandth its highest hundredth, which the image score comes from.

    Attributes:
        image_threshold: Scores above it are defects.
        pixel_threshold: Values of the heatmap above it are marked; ``None`` if nothing tells how high good pixels are.
        rule: In words, where the thresholds come from and what they promise.
        expected_false_alarm_rate: Share of good photographs that are called defects, at most; ``None`` if nobody knows.
        good: The good images.
    """

    image_threshold: float
    pixel_threshold: float | None
    rule: str
    expected_false_alarm_rate: float | None = None
    good: tuple[GoodImage, ...] = field(default=(), repr=False)

    def is_defect(self, score: float) -> bool:
        """The verdict."""
        return score > self.image_threshold

    def marked_above(self, score: float, heatmap: np.ndarray) -> float | None:
        """The value above which this photograph's pixels are marked.

        Args:
            score: Of the photograph.
            heatmap: (H, W).

        Returns:
            ``None`` if it is called good.
        """
        if not self.is_defect(score):
            return None
        if self.pixel_threshold is not None and (heatmap > self.pixel_threshold).mean() >= _VISIBLE:
            return self.pixel_threshold
        step = max(1, round((heatmap.size / _JUDGED) ** 0.5))
        highest = float(np.quantile(heatmap[::step, ::step], 0.99, method="lower"))
        return highest if highest < heatmap.max() else float(np.nextafter(heatmap.max(), -np.inf, dtype=heatmap.dtype))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "good": [asdict(image) for image in self.good]}


def check_threshold(threshold: Any) -> "str | float":
    """``"auto"``, ``"natural"`` or a finite number, from one of these or a text of it.

    Raises:
        ValueError: For anything else.
    """
    if threshold in ("auto", "natural"):
        return str(threshold)
    try:
        value = float(threshold)
    except (TypeError, ValueError):
        value = float("nan")
    if not np.isfinite(value) or isinstance(threshold, bool):
        hint = did_you_mean(str(threshold), ["auto", "natural"])
        raise ValueError(f"threshold={threshold!r} must be 'auto', 'natural' or a number{hint}")
    return value


def robust_z(scores: Sequence[float] | np.ndarray) -> np.ndarray:
    """How unusual each score is among all: its distance from their median in robust standard deviations.

    The unit is 1.4826 times the median absolute deviation, which a few defects do not move. Where more than half of the
    scores are equal it is 0, and the mean absolute deviation takes its place.

    Args:
        scores: (N,) finite.

    Returns:
        (N,); zeros if all scores are equal.
    """
    from scipy.stats import median_abs_deviation  # takes a second or two, which names and thresholds do without

    values = np.asarray(scores, dtype=np.float64)
    if not values.size:
        return values
    away = values - np.median(values)
    unit = float(median_abs_deviation(values, scale="normal")) or float(np.abs(away).mean()) * np.sqrt(np.pi / 2)
    return away / unit if unit > 0 else np.zeros_like(values)


def ranks(scores: Sequence[float] | np.ndarray) -> np.ndarray:
    """(N,) scores -> (N,) ranks from 1, the most unusual; equal scores share the better one."""
    from scipy.stats import rankdata

    return rankdata(-np.asarray(scores, dtype=np.float64), method="min").astype(int)
