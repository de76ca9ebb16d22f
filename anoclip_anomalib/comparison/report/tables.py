"""Rows of jobs -> cells, means and ranks."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anoclip_anomalib.evaluation.registry import METRICS

METRIC_TITLES = {name: metric.title for name, metric in METRICS.items()}


@dataclass(frozen=True)
class Cell:
    """A value of a table.

    Attributes:
        value: Mean over seeds (and categories), 0..1; None if there is none.
        std: Standard deviation over seeds; None for a single seed.
        rank: 1 best, 2 second, 0 otherwise (also for what is printed as 0.00).
        difference: To the first model; None for that model itself or without value.
        note: Why there is no value, or what is missing from it.
    """

    value: float | None = None
    std: float | None = None
    rank: int = 0
    difference: float | None = None
    note: str = ""


@dataclass
class Table:
    """Cells of a data set: `cells[model][category][metric]`; the category "mean" is the mean over categories.

    `counted` is the number of categories that have results.
    """

    data: str
    models: list[str]
    categories: list[str]
    metrics: list[str]
    cells: dict[str, dict[str, dict[str, Cell]]] = field(default_factory=dict)
    counted: int = 0

    @property
    def heading(self) -> str:
        """What the mean is over."""
        total = len(self.categories)
        if self.counted < total:
            return f"{self.data}: mean over {self.counted} of {total} categories (the others have no results yet)"
        return f"{self.data}: mean over {total} categories" if total > 1 else self.data


MEAN = "mean"


def build_table(data: str, models: list[str], categories: list[str], rows: list[dict[str, Any]], seeds: int) -> Table:
    """Collect the cells of one data set.

    Args:
        data: Its name.
        models: In the suite's order; the first is the one others are compared with.
        categories: In the suite's order.
        rows: Rows of all jobs (others are passed over).
        seeds: Number of seeds of the suite.

    Returns:
        Table with ranks. A mean that lacks categories or seeds says so and is not ranked.
    """
    done: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        if row["status"] == "done" and row["job"]["data"] == data:
            done.setdefault((row["job"]["model"], row["job"]["category"]), []).append(row)
    metrics = [name for name in METRIC_TITLES if any(name in row["metrics"] for group in done.values() for row in group)]
    counted_categories = {category for _, category in done}
    table = Table(data, models, categories, metrics, counted=len(counted_categories))
    for model in models:
        table.cells[model] = {
            category: {name: _cell(done.get((model, category), []), name, seeds) for name in metrics} for category in categories
        }
    for name in metrics:
        counted = [c for c in categories if any(table.cells[m][c][name].value is not None for m in models)]
        for model in models:
            table.cells[model].setdefault(MEAN, {})[name] = _mean(table, model, counted, name, done)
        for category in [*categories, MEAN]:
            _rank(table, category, name)
    return table


def _cell(rows: list[dict], name: str, seeds: int) -> Cell:
    values = [row["metrics"][name] for row in rows if row["metrics"].get(name) is not None]
    if not values:
        reasons = {row["undefined"].get(name, "") for row in rows} - {""}
        return Cell(note="; ".join(sorted(reasons)) or ("no result" if not rows else "undefined"))
    note = f"{len(values)} of {seeds} seeds" if len(values) < seeds else ""
    return Cell(float(np.mean(values)), float(np.std(values)) if len(values) > 1 else None, note=note)


def _mean(table: Table, model: str, counted: list[str], name: str, done: dict) -> Cell:
    cells = {category: table.cells[model][category][name] for category in counted}
    values = [cell.value for cell in cells.values() if cell.value is not None]
    if not values:
        return Cell(note="no result" if not counted else "undefined or missing in every category")
    notes = []
    if len(values) < len(counted):
        notes.append(f"{len(values)} of {len(counted)} categories")
    if any(cell.note and cell.value is not None for cell in cells.values()):
        notes.append("some seeds missing")
    by_seed: dict[int, list[float]] = {}
    for category in counted:
        for row in done.get((model, category), []):
            if row["metrics"].get(name) is not None:
                by_seed.setdefault(row["job"]["seed"], []).append(row["metrics"][name])
    complete = [np.mean(group) for group in by_seed.values() if len(group) == len(counted)]
    std = float(np.std(complete)) if len(complete) > 1 else None
    return Cell(float(np.mean(values)), std, note=", ".join(notes))


def _rank(table: Table, category: str, name: str) -> None:
    first = table.cells[table.models[0]][category][name].value if table.models else None
    comparable = [
        table.cells[model][category][name].value for model in table.models if _comparable(table.cells[model][category][name])
    ]
    # Equal to what is printed is equal: half of the last printed digit decides no rank.
    levels = sorted({round(value, 4) for value in comparable if value is not None} - {0.0}, reverse=True)
    for index, model in enumerate(table.models):
        cell = table.cells[model][category][name]
        if cell.value is None:
            continue
        rank = 0
        if _comparable(cell) and len(comparable) > 1 and round(cell.value, 4) in levels[:2]:
            rank = levels.index(round(cell.value, 4)) + 1
        difference = cell.value - first if index and first is not None else None
        table.cells[model][category][name] = Cell(cell.value, cell.std, rank, difference, cell.note)


def _comparable(cell: Cell) -> bool:
    return cell.value is not None and not cell.note


def speed_of(rows: Iterable[dict[str, Any]], model: str, data: str | None = None) -> dict[str, float | None]:
    """Median over a model's jobs of its speed and memory figures (peaks: the largest)."""
    chosen = [
        row for row in rows if row["status"] == "done" and row["job"]["model"] == model and data in (None, row["job"]["data"])
    ]

    def gather(part: str, name: str, reduce: Any) -> float | None:
        values = [row[part][name] for row in chosen if row[part].get(name) is not None]  # older rows lack some
        return float(reduce(values)) if values else None

    return {
        "median_s": gather("speed", "median_s", np.median),
        "p95_s": gather("speed", "p95_s", np.median),
        "images_per_second": gather("speed", "images_per_second", np.median),
        "fit_s": gather("speed", "fit_s", np.median),
        "cpu_peak_mib": gather("memory", "cpu_peak_mib", np.max),
        "gpu_peak_mib": gather("memory", "gpu_peak_mib", np.max),
        "parameters": gather("parameters", "total", np.max),
        "other_load": gather("speed", "other_load", np.mean),
        "other_load_max": gather("speed", "other_load", np.max),
    }


def mean_curve(
    curves: list[dict[str, list[float]]], limit: float, start: float | None = 0.0, points: int = 100
) -> dict[str, list[float]]:
    """Average curves vertically on a common axis 0..limit, from `start` at 0 (None: from where the curves start)."""
    x = np.linspace(0, limit, points)
    y = np.mean([_at(curve, x, start) for curve in curves], axis=0)
    return {"x": [round(float(v), 5) for v in x], "y": [round(float(v), 5) for v in y]}


def _at(curve: dict[str, list[float]], x: np.ndarray, start: float | None) -> np.ndarray:
    """Values of a curve that may step vertically: at a repeated x its last point counts, but for the start."""
    xs, ys = np.asarray(curve["x"]), np.asarray(curve["y"])
    last: np.ndarray = np.append(np.diff(xs) > 0, True)
    values: np.ndarray = np.interp(x, xs[last], ys[last])
    if start is not None:
        values[0] = start
    return values
