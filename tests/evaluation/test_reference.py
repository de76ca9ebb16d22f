import numpy as np
import pytest

from anoclip_anomalib.evaluation.curves import UndefinedMetricError
from anoclip_anomalib.evaluation.reference import ScoreReference


@pytest.mark.parametrize("count", [30, 300_000])  # exact, and from the histogram
def test_moments_and_quantiles_equal_numpys(count):
    scores = 0.5 + 1e-5 * np.random.default_rng(0).normal(size=count).astype(np.float32).astype(np.float64)
    scores = scores.astype(np.float32)
    reference = ScoreReference()
    for part in np.array_split(scores, 9):
        reference.update(part)
    exact = scores.astype(np.float64)
    assert reference.mean == pytest.approx(exact.mean(), rel=1e-12)
    assert reference.std == pytest.approx(exact.std(), rel=1e-9)
    for q in (0, 0.25, 0.5, 0.99, 1):
        assert reference.quantile(q) == np.quantile(exact, q, method="inverted_cdf")


def test_empty_and_not_finite():
    reference = ScoreReference()
    reference.update(np.zeros((0, 3)))
    for ask in (lambda: reference.mean, lambda: reference.std, lambda: reference.quantile(0.5)):
        with pytest.raises(UndefinedMetricError, match="no normal images"):
            ask()
    with pytest.raises(ValueError, match="not finite"):
        reference.update(np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="quantile"):
        reference.quantile(1.5)


def test_a_quantile_of_the_histogram_is_the_score_that_reaches_the_share():
    """Twice 70,000 neighbouring float32 numbers: the lower half ends exactly at a score."""
    scores = (0.5 + np.arange(70_000) * 2.0**-24).repeat(2)
    reference = ScoreReference()
    reference.update(scores)
    assert reference.histogram.bins
    for q in (0.25, 0.5, 0.75):
        assert reference.quantile(q) == np.quantile(scores, q, method="inverted_cdf") == scores[int(q * 140_000) - 1]
