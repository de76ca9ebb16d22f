import numpy as np
import pytest

from anoclip_anomalib.comparison.report.tables import MEAN, build_table, first_seed_rows, mean_curve, speed_of


def row(model, category, seed, value, undefined=None, **extra):
    return {
        "status": "done",
        "job": {"model": model, "data": "d", "category": category, "seed": seed},
        "metrics": {"AUPRO": value},
        "undefined": undefined or {},
        "speed": {"median_s": 0.1 * (seed + 1)},
        "memory": {"cpu_peak_mib": 10.0 * (seed + 1)},
        "parameters": {"total": 5},
    } | extra


def test_means_ranks_and_differences():
    rows = [row(m, c, s, v + 0.01 * s) for m, v in (("a", 0.5), ("b", 0.7), ("c", 0.6)) for c in ("x", "y") for s in (0, 1)]
    table = build_table("d", ["a", "b", "c"], ["x", "y"], rows, 2)
    cells = {model: table.cells[model][MEAN]["AUPRO"] for model in "abc"}
    assert cells["b"].value == pytest.approx(0.705)
    assert cells["b"].std == pytest.approx(0.005)
    assert [cells[m].rank for m in "abc"] == [0, 1, 2]
    assert cells["a"].difference is None
    assert cells["c"].difference == pytest.approx(0.1)
    assert table.heading == "d: mean over 2 categories"


def test_equal_values_share_a_rank_and_a_single_model_has_none():
    table = build_table("d", ["a", "b", "c"], ["x"], [row(m, "x", 0, v) for m, v in (("a", 0.9), ("b", 0.9), ("c", 0.8))], 1)
    assert [table.cells[m]["x"]["AUPRO"].rank for m in "abc"] == [1, 1, 2]
    table = build_table("d", ["a"], ["x"], [row("a", "x", 0, 0.9)], 1)
    assert table.cells["a"][MEAN]["AUPRO"].rank == 0


def test_what_is_incomplete_says_so_and_is_not_ranked():
    rows = [row("a", "x", 0, 0.9), row("b", "x", 0, 0.5), row("b", "y", 0, 0.5)]
    table = build_table("d", ["a", "b"], ["x", "y", "z"], rows, 1)
    mean = table.cells["a"][MEAN]["AUPRO"]
    assert (mean.value, mean.rank, mean.note) == (0.9, 0, "1 of 2 categories")
    assert table.cells["a"]["y"]["AUPRO"].note == "no result"
    assert "2 of 3 categories" in table.heading
    seeds = build_table("d", ["a", "b"], ["x"], [row("a", "x", 0, 0.9), row("b", "x", 0, 0.5), row("b", "x", 1, 0.5)], 2)
    assert seeds.cells["a"]["x"]["AUPRO"].note == "1 of 2 seeds"
    assert seeds.cells["a"]["x"]["AUPRO"].rank == 0


def test_undefined_is_no_zero_and_gives_its_reason():
    rows = [row("a", "x", 0, None, {"AUPRO": "no masks"}), row("a", "y", 0, 0.8)]
    table = build_table("d", ["a"], ["x", "y"], rows, 1)
    assert table.cells["a"]["x"]["AUPRO"].value is None
    assert table.cells["a"]["x"]["AUPRO"].note == "no masks"
    assert table.cells["a"][MEAN]["AUPRO"].value == 0.8  # no model has a value on x


def test_mean_curve_of_steps():
    step = {"x": [0, 0, 1], "y": [0, 0.5, 1]}
    line = {"x": [0, 1], "y": [0, 1]}
    mean = mean_curve([step, line], 1.0, points=5)
    np.testing.assert_allclose(mean["y"], [0, 0.4375, 0.625, 0.8125, 1])


def test_speed_is_the_median_and_memory_the_peak():
    found = speed_of([row("a", "x", seed, 0.5) for seed in range(3)], "a")
    assert found["median_s"] == pytest.approx(0.2)
    assert found["cpu_peak_mib"] == 30
    assert found["gpu_peak_mib"] is None


def test_what_prints_as_nothing_takes_no_rank():
    table = build_table("d", ["a", "b"], ["x"], [row("a", "x", 0, 0.9), row("b", "x", 0, 0.00004)], 1)
    assert [table.cells[m]["x"]["AUPRO"].rank for m in "ab"] == [1, 0]
    table = build_table("d", ["a", "b"], ["x"], [row("a", "x", 0, 0.0), row("b", "x", 0, 0.0)], 1)
    assert [table.cells[m]["x"]["AUPRO"].rank for m in "ab"] == [0, 0]


def test_mean_curve_of_precision_keeps_its_start():
    assert mean_curve([{"x": [0.1, 1], "y": [1, 0.5]}], 1.0, None, 3)["y"][0] == 1


def test_the_spread_is_over_seeds_that_have_every_category():
    values = (("x", 0, 0.5), ("y", 0, 0.7), ("x", 1, 0.6), ("y", 1, 0.8), ("x", 2, 0.1))
    table = build_table("d", ["a"], ["x", "y"], [row("a", *one) for one in values], 3)
    assert table.cells["a"][MEAN]["AUPRO"].std == pytest.approx(0.05)


def test_values_that_print_alike_share_a_rank():
    values = {"a": 0.912312, "b": 0.912338, "c": 0.912361}
    table = build_table("d", list(values), ["x"], [row(m, "x", 0, v) for m, v in values.items()], 1)
    assert [table.cells[m]["x"]["AUPRO"].rank for m in values] == [2, 2, 1]


def test_the_memory_of_gpus_is_the_largest_peak():
    rows = [row("a", "x", seed, 0.5, memory={"gpu_peak_mib": peak}) for seed, peak in enumerate((5.0, 9.0, 7.0))]
    assert speed_of(rows, "a")["gpu_peak_mib"] == 9


def test_what_is_drawn_is_of_the_smallest_seed_that_is_done():
    rows = [row("a", "x", seed, 0.5) for seed in (2, 0, 1)] + [row("b", "x", 0, 0.5, status="failed"), row("b", "x", 1, 0.5)]
    first = first_seed_rows(rows, "d")
    assert {key: one["job"]["seed"] for key, one in first.items()} == {("a", "x"): 0, ("b", "x"): 1}
    assert first_seed_rows(rows, "another") == {}
