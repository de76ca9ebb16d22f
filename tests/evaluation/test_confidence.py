import math
import warnings

import numpy as np
import pytest
from scipy.stats import bootstrap, mannwhitneyu, norm

from anoclip_anomalib.evaluation.confidence import (
    bootstrap_auroc,
    bootstrap_mean,
    delong_covariance,
    holm,
    interval,
    pair_matrix,
    placements,
    two_sided_p,
)


def drawn(rng, anomalous=40, normal=60, shift=1.0, ties=False):
    """Scores and labels in mixed order."""
    scores = np.concatenate([rng.normal(shift, 1, anomalous), rng.normal(0, 1, normal)])
    labels = np.repeat([1, 0], [anomalous, normal])
    order = rng.permutation(len(scores))
    return (scores.round(0) if ties else scores)[order], labels[order]


@pytest.mark.parametrize("ties", [False, True])
def test_the_mean_of_pairs_and_of_placements_is_the_auroc(ties):
    scores, labels = drawn(np.random.default_rng(0), ties=ties)
    statistic = mannwhitneyu(scores[labels == 1], scores[labels == 0]).statistic
    pairs = pair_matrix(scores, labels)
    assert pairs.shape == (40, 60)
    assert pairs.mean() == pytest.approx(statistic / (40 * 60))
    np.testing.assert_allclose(placements(scores[labels == 1], scores[labels == 0]), pairs.mean(axis=1))


def test_images_without_a_label_are_passed_over():
    assert pair_matrix(np.array([0.1, 0.9, 0.5]), np.array([0, -1, 1])).tolist() == [[1.0]]
    assert pair_matrix(np.array([0.1, 0.9]), np.array([0, 0])).shape == (0, 2)


def test_a_bootstrap_of_the_mean_spreads_as_its_standard_error_and_as_scipys():
    values = np.random.default_rng(1).normal(size=(2, 50))
    samples = bootstrap_mean(values, 20000, np.random.default_rng(2))
    np.testing.assert_allclose(samples.mean(axis=0), values.mean(axis=1), atol=0.005)
    np.testing.assert_allclose(samples.std(axis=0), values.std(axis=1) / math.sqrt(50), rtol=0.03)
    theirs = bootstrap((values[0],), np.mean, n_resamples=20000, method="percentile", random_state=3).confidence_interval
    low, high = interval(samples)
    assert (low[0], high[0]) == pytest.approx((theirs.low, theirs.high), abs=0.01)
    # The same draws for both models: their sum's samples are the samples' sum.
    together = bootstrap_mean(values.sum(axis=0)[None], 20000, np.random.default_rng(2))
    np.testing.assert_allclose(together[:, 0], samples.sum(axis=1))


def test_a_bootstrap_of_the_auroc_is_scipys():
    scores, labels = drawn(np.random.default_rng(4))
    low, high = interval(bootstrap_auroc(pair_matrix(scores, labels)[None], 20000, np.random.default_rng(5)))
    theirs = bootstrap(
        (scores[labels == 1], scores[labels == 0]),
        lambda a, b, axis=-1: (a[..., :, None] > b[..., None, :]).mean(axis=(-1, -2)),
        n_resamples=4000, batch=200, method="percentile", random_state=6,
    ).confidence_interval  # fmt: skip
    assert (low[0], high[0]) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_a_resample_is_the_auroc_of_the_drawn_images():
    scores, labels = drawn(np.random.default_rng(7), 5, 4)
    samples = bootstrap_auroc(pair_matrix(scores, labels)[None], 3, np.random.default_rng(8))
    rng = np.random.default_rng(8)
    first, second = rng.multinomial(5, [1 / 5] * 5, size=3), rng.multinomial(4, [1 / 4] * 4, size=3)
    for sample, bad, good in zip(samples[:, 0], first, second, strict=True):
        a, b = np.repeat(scores[labels == 1], bad), np.repeat(scores[labels == 0], good)
        assert sample == pytest.approx((a[:, None] > b).mean())


def test_the_interval_holds_its_level():
    samples = np.arange(101.0)[:, None] * np.ones(2)
    assert np.stack(interval(samples)).tolist() == [pytest.approx([2.5, 2.5]), pytest.approx([97.5, 97.5])]
    low, high = interval(samples, 0.9)
    assert low.tolist() == pytest.approx([5, 5])
    assert high.tolist() == pytest.approx([95, 95])


def test_delongs_variance_of_binary_scores_is_the_binomial_one():
    """Every score is 0 or 1: the AUROC is (1 + p - q) / 2, of which the variance is known."""
    p, q, m, n = 0.7, 0.2, 50, 30
    bad, good = np.repeat([1, 0], [35, 15]), np.repeat([1, 0], [6, 24])
    pairs = pair_matrix(np.append(bad, good), np.repeat([1, 0], [m, n]))[None]
    assert pairs.mean() == pytest.approx((1 + p - q) / 2)
    expected = (p * (1 - p) / (m - 1) + q * (1 - q) / (n - 1)) / 4
    assert delong_covariance(pairs)[0, 0] == pytest.approx(expected)


def test_delongs_covariance_agrees_with_the_bootstrap_of_the_difference():
    rng = np.random.default_rng(9)
    scores, labels = drawn(rng)
    other = scores + rng.normal(0, 1, len(scores))
    pairs = np.stack([pair_matrix(one, labels) for one in (scores, other)])
    covariance = delong_covariance(pairs)
    samples = bootstrap_auroc(pairs, 20000, np.random.default_rng(10))
    np.testing.assert_allclose(covariance, np.cov(samples.T), rtol=0.15)
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert variance == pytest.approx((samples[:, 0] - samples[:, 1]).var(), rel=0.1)


def test_equal_models_are_called_different_as_often_as_promised():
    rng, found = np.random.default_rng(11), []
    for _ in range(400):
        scores, labels = drawn(rng)
        noise = rng.normal(size=(2, len(scores)))
        pairs = np.stack([pair_matrix(scores + one, labels) for one in noise])
        c = delong_covariance(pairs)
        found.append(two_sided_p(pairs[0].mean() - pairs[1].mean(), c[0, 0] + c[1, 1] - 2 * c[0, 1]) < 0.05)
    assert 0.02 < np.mean(found) < 0.08


def test_p_values():
    assert two_sided_p(1.96, 1.0) == pytest.approx(0.05, abs=1e-4)
    assert two_sided_p(-0.2, 0.01) == pytest.approx(2 * norm.cdf(-2))
    assert two_sided_p(0.0, 0.0) == 1
    assert two_sided_p(0.1, 0.0) == 0
    assert math.isnan(two_sided_p(0.1, float("nan")))
    assert math.isnan(two_sided_p(0.0, float("nan")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for shape in ((2, 1, 5), (2, 5, 1)):
            assert np.isnan(delong_covariance(np.ones(shape))).all()


def test_holms_correction():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.5]) == [1.0, 1.0]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    corrected = holm([0.02, float("nan"), 0.04])
    assert corrected[0] == pytest.approx(0.04)
    assert corrected[2] == pytest.approx(0.04)
    assert math.isnan(corrected[1])
