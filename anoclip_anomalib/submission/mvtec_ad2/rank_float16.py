"""Float32 anomaly scores as float16 that keep their ranks.

CLIP's probabilities all lie within about 0.01 of 0.5, where float16 has a spacing of 0.0005: a plain cast leaves some twenty
values. Leaderboards read ranks (AU-PRO, AUROC, F1 over thresholds), so any strictly increasing map of the scores is allowed, as
long as it is the same for all images of an object.

Non-negative finite float16 values are ordered like their bit patterns, and 0.0 to 1.0 are the 15361 patterns 0x0000 to 0x3C00.
A ``RankMap`` is the list of 15360 scores at which the written value moves on to the next pattern. Half of the patterns
are shared out evenly over the range of scores, half by how many pixels lie there: the first half keeps the rare high
scores apart, on which the metrics hang, the second half the crowded ones.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FLOAT16_ONE = 0x3C00
"""Bit pattern of float16 1.0: the number of steps between 0.0 and 1.0."""


def image_quantiles(scores: NDArray[np.float32], count: int = 257) -> NDArray[np.float64]:
    """Evenly spaced quantiles of one map, the smallest and the largest score included.

    Args:
        scores: Map of any shape; finite.
        count: Number of quantiles.

    Returns:
        (count,) in increasing order.

    Raises:
        ValueError: If a score is not finite.
    """
    if not np.isfinite(scores).all():
        raise ValueError("The anomaly map holds NaN or infinite values")
    return np.quantile(np.asarray(scores, dtype=np.float64), np.linspace(0.0, 1.0, count))


@dataclass(frozen=True)
class RankMap:
    """A non-decreasing map of float32 scores to float16 values in [0, 1].

    Attributes:
        edges: (15360,) float32, sorted. A score with ``k`` edges at or below it is written as the float16 of bit pattern ``k``.
    """

    edges: NDArray[np.float32]

    @property
    def score_range(self) -> tuple[float, float]:
        """The scores between which values change."""
        return float(self.edges[0]), float(self.edges[-1])

    def __call__(self, scores: NDArray[np.float32]) -> NDArray[np.float16]:
        """Map scores of any shape to float16 values in [0, 1]; equal scores stay equal, higher ones never become lower.

        Raises:
            ValueError: If a score is not finite.
        """
        scores = np.asarray(scores, dtype=np.float32)
        if not np.isfinite(scores).all():
            raise ValueError("The anomaly map holds NaN or infinite values")
        return np.searchsorted(self.edges, scores, side="right").astype(np.uint16).view(np.float16)


def fit_rank_map(quantiles: NDArray[np.float64], *, linear_share: float = 0.5) -> RankMap:
    """Share out the float16 values over the scores of all images of an object.

    Args:
        quantiles: (N, Q), for each of N images its evenly spaced quantiles from ``image_quantiles``.
        linear_share: Share of the values that is spread evenly over the range; the rest follows the distribution of the pixels.

    Returns:
        The map; the smallest score becomes 0.0 or one step above it, the largest one 1.0.

    Raises:
        ValueError: If there is no image, or all scores are equal: there are no ranks to keep.
    """
    if not 0.0 < linear_share <= 1.0:
        raise ValueError(f"linear_share={linear_share} must be above 0 and at most 1")
    if quantiles.size == 0:
        raise ValueError("No scores to fit the float16 range on")
    low, high = float(quantiles.min()), float(quantiles.max())
    if not high > low:
        raise ValueError(f"All scores are equal ({low}): the maps carry no information")
    # Pooling the quantiles weighs every image alike, whatever its size.
    knots = np.unique(np.concatenate([np.quantile(quantiles, np.linspace(0.0, 1.0, 2049)), np.linspace(low, high, 513)]))
    ordered = np.sort(quantiles, axis=None)
    below = np.searchsorted(ordered, knots, side="left") + np.searchsorted(ordered, knots, side="right")
    distribution = below / (2.0 * ordered.size)
    position = (1.0 - linear_share) * distribution + linear_share * (knots - low) / (high - low)
    position = (position - position[0]) / (position[-1] - position[0])
    steps = (np.arange(FLOAT16_ONE) + 0.5) / FLOAT16_ONE
    return RankMap(np.maximum.accumulate(np.interp(steps, position, knots).astype(np.float32)))


def kendall_tau(scores: NDArray[np.float32], values: NDArray[np.float16]) -> float:
    """Kendall's tau-b between a map's scores and the values they were mapped to by a ``RankMap``.

    No pair is ever swapped by such a map, so tau-b follows from the numbers of tied pairs alone:
    sqrt((all - tied values) / (all - tied scores)). nan when all scores are equal.
    """
    scores_tied = _tied_pairs(np.unique(scores, return_counts=True)[1])
    values_tied = _tied_pairs(np.bincount(np.ascontiguousarray(values).view(np.uint16).ravel()))
    pairs = scores.size * (scores.size - 1) / 2
    return float(np.sqrt((pairs - values_tied) / (pairs - scores_tied))) if pairs > scores_tied else float("nan")


def kendall_tau_at_least(values: NDArray[np.float16]) -> float:
    """A lower bound of ``kendall_tau`` from the written values alone, without sorting the scores."""
    values_tied = _tied_pairs(np.bincount(np.ascontiguousarray(values).view(np.uint16).ravel()))
    pairs = values.size * (values.size - 1) / 2
    return float(np.sqrt(max(0.0, 1.0 - values_tied / pairs))) if pairs else float("nan")


def _tied_pairs(counts: NDArray[np.int64]) -> float:
    counts = counts.astype(np.float64)
    return float((counts * (counts - 1) / 2).sum())
