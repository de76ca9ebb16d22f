import re

import pytest

from anoclip_anomalib.comparison.report.charts import curve_charts, histogram_chart, speed_chart


def points(chart):
    return [tuple(map(float, pair.split())) for pair in re.search('d="M([^"]*)" fill="none" stroke="#', chart)[1].split("L")]


def test_a_curve_runs_from_corner_to_corner_and_ends_at_its_limit():
    line = {"x": [0.0, 0.5, 1.0], "y": [0.0, 1.0, 1.0]}
    roc, pro = curve_charts(["m"], {"m": {"image_roc": line, "pro": {"x": [0.0, 0.3, 1.0], "y": [0.0, 0.5, 1.0]}}})
    assert points(roc) == [(45, 215), (197.5, 10), (350, 10)]
    assert points(pro) == [(45, 215), (350, 112.5)]  # what lies beyond 0.3 is not drawn
    assert 'role="img" aria-label="Image ROC: true positive rate over false positive rate"' in roc


def test_models_keep_their_colour_and_those_without_a_curve_are_left_out():
    line = {"x": [0.0, 1.0], "y": [0.0, 1.0]}
    (chart,) = curve_charts(["a", "b"], {"b": {"image_roc": line}})
    assert "#3b82f6" not in chart
    assert "#ef7d0a" in chart
    assert curve_charts(["a"], {}) == []


def test_bars_show_shares_of_each_class():
    chart = histogram_chart("<m>", {"edges": [0.0, 1.0], "normal": [30, 10], "anomalous": [0, 5]}, 0)
    heights = [float(height) for height in re.findall('<rect[^>]* height="([^"]*)"', chart)]
    assert heights == pytest.approx([0.75 * 205, 0.25 * 205, 205], abs=0.1)
    assert "&lt;m&gt;" in chart
    assert "<m>" not in chart
    assert histogram_chart("m", {"edges": [], "normal": [], "anomalous": []}, 0) is None


def test_speed_is_logarithmic_and_names_do_not_overlap():
    chart = speed_chart([(0, "first", 0.01, 0.9), (1, "second", 0.1, 0.5), (2, "none", None, 0.5), (3, "x", 0.1, None)], "T")
    x = [float(value) for value in re.findall('cx="([^"]*)"', chart)]
    assert x == [55, 340]
    assert re.findall('class="m">(10+)<', chart) == ["10", "100"]  # milliseconds
    assert "none" not in chart
    assert speed_chart([(0, "a", None, 0.5)], "T") is None
    names = [(i, f"model {i}", 0.05, 0.5) for i in range(8)]
    texts = re.findall(r'<text x="([^"]*)" y="([^"]*)">model', speed_chart(names, "T"))
    boxes = [(float(left), float(baseline)) for left, baseline in texts]
    width = 6.3 * len("model 0")
    for i, (left, baseline) in enumerate(boxes):
        for other, base in boxes[:i]:
            assert abs(left - other) >= width or abs(baseline - base) >= 12
