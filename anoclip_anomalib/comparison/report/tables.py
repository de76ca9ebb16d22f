"""Rows of jobs -> cells, means and ranks."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from anoclip_anomalib.comparison.run.row_schema import DoneRow, Row, RowCurve
from anoclip_anomalib.evaluation.registry import METRICS

METRIC_TITLES = {name: metric.title for name, metric in METRICS.items()}


class Cell(NamedTuple):
    """A value of a table.

    Attributes:
        value: Mean over seeds (and categories), 0..1; ``None`` if there is none.
        std: Standard deviation over seeds; ``None`` for a single seed.
        rank: 1 best, 2 second, 0 otherwise (also for what is printed as 0.00).
        difference: To the first model; ``None`` for that model itself or without value.
        note: Why there is no value, or what is missing from it.
    """

    value: float | None = None
    std: float | None = None
    rank: int = 0
    difference: float | None = None
    note: str = ""


class Table(NamedTuple):
    """Cells of a data set: ``cells[model][category][metric]``; the category "mean" is the mean over categories.

    ``counted`` is the number of categories that have results.
    """

    data: str
    models: list[str]
    categories: list[str]
    metrics: list[str]
    cells: dict[str, dict[str, dict[str, Cell]]]
    counted: int

    @property
    def heading(self) -> str:
        """What the mean is over."""
        total = len(self.categories)
        if self.counted < total:
            return f"{self.data}: mean over {self.counted} of {total} categories (the others have no results yet)"
        return f"{self.data}: mean over {total} categories" if total > 1 else self.data


MEAN = "mean"


def finished(rows: Sequence[Row], **names: str) -> list[DoneRow]:
    """Rows of jobs that are done and have these names, such as ``model="AnoCLIP"``."""
    return [row for row in rows if row["status"] == "done" and names.items() <= row["job"].items()]


def build_table(data: str, models: list[str], categories: list[str], rows: Sequence[Row], seeds: int) -> Table:
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
    done: defaultdict[tuple[str, str], list[DoneRow]] = defaultdict(list)
    for row in finished(rows, data=data):
        done[row["job"]["model"], row["job"]["category"]].append(row)
    metrics = [name for name in METRIC_TITLES if any(name in row["metrics"] for group in done.values() for row in group)]
    total = len({category for _, category in done})
    cells = {m: {c: {n: _cell(done[m, c], n, seeds) for n in metrics} for c in categories} | {MEAN: {}} for m in models}
    for name in metrics:
        counted = [c for c in categories if any(cells[m][c][name].value is not None for m in models)]
        for model in models:
            own = [row for c in counted for row in done[model, c]]
            cells[model][MEAN][name] = _mean([cells[model][c][name] for c in counted], own, name)
        for category in [*categories, MEAN]:
            _rank([cells[model][category] for model in models], name)
    return Table(data, models, categories, metrics, cells, total)


def _cell(rows: list[DoneRow], name: str, seeds: int) -> Cell:
    values = [value for row in rows if (value := row["metrics"].get(name)) is not None]
    if not values:
        reasons = {row["undefined"].get(name, "") for row in rows} - {""}
        return Cell(note="; ".join(sorted(reasons)) or ("undefined" if rows else "no result"))
    note = f"{len(values)} of {seeds} seeds" if len(values) < seeds else ""
    return Cell(float(np.mean(values)), _std(values), note=note)


def _mean(cells: list[Cell], rows: list[DoneRow], name: str) -> Cell:
    values = [cell.value for cell in cells if cell.value is not None]
    if not values:
        return Cell(note="undefined or missing in every category" if cells else "no result")
    notes = [f"{len(values)} of {len(cells)} categories"] if len(values) < len(cells) else []
    if any(cell.note and cell.value is not None for cell in cells):
        notes.append("some seeds missing")
    by_seed = defaultdict(list)
    for row in rows:
        if row["metrics"].get(name) is not None:
            by_seed[row["job"]["seed"]].append(row["metrics"][name])
    complete = [float(np.mean(group)) for group in by_seed.values() if len(group) == len(cells)]
    return Cell(float(np.mean(values)), _std(complete), note=", ".join(notes))


def _std(values: list[float]) -> float | None:
    return float(np.std(values)) if len(values) > 1 else None


def _rank(lines: list[dict[str, Cell]], name: str) -> None:
    """Give the cells of one metric, in the models' order, their ranks and differences."""
    cells = [line[name] for line in lines]
    comparable = [cell.value for cell in cells if cell.value is not None and not cell.note]
    # Equal to what is printed is equal: half of the last printed digit decides no rank.
    levels = sorted({round(value, 4) for value in comparable} - {0.0}, reverse=True)[:2]
    for line, cell in zip(lines, cells, strict=True):
        if cell.value is not None:
            ranked = len(comparable) > 1 and not cell.note and round(cell.value, 4) in levels
            rank = levels.index(round(cell.value, 4)) + 1 if ranked else 0
            first = None if cell is cells[0] else cells[0].value
            line[name] = cell._replace(rank=rank, difference=None if first is None else cell.value - first)


def first_seed_rows(rows: Sequence[Row], data: str) -> dict[tuple[str, str], DoneRow]:
    """Finished rows of a data set by model and category, the one with the smallest seed of each."""
    first: dict[tuple[str, str], DoneRow] = {}
    for row in finished(rows, data=data):
        key = (row["job"]["model"], row["job"]["category"])
        first[key] = min(first.get(key, row), row, key=lambda one: one["job"]["seed"])
    return first


def distinct(rows: list[DoneRow], read: Callable[[DoneRow], Any]) -> str:
    """What is read of rows, each text once."""
    return "; ".join(dict.fromkeys(str(read(row)) for row in rows))


SPEED: dict[str, tuple[str, str, Any]] = {  # figure of a model -> part of its rows, name there, what makes one of several jobs'
    "median_s": ("speed", "median_s", np.median),
    "p95_s": ("speed", "p95_s", np.median),
    "images_per_second": ("speed", "images_per_second", np.median),
    "fit_s": ("speed", "fit_s", np.median),
    "cpu_peak_mib": ("memory", "cpu_peak_mib", np.max),
    "gpu_peak_mib": ("memory", "gpu_peak_mib", np.max),
    "parameters": ("parameters", "total", np.max),
    "other_load": ("speed", "other_load", np.mean),
    "other_load_max": ("speed", "other_load", np.max),
}


def speed_of(rows: Sequence[Row], model: str, **names: str) -> dict[str, float | None]:
    """Median over a model's jobs (of these names) of its speed and memory figures (peaks: the largest); see SPEED."""
    own, found = finished(rows, model=model, **names), {}
    for figure, (part, name, reduce) in SPEED.items():
        values = [row[part][name] for row in own if row[part].get(name) is not None]  # type: ignore[literal-required]  # older rows lack some
        found[figure] = float(reduce(values)) if values else None
    return found


def mean_curve(curves: Sequence[RowCurve], limit: float, start: float | None = 0.0, points: int = 100) -> RowCurve:
    """Average curves vertically on a common axis 0..limit, from ``start`` at 0 (``None``: from where the curves start)."""
    x = np.linspace(0, limit, points)
    y = np.mean([_at(curve, x, start) for curve in curves], axis=0)
    return {"x": [round(float(v), 5) for v in x], "y": [round(float(v), 5) for v in y]}


def _at(curve: RowCurve, x: np.ndarray, start: float | None) -> np.ndarray:
    """Values of a curve that may step vertically: at a repeated x its last point counts, but for the start."""
    xs, ys = np.asarray(curve["x"]), np.asarray(curve["y"])
    last: np.ndarray = np.append(np.diff(xs) > 0, True)
    values: np.ndarray = np.interp(x, xs[last], ys[last])
    if start is not None:
        values[0] = start
    return values
