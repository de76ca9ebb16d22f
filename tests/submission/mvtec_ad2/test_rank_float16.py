import numpy as np
import pytest
from scipy.stats import kendalltau

from anoclip_anomalib.submission.mvtec_ad2.rank_float16 import (
    fit_rank_map,
    image_quantiles,
    kendall_tau,
    kendall_tau_at_least,
)


def fit(maps, **kwargs):
    return fit_rank_map(np.stack([image_quantiles(m) for m in maps]), **kwargs)


def maps_near_half(seed=0, images=12, size=(64, 48)):
    """Maps like CLIP's probabilities: within 0.01 of 0.5, each image with its own level and spread."""
    random = np.random.default_rng(seed)
    maps = []
    for _ in range(images):
        scores = 0.5 + random.normal(0, 0.002) + random.uniform(0.0003, 0.002) * random.standard_normal(size)
        maps.append(np.clip(scores, 0.49, 0.51).astype(np.float32))
    return maps


def test_ranks_near_one_half_are_kept():
    maps = maps_near_half()
    rank_map = fit(maps)
    for scores in maps:
        values = rank_map(scores)
        assert values.dtype == np.float16
        assert np.isfinite(values).all()
        tau = kendalltau(scores.ravel(), values.astype(np.float64).ravel()).statistic
        assert tau >= 0.999
        # A plain cast is what the map is there to avoid.
        assert kendalltau(scores.ravel(), scores.astype(np.float16).astype(np.float64).ravel()).statistic < 0.999


def test_one_wild_image_does_not_cost_the_others_their_ranks():
    maps = [*maps_near_half(1), np.linspace(0.5, 1000.0, 3072, dtype=np.float32).reshape(64, 48)]
    rank_map = fit(maps)
    assert min(kendall_tau(scores, rank_map(scores)) for scores in maps) >= 0.999


def test_flat_background_with_a_small_defect_keeps_both():
    random = np.random.default_rng(2)
    scores = (0.5 + 1e-5 * random.standard_normal((100, 100))).astype(np.float32)
    scores[40:44, 40:44] += np.float32(0.3) + np.linspace(0, 0.01, 16, dtype=np.float32).reshape(4, 4)
    values = fit([scores])(scores)
    assert kendall_tau(scores, values) >= 0.999
    assert len(np.unique(values[40:44, 40:44])) == 16


@pytest.mark.parametrize("seed", range(5))
def test_never_swaps_a_pair_and_uses_the_range_well(seed):
    random = np.random.default_rng(seed)
    maps = [random.standard_cauchy((50, 50)).astype(np.float32) for _ in range(3)]
    rank_map = fit(maps)
    scores = np.sort(np.concatenate([m.ravel() for m in maps]))
    values = rank_map(scores).astype(np.float64)
    assert (np.diff(values) >= 0).all()
    assert values[0] < 0.001
    assert values[-1] == 1.0
    assert len(np.unique(values)) > 2000


def test_same_function_for_scores_of_different_images():
    maps = maps_near_half(3)
    rank_map = fit(maps)
    together = rank_map(np.stack(maps))
    for scores, values in zip(maps, together, strict=True):
        np.testing.assert_array_equal(rank_map(scores), values)


def test_tau_formula_equals_scipy_and_its_bound_is_below():
    random = np.random.default_rng(4)
    scores = np.round(random.standard_normal((40, 40)), 2).astype(np.float32)  # with ties
    values = fit([scores])(scores)
    expected = kendalltau(scores.ravel(), values.astype(np.float64).ravel()).statistic
    assert kendall_tau(scores, values) == pytest.approx(expected, abs=1e-12)
    assert kendall_tau_at_least(values) <= expected + 1e-12


def test_scores_beyond_the_fitted_range_stay_at_its_ends():
    rank_map = fit([np.linspace(0, 1, 100, dtype=np.float32)])
    values = rank_map(np.array([-5.0, 5.0], dtype=np.float32))
    assert values.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    scores = np.array([0.1, bad, 0.3], dtype=np.float32)
    with pytest.raises(ValueError, match="NaN or infinite"):
        image_quantiles(scores)
    with pytest.raises(ValueError, match="NaN or infinite"):
        fit([np.linspace(0, 1, 9, dtype=np.float32)])(scores)


def test_constant_scores_are_refused():
    with pytest.raises(ValueError, match="All scores are equal"):
        fit([np.full((4, 4), 0.5, dtype=np.float32)])
    with pytest.raises(ValueError, match="linear_share"):
        fit(maps_near_half(), linear_share=0.0)


def test_a_score_at_an_edge_is_above_it():
    rank_map = fit(maps_near_half())
    values = rank_map(np.array([np.nextafter(rank_map.edges[99], -1, dtype=np.float32), rank_map.edges[99]]))
    steps = values.view(np.uint16)
    assert steps[0] == np.sum(rank_map.edges < rank_map.edges[99])
    assert steps[1] == np.sum(rank_map.edges <= rank_map.edges[99])
    assert steps[1] > steps[0]


def test_ties_stand_in_the_middle_of_their_ranks():
    """Half of the pixels share a score, and get neither its lowest nor its highest rank: turning the order turns the values."""
    scores = np.repeat(np.array([-2, -1, 0, 1, 2], np.float32), [10, 10, 200, 10, 10])
    steps = fit([scores], linear_share=0.01)(scores).view(np.uint16).astype(int)
    turned = fit([-scores], linear_share=0.01)(-scores).view(np.uint16).astype(int)
    np.testing.assert_allclose(steps + turned, 0x3C00, atol=2)
    assert abs(steps[120] - 0x3C00 / 2) <= 2


def test_quantiles_and_knots_are_as_fine_as_stated():
    """257 quantiles an image, 2049 of all of them and 513 evenly over the range: more than 256 levels are told apart."""
    scores = np.arange(100_000, dtype=np.float32).reshape(250, 400)
    np.testing.assert_allclose(image_quantiles(scores), np.linspace(0, 99_999, 257))
    # Half of the pixels in the lowest hundredth: the even half of the values must still be even, to a 512th of the range.
    crowded = np.concatenate([np.linspace(0, 0.01, 5000), np.linspace(0.01, 1, 5000)]).astype(np.float32)
    edges = fit([crowded], linear_share=1.0).edges
    np.testing.assert_allclose(edges, (np.arange(0x3C00) + 0.5) / 0x3C00, atol=1e-6)


def test_half_of_the_values_are_spread_evenly_and_half_by_the_pixels():
    """All but 1 % of the pixels lie below 0.01 of the range: half of the values and a hundredth of the others are there."""
    crowded = np.append(np.linspace(0, 0.01, 9900), np.linspace(0.01, 1, 100)).astype(np.float32)
    (step,) = fit([crowded])(np.array([0.01], np.float32)).view(np.uint16)
    assert step / 0x3C00 == pytest.approx(0.5 * 0.99 + 0.5 * 0.01, abs=0.01)
    edges = fit([crowded], linear_share=1.0).edges
    assert len(edges) == 0x3C00
    assert (edges[0], edges[-1]) == pytest.approx((0.5 / 0x3C00, 1 - 0.5 / 0x3C00), abs=1e-6)  # in the middle of a step


def test_tau_of_equal_scores_is_undefined_and_its_bound_is_never_below_zero():
    assert np.isnan(kendall_tau(np.ones(5, np.float32), np.ones(5, np.float16)))
    assert np.isnan(kendall_tau_at_least(np.ones(1, np.float16)))
    assert kendall_tau_at_least(np.ones(5, np.float16)) == 0.0
    assert kendall_tau_at_least(np.arange(5, dtype=np.float16)) == 1.0
    assert kendall_tau_at_least(np.array([1, 1, 2], np.float16)) == pytest.approx((2 / 3) ** 0.5)
