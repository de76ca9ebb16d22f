import numpy as np
import pytest

from anoclip_anomalib.evaluation.histogram import ScoreHistogram, float_to_key, key_to_float, plan_bits


def test_keys_keep_order_and_invert():
    tiny = np.float32(1e-45)
    values = np.array([-np.inf, -3e38, -1.5, -1e-30, -tiny, 0.0, tiny, 1e-30, 0.49999997, 0.5, 1.5, 3e38, np.inf], "f4")
    keys = float_to_key(values)
    assert (np.diff(keys.astype(np.int64)) > 0).all()
    np.testing.assert_array_equal(key_to_float(keys), values)
    assert float_to_key(np.float32([-0.0])) == float_to_key(np.float32([0.0]))


@pytest.mark.parametrize("cells", [1, 7, 8, 100, 65536])
def test_plan_stays_within_capacity_and_favours_mass(cells):
    mass = np.random.default_rng(0).pareto(0.5, cells)
    bits, limit = plan_bits(mass, 1 << 19)
    assert np.left_shift(1, bits).sum() <= 1 << 19
    assert (np.diff(bits[np.argsort(mass)]) >= 0).all()
    assert ((mass / np.left_shift(1, bits) <= limit) | (bits == 16)).all()


def test_a_bin_holds_a_quarter_of_its_even_share_where_there_is_room():
    mass = np.append(0.97, np.full(99, 0.03 / 99))
    bits, limit = plan_bits(mass, 1 << 17)
    assert limit == pytest.approx(1 / (4 << 17))
    assert bits.tolist() == [16] + [8] * 99


def test_the_extremes_are_those_of_all_scores():
    histogram = ScoreHistogram()
    for values in ([0.5, 0.7], [0.1, 0.6], [0.2, 0.9], [0.3, 0.4]):
        histogram.update(np.array(values, np.float32))
    assert (histogram.minimum, histogram.maximum) == (np.float32(0.1), np.float32(0.9))
    histogram.reset()
    assert (histogram.minimum, histogram.maximum) == (np.inf, -np.inf)


def test_bins_are_exact_when_scores_share_few_cells():
    values = (0.5 + np.random.default_rng(0).normal(scale=0.002, size=50_000)).astype(np.float32)
    histogram = ScoreHistogram()
    for part in np.array_split(values, 7):
        histogram.update(part)
    expected, counts = np.unique(values, return_counts=True)
    np.testing.assert_array_equal(histogram.rows(), np.column_stack([expected, counts]))


def test_memory_does_not_grow_with_scores_and_no_count_is_lost():
    rng = np.random.default_rng(0)
    histogram = ScoreHistogram(channels=2, capacity=1 << 17)
    total = weight = 0.0
    for step in range(30):
        values = np.exp(rng.normal(scale=3 + step / 3, size=20_000)) * rng.choice([-1, 1], 20_000)
        index, weights = np.flatnonzero(values > 1), rng.random((values > 1).sum())
        histogram.update(values.astype(np.float32), (index, weights))
        total, weight = total + len(values), weight + weights.sum()
        assert histogram.bins <= 1 << 17
    rows = histogram.rows()
    assert rows[:, 1].sum() == total
    assert rows[:, 2].sum() == pytest.approx(weight)
    assert (np.diff(rows[:, 0]) > 0).all()


def test_late_mass_in_a_cell_seen_early_still_gets_fine_bins():
    rng = np.random.default_rng(0)
    histogram = ScoreHistogram(capacity=1 << 16)
    histogram.update(np.exp(rng.normal(scale=4, size=100_000)).astype(np.float32))  # touches 0.5's cell coarsely
    late = (0.5 + 0.001 * rng.random(400_000)).astype(np.float32)
    for part in np.array_split(late, 20):
        histogram.update(part)
    rows = histogram.rows()
    assert rows[:, 1].max() < 0.001 * 500_000


def test_not_finite_and_small_capacity_are_refused():
    histogram = ScoreHistogram()
    with pytest.raises(ValueError, match="1 of 3 scores are not finite"):
        histogram.update(np.array([0.1, np.nan, 0.2]))
    with pytest.raises(ValueError, match="not finite"):
        histogram.update(np.array([np.inf]))
    with pytest.raises(ValueError, match="at least 65536"):
        ScoreHistogram(capacity=1000)
    assert histogram.rows().shape == (0, 2)
