import math

import numpy as np
import pytest
from scipy.stats import norm, wilcoxon

from anoclip_anomalib.comparison.report.intervals import IMAGE, PIXEL, estimates, per_defect
from anoclip_anomalib.comparison.report.tables import build_table
from anoclip_anomalib.evaluation.curves import auroc, count_scores, threshold_curve

MODELS = ["a", "b", "c"]


def images(rng, shift, category="x", good=30, bad=20):
    """Images whose anomalous scores lie `shift` higher: [path, score, label, AUROC inside the map]."""
    found = [[f"{category}/good/{i}.png", float(rng.normal()), 0, None] for i in range(good)]
    for i in range(bad):
        kind, more = ("crack", 3.0) if i % 2 else ("dent", 0.0)
        found.append(
            [f"{category}/{kind}/{i}.png", float(rng.normal(shift + more)), 1, float(rng.uniform(0.5, 0.6 + 0.1 * shift))]
        )
    return found


def made_rows(seeds=2, categories=("x", "y"), shifts=(0.0, 2.0, 1.9)):
    rng = np.random.default_rng(0)
    return [
        {
            "status": "done",
            "job": {"model": model, "data": "d", "category": category, "seed": seed},
            "metrics": {},
            "images": images(rng, shift, category),
        }
        for model, shift in zip(MODELS, shifts, strict=True)
        for category in categories
        for seed in range(seeds)
    ]


def table_of(rows, categories=("x", "y")):
    return build_table("d", MODELS, list(categories), rows, 2)


def value_of(row):
    scores, labels = [image[1] for image in row["images"]], [image[2] for image in row["images"]]
    return auroc(threshold_curve(count_scores(np.array(scores), np.array(labels))))


def test_the_value_is_the_tables_mean_over_seeds_and_categories():
    rows = made_rows()
    found = estimates(rows, table_of(rows))[IMAGE]
    for model in MODELS:
        expected = np.mean([value_of(row) for row in rows if row["job"]["model"] == model])
        assert found[model].value == pytest.approx(expected)
        assert found[model].low < expected < found[model].high


def test_differences_are_to_the_best_and_clear_ones_are_found():
    rows = made_rows()
    found = estimates(rows, table_of(rows))[IMAGE]
    second, best = sorted(("b", "c"), key=lambda model: found[model].value)  # as good as each other
    assert found[best].difference is None
    assert found[best].p is None
    gap, low, high = found["a"].difference
    assert gap == pytest.approx(found["a"].value - found[best].value)
    assert low < gap < high < 0
    assert found["a"].p < 0.001
    assert found[second].difference[1] < 0 < found[second].difference[2]
    assert found[second].p > 0.05


def test_p_is_delongs_for_correlated_models():
    """On one category with one seed it can be had from the differences of the images' placements alone."""
    rows = made_rows(seeds=1, categories=("x",), shifts=(1.0, 1.0, 1.0))[:2]
    rows[1]["images"] = [[path, score + 0.3 * math.sin(i), *more] for i, (path, score, *more) in enumerate(rows[0]["images"])]
    found = estimates(rows, table_of(rows, ("x",)))[IMAGE]
    scores = [np.array([[image[1] for image in row["images"] if image[2] == label] for row in rows]) for label in (1, 0)]
    gap = np.subtract(*(np.sign(bad[:, None] - good) / 2 for bad, good in zip(*scores, strict=True)))
    variance = gap.mean(axis=1).var(ddof=1) / len(gap) + gap.mean(axis=0).var(ddof=1) / gap.shape[1]
    expected = 2 * norm.sf(abs(gap.mean()) / math.sqrt(variance))
    assert (found["a"].p or found["b"].p) == pytest.approx(expected)


def test_the_same_scores_in_other_order_are_no_difference():
    rows = made_rows(seeds=1, shifts=(0.0, 2.0, 0.0))
    same = [
        dict(row, job=dict(row["job"], model="a"), images=row["images"][::-1]) for row in rows if row["job"]["model"] == "b"
    ]
    rows = [row for row in rows if row["job"]["model"] != "a"] + same
    found = estimates(rows, table_of(rows))
    for measure in (IMAGE, PIXEL):
        other = found[measure]["a"].difference or found[measure]["b"].difference
        assert other == (0, 0, 0)
        assert 1.0 in (found[measure]["a"].p, found[measure]["b"].p)


def test_maps_are_compared_by_wilcoxons_test_over_anomalous_images():
    rows = made_rows(seeds=1, shifts=(0.0, 1.0, 2.0))
    rows = [row for row in rows if row["job"]["model"] != "b"]
    maps = {m: [i[3] for row in rows if row["job"]["model"] == m for i in row["images"] if i[3] is not None] for m in "ac"}
    found = estimates(rows, table_of(rows))[PIXEL]
    assert set(found) == {"a", "c"}
    assert found["c"].value == pytest.approx(np.mean(maps["c"]))
    assert found["a"].p == pytest.approx(wilcoxon(maps["a"], maps["c"]).pvalue)


def test_models_without_all_images_take_no_part():
    rows = made_rows()
    for row in rows:
        if row["job"]["model"] == "a" and row["job"]["category"] == "y":
            del row["images"]
    found = estimates(rows, table_of(rows))
    assert set(found[IMAGE]) == {"b", "c"}
    assert estimates([], table_of(rows)) == {}
    one_class = [dict(row, images=[image for image in row["images"] if image[2] == 0]) for row in rows if "images" in row]
    assert estimates(one_class, table_of(one_class)) == {}


def test_a_category_with_other_images_for_some_model_is_left_out():
    rows = made_rows(seeds=1)
    rows[0]["images"] = rows[0]["images"][1:]  # model a on x
    found = estimates(rows, table_of(rows))[IMAGE]
    assert found["a"].value == pytest.approx(value_of(rows[1]))


def test_each_defect_is_measured_against_all_normal_images():
    rows = made_rows(seeds=1)
    found = per_defect(rows, table_of(rows))
    assert [(one.category, one.name, one.images) for one in found] == [
        ("x", "crack", 10), ("x", "dent", 10), ("y", "crack", 10), ("y", "dent", 10)
    ]  # fmt: skip
    cracks = dict(rows[0], images=[image for image in rows[0]["images"] if "dent" not in image[0]])
    assert found[0].figures[IMAGE]["a"] == pytest.approx(value_of(cracks))
    assert found[0].figures[IMAGE]["a"] > found[1].figures[IMAGE]["a"]
    expected = np.mean([image[3] for image in cracks["images"] if image[3] is not None])
    assert found[0].figures[PIXEL]["a"] == pytest.approx(expected)


def test_images_without_masks_have_image_figures_only():
    rows = made_rows(seeds=1)
    for row in rows:
        for image in row["images"]:
            image[3] = None
    assert set(estimates(rows, table_of(rows))) == {IMAGE}
    assert per_defect(rows, table_of(rows))[0].figures[PIXEL] == {}
    assert not math.isnan(per_defect(rows, table_of(rows))[0].figures[IMAGE]["a"])


def test_the_figure_of_the_maps_is_the_mean_over_seeds_and_images():
    rows = made_rows()
    found = estimates(rows, table_of(rows))[PIXEL]
    for model in MODELS:
        inside = [image[3] for row in rows if row["job"]["model"] == model for image in row["images"] if image[2]]
        assert found[model].value == pytest.approx(np.mean(inside))
