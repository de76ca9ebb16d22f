"""Drawings of the report as SVG, made here and not by a script: curves, score histograms, speed against accuracy."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from markupsafe import Markup

from anoclip_anomalib.comparison.report.text import render
from anoclip_anomalib.comparison.run.row import CURVES
from anoclip_anomalib.comparison.run.row_schema import RowHistogram

COLOURS = ("#3b82f6", "#ef7d0a", "#16a34a", "#d946ef", "#e11d48", "#0ea5a4", "#a16207", "#7c5cff", "#64748b", "#b45309")
LEFT, RIGHT, TOP, BOTTOM = 45, 350, 10, 215  # of the plot in a box of 372 x 260
Ticks = list[tuple[float, str]]
Axis = Callable[[float], float]


def colour(index: int) -> str:
    """Colour of the model at this place in the suite."""
    return COLOURS[index % len(COLOURS)]


def curve_charts(models: list[str], entries: dict[str, dict[str, Any]]) -> list[Markup]:
    """One chart for each kind of curve that any model has.

    Args:
        models: In the suite's order, which decides the colours.
        entries: Model -> name of the curve -> {"x": [...], "y": [...]}.

    Returns:
        SVG elements.
    """
    charts = []
    for name, (_, title, _, limit, _, x_title, y_title) in CURVES.items():
        x_at, y_at = _linear(0, limit, LEFT, RIGHT), _linear(0, 1, BOTTOM, TOP)
        lines = []
        for index, model in enumerate(models):
            if curve := entries.get(model, {}).get(name):
                drawn = zip(curve["x"], curve["y"], strict=True)
                points = [(x_at(x), y_at(y)) for x, y in drawn if x <= limit * 1.0001]
                lines.append({"model": model, "colour": colour(index), "dashed": index >= len(COLOURS), "points": points})
        if lines:
            x_ticks = _ticks(x_at, 0, limit, 3 if limit < 1 else 5, 1)
            charts.append(_chart(title, x_title, y_title, x_ticks, _ticks(y_at, 0, 1, 5, 1), lines=lines))
    return charts


def histogram_chart(model: str, histogram: RowHistogram, index: int) -> Markup | None:
    """Shares of normal (grey) and anomalous images (coloured) by image score; ``None`` without scores."""
    if not histogram["normal"]:
        return None
    low, high = histogram["edges"]
    shares = [[count / (sum(counts) or 1) for count in counts] for counts in (histogram["normal"], histogram["anomalous"])]
    top = max(max(share) for share in shares) or 1.0
    y_at, width = _linear(0, top, BOTTOM, TOP), (RIGHT - LEFT) / len(shares[0])
    bars = [
        (LEFT + k * width, y_at(share), width, BOTTOM - y_at(share), fill)
        for fill, part in (("#8a94a0", shares[0]), (colour(index), shares[1]))
        for k, share in enumerate(part)
        if share
    ]
    digits = max(1, min(6, math.ceil(-math.log10((high - low) or 1)) + 1))
    x_ticks = _ticks(_linear(low, high, LEFT, RIGHT), low, high, 4, digits)
    return _chart(model, "image score", "share of images", x_ticks, _ticks(y_at, 0, top, 4, 2), bars=bars)


def speed_chart(points: Iterable[tuple[int, str, float | None, float | None]], title: str) -> Markup | None:
    """Accuracy over latency, with the models' names where they cover nothing.

    Args:
        points: Place in the suite, model, seconds for an image, value of the metric 0..1; incomplete ones are left out.
        title: Of the metric.

    Returns:
        An SVG element, or ``None`` without points.
    """
    known = [(i, model, math.log10(1000 * s), 100 * value) for i, model, s, value in points if s and value is not None]
    if not known:
        return None
    times, values = [point[2] for point in known], [point[3] for point in known]
    low, high = math.floor(min(times)), max(math.ceil(max(times)), math.floor(min(times)) + 1)
    step = 20 if max(values) - min(values) > 35 else 10
    bottom = max(0, math.floor((min(values) - 2 - step) / step) * step)
    top = min(100, math.ceil((max(values) + 2) / step) * step)
    x_at, y_at = _linear(low, high, LEFT + 10, RIGHT - 10), _linear(bottom, top, BOTTOM, TOP)
    places = [(i, model, x_at(x), y_at(y)) for i, model, x, y in known]
    taken = [(x - 6, y - 6, x + 6, y + 6) for _, _, x, y in places]
    marks = []
    for i, model, x, y in places:
        width = 6.3 * len(model)
        left, baseline = _free_place(x, y, width, taken)
        taken.append((left, baseline - 10, left + width, baseline + 3))
        marks.append({"model": model, "colour": colour(i), "x": x, "y": y, "left": left, "baseline": baseline})
    x_ticks = [(x_at(power), f"{10.0**power:g}") for power in range(low, high + 1)]
    y_ticks = _ticks(y_at, bottom, top, max(1, round((top - bottom) / step)), 0)
    return _chart(title, "milliseconds per image (median, logarithmic)", title, x_ticks, y_ticks, marks=marks)


def _free_place(x: float, y: float, width: float, taken: list[tuple[float, float, float, float]]) -> tuple[float, float]:
    """Where a name of this width covers no point and no other name: beside its point, else above or below, ever further."""

    def free(left: float, baseline: float) -> bool:
        inside = left >= LEFT + 2 and left + width <= 370 and TOP + 2 <= baseline <= BOTTOM - 3
        hits = (left < x1 and left + width > x0 and baseline - 10 < y1 and baseline + 3 > y0 for x0, y0, x1, y1 in taken)
        return inside and not any(hits)

    middle = max(LEFT + 2.0, min(x - width / 2, 370 - width))
    baselines = (y + 4 + away for distance in range(0, 200, 4) for away in (distance, -distance))
    places = ((left, baseline) for baseline in baselines for left in (x + 8, x - 8 - width, middle))
    return next((place for place in places if free(*place)), (middle, y + 18))


def _linear(low: float, high: float, start: float, end: float) -> Axis:
    return lambda value: start + (value - low) / ((high - low) or 1) * (end - start)


def _ticks(axis: Axis, low: float, high: float, count: int, digits: int) -> Ticks:
    values = [low + (high - low) * i / count for i in range(count + 1)]
    return [(axis(value), f"{value:.{digits}f}") for value in values]


def _chart(title: str, x_title: str, y_title: str, x_ticks: Ticks, y_ticks: Ticks, **inside: Any) -> Markup:
    """Axes with their titles, and inside them ``lines``, ``bars`` or ``marks``."""
    place = {"left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM, "lines": (), "bars": (), "marks": ()}
    words = {"title": title, "x_title": x_title, "y_title": y_title, "x_ticks": x_ticks, "y_ticks": y_ticks}
    return Markup(render("chart.html.jinja", **place | words | inside))
