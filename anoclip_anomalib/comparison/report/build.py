"""Write a report from a results folder."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from anoclip_anomalib.comparison.report import charts, intervals, pictures, tables, text
from anoclip_anomalib.comparison.report.quoted import Quoted, load_quoted
from anoclip_anomalib.comparison.report.tables import MEAN, METRIC_TITLES, Table, distinct, finished
from anoclip_anomalib.comparison.run.folder import ResultsError, ResultsFolder
from anoclip_anomalib.comparison.run.row_schema import DoneRow, Row, RowProvenance
from anoclip_anomalib.comparison.suite.catalogue import constant_categories, find_class
from anoclip_anomalib.files import atomic_write

FEW = 20  # normal images; a threshold from fewer is worth a warning
DIFFERENT: dict[str, Callable[[RowProvenance], Any]] = {
    "commits": lambda provenance: provenance["commit"],
    "machines, speed is not comparable": lambda provenance: provenance["hardware"].get("processor"),
}
FACT_TITLES = {
    "auxiliary_data": "auxiliary training data",
    "category_data": "sees of the category",
    "adapts_on_test_images": "adapts on test images",
    "sees_other_test_images": "sees other test images",
    "order_dependent": "depends on their order",
}


def build_report(
    results: str | Path, output: str | Path | None = None, quoted: bool = False, quoted_file: str | Path | None = None
) -> list[Path]:
    """Write report.html, report.md, jobs.csv and tables.tex.

    Args:
        results: Results folder of a comparison.
        output: Where to write; default: the results folder.
        quoted: Add figures that others published, marked as quoted.
        quoted_file: YAML file with such figures; ``None`` for ours.

    Returns:
        The files that were written.

    Raises:
        ResultsError: If it is no results folder, or has no row yet.
        ValueError: If the file of quoted figures is wrong.
    """
    folder = ResultsFolder(results)
    suite = folder.suite()
    rows, faults = folder.rows()
    if not rows:
        raise ResultsError(f"{folder.path} has no results yet")
    models, seeds = suite["models"], len(suite["seeds"])
    every = [tables.build_table(data, models, places, rows, seeds) for data, places in suite["data"].items()]
    context = {
        "suite": suite,
        "notes": _notes(suite, rows, faults),
        "tables": every,
        "quotes": {table.data: _quotes(rows, table, quoted_file) for table in every} if quoted else {},
        "models": [_model_facts(rows, model) for model in models],
        "facts": FACT_TITLES,
        "failed": [row for row in rows if row["status"] == "failed"],
        "grids": {table.data: pictures.grid(folder.path, rows, table.models, table.data) for table in every},
        "charts": {table.data: _charts(table, rows) for table in every},
        "estimates": {table.data: intervals.estimates(rows, table) for table in every},
        "defects": {table.data: intervals.per_defect(rows, table) for table in every},
        "shown_facts": [*SHOWN_FACTS, "note"],
        "speed_names": list(tables.SPEED),
        "colour": charts.colour,
    }
    texts = {name: text.render(f"{name}.jinja", **context) for name in ("report.html", "report.md")}
    texts |= {"jobs.csv": text.csv_text(rows), "tables.tex": text.render("tables.tex.jinja", **context)}
    written = {Path(output or folder.path) / name: content for name, content in texts.items()}
    for path, content in written.items():
        with atomic_write(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return list(written)


def _quotes(rows: Sequence[Row], table: Table, path: str | Path | None) -> list[Quoted]:
    """Published figures of a data set; none for parts of it, and none for other data in its layout."""
    for row in finished(rows, data=table.data):
        found = find_class("data", row["provenance"]["config"]["data"]["spec"]["class_path"])
        whole = set(table.categories) == set(constant_categories(found))
        return load_quoted(found.__name__, path) if whole or path is not None else []
    return []


def _notes(suite: dict, rows: Sequence[Row], faults: list[str]) -> list[str]:
    done = finished(rows)
    seeds, original = ", ".join(map(str, suite["seeds"])), suite["protocol"]["resolution"] == "original"
    notes = [
        f"{len(done)} of {len(suite['jobs'])} jobs done, {len(rows) - len(done)} failed; seeds: {seeds}",
        f"All models are measured on their raw scores, before any normalisation; maps and masks are compared at "
        f"{'the size of the original images' if original else 'the size of each model’s maps'}.",
    ]
    if len({json.dumps(row["map_size"]) for row in done}) > 1 and not original:
        notes.append("The models' maps differ in size, so pixel metrics are not strictly comparable; use resolution: original.")
    if few := sorted({count for row in done if 0 < (count := row["counts"].get("reference_images", 0)) < FEW}):
        between = " to ".join(map(str, dict.fromkeys([few[0], few[-1]])))
        notes.append(f"Thresholds rest on {between} normal images only: figures at a threshold are uncertain.")
    if (load := max((row["speed"].get("other_load") or 0.0 for row in done), default=0.0)) > 0.5:
        notes.append(f"Other programs kept up to {load:.1f} CPU cores busy while jobs ran: times are too long.")
    if any("images" not in row for row in done):
        notes.append("Some rows keep no scores of single images (made by an older version): they have no intervals.")
    for words, read in DIFFERENT.items():
        values = sorted({str(read(row["provenance"])) for row in done})
        notes += [f"Rows come from different {words}: {', '.join(values)}"] if len(values) > 1 else []
    return notes + [f"Left out: {fault}" for fault in faults]


def _model_facts(rows: Sequence[Row], model: str) -> dict[str, Any]:
    """A model's line in the provenance table, from its rows; differing entries are listed side by side."""
    own = finished(rows, model=model)
    shown = {title: distinct(own, read) or "no result" for title, read in SHOWN_FACTS.items()}
    return shown | {
        "name": model,
        "facts": {fact: distinct(own, partial(_stated, fact)) or "no result" for fact in FACT_TITLES},
        "weights (SHA-256)": _digests(own),
        "note": distinct([row for row in own if row["provenance"].get("note")], lambda row: row["provenance"]["note"]),
        "speed": tables.speed_of(own, model),
    }


def _stated(fact: str, row: DoneRow) -> str:
    value = row["provenance"]["method"][fact]
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _called(spec: dict) -> str:
    """A class as it would be called."""
    arguments = ", ".join(f"{key}={value}" for key, value in spec["init_args"].items())
    return f"{spec['class_path'].rpartition('.')[2]}({arguments})"


def _digests(rows: Sequence[DoneRow]) -> str:
    digests = list(dict.fromkeys(row["provenance"]["weights_digest"][:12] for row in rows))
    if len(digests) > 3:
        return f"{', '.join(digests[:2])}, … ({len(digests)} trained models; all in the rows)"
    return ", ".join(digests) or "no result"


def _hardware(row: DoneRow) -> str:
    hardware, speed = row["provenance"]["hardware"], row["speed"]
    return f"{hardware.get('gpu') or hardware.get('processor')}, {speed['device']}, {speed['threads']} threads"


SHOWN_FACTS: dict[str, Callable[[DoneRow], Any]] = {  # title -> what stands there for a row
    "class": lambda row: row["provenance"]["config"]["model"]["spec"]["class_path"],
    "callbacks": lambda row: ", ".join(map(_called, row["provenance"]["config"]["model"]["callbacks"])) or "none",
    "learning type": lambda row: row["provenance"]["learning_type"],
    "image size": lambda row: row["provenance"]["preprocessing"].get("image_size"),
    "resize": lambda row: row["provenance"]["preprocessing"].get("resize"),
    "smoothing": lambda row: row["provenance"]["preprocessing"].get("smoothing"),
    "image score": lambda row: row["image_score"],
    "image threshold": lambda row: row["thresholds"]["image"]["rule"],
    "pixel threshold": lambda row: row["thresholds"]["pixel"]["rule"],
    "reference images": lambda row: row["counts"].get("reference_images", 0),
    "weights (SHA-256)": lambda row: row["provenance"]["weights_digest"],
    "versions": lambda row: ", ".join(f"{name} {version}" for name, version in row["provenance"]["versions"].items()),
    "commit": lambda row: row["provenance"]["commit"],
    "hardware": _hardware,
}


def _charts(table: Table, rows: Sequence[Row]) -> dict[str, Any]:
    """Drawings of a data set: curves of the mean and of each category with its histograms (first seed), speed and accuracy."""
    first = tables.first_seed_rows(rows, table.data)
    mean: dict[str, dict[str, Any]] = {model: {} for model in table.models}
    for name, (_, _, _, limit, start, *_) in charts.CURVES.items():
        for model in table.models:
            own = [row["curves"][name] for (of, _), row in first.items() if of == model and name in row["curves"]]
            if own:
                mean[model][name] = tables.mean_curve(own, limit, start)
    categories: dict[str, dict[str, list]] = {}
    for category in dict.fromkeys(category for _, category in first):
        found = {model: first[model, category] for model in table.models if (model, category) in first}
        drawn = [charts.histogram_chart(m, found[m]["histogram"], i) for i, m in enumerate(table.models) if m in found]
        curves = {model: row["curves"] for model, row in found.items() if len(table.categories) > 1}
        categories[category] = {"curves": charts.curve_charts(table.models, curves), "histograms": list(filter(None, drawn))}
    seconds = {model: tables.speed_of(rows, model, data=table.data)["median_s"] for model in table.models}
    speed = {}
    for name in table.metrics:
        points = [(i, m, seconds[m], table.cells[m][MEAN][name].value) for i, m in enumerate(table.models)]
        if chart := charts.speed_chart(points, METRIC_TITLES[name]):
            speed[METRIC_TITLES[name]] = chart
    return {"mean": charts.curve_charts(table.models, mean), "categories": categories, "speed": speed}
