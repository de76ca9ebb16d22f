"""Statistics of normal images' scores: what a threshold without labels is made of. Bounded memory."""

import numpy as np

from anoclip_anomalib.evaluation.curves import UndefinedMetricError
from anoclip_anomalib.evaluation.histogram import ScoreHistogram


class ScoreReference:
    """Mean, standard deviation and quantiles of scores that arrive in pieces.

    Quantiles are exact for up to ``capacity`` scores, and of a histogram beyond that.

    Args:
        capacity: Scores kept as they are, and then histogram bins, see :class:`ScoreHistogram`.
    """

    def __init__(self, capacity: int = 1 << 17) -> None:
        self.histogram = ScoreHistogram(channels=1, capacity=capacity)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.histogram.reset()
        self._kept: list[np.ndarray] = []
        self.count = 0
        self._mean = 0.0
        self._squares = 0.0  # sum of squared deviations from the mean

    def update(self, scores: np.ndarray) -> None:
        """Add finite scores of any shape (Chan's parallel update, so that 0.5 +- 1e-6 loses no digits)."""
        scores = np.asarray(scores, dtype=np.float64).reshape(-1)
        if not len(scores):
            return
        if not np.isfinite(scores).all():
            raise ValueError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite")
        self._kept.append(scores)
        if self.count + len(scores) > self.histogram.capacity:
            self.histogram.update(np.concatenate(self._kept))
            self._kept = []
        mean, total = float(scores.mean()), self.count + len(scores)
        gap = mean - self._mean
        self._squares += float(((scores - mean) ** 2).sum()) + gap**2 * self.count * len(scores) / total
        self._mean += gap * len(scores) / total
        self.count = total

    @property
    def mean(self) -> float:
        """Mean of the scores."""
        self._require()
        return self._mean

    @property
    def std(self) -> float:
        """Standard deviation of the scores (divided by N, as numpy's default)."""
        self._require()
        return float(np.sqrt(self._squares / self.count))

    def quantile(self, q: float) -> float:
        """Smallest score that at least the share ``q`` of the scores does not exceed."""
        if not 0 <= q <= 1:
            raise ValueError(f"A quantile must lie in [0, 1], got {q}")
        self._require()
        if self._kept and not self.histogram.bins:
            return float(np.quantile(np.concatenate(self._kept), q, method="inverted_cdf"))
        for scores in self._kept:
            self.histogram.update(scores)
        self._kept = []
        rows = self.histogram.rows()
        place = int(np.searchsorted(np.cumsum(rows[:, 1]) / self.count, q - 1e-12))
        return float(rows[min(place, len(rows) - 1), 0])

    def _require(self) -> None:
        if not self.count:
            raise UndefinedMetricError("no normal images to take a threshold from")
