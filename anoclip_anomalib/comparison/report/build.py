"""Write a report from a results folder."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from anoclip_anomalib.comparison.report import charts, intervals, pictures, text
from anoclip_anomalib.comparison.report.quoted import Quoted, load_quoted
from anoclip_anomalib.comparison.report.tables import MEAN, METRIC_TITLES, Table, build_table, mean_curve, speed_of
from anoclip_anomalib.comparison.run.folder import ResultsError, ResultsFolder
from anoclip_anomalib.comparison.run.provenance import FACTS
from anoclip_anomalib.comparison.suite.catalogue import constant_categories, find_class
from anoclip_anomalib.files import atomic_write

FEW = 20  # normal images; a threshold from fewer is worth a warning
SHOWN_FACTS = (
    "class", "callbacks", "learning type", "image size", "resize", "smoothing", "image score",
    "image threshold", "pixel threshold", "reference images", "weights (SHA-256)", "versions", "commit", "hardware", "note",
)  # fmt: skip
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
        quoted_file: YAML file with such figures; None for ours.

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
    tables = [
        build_table(data, suite["models"], categories, rows, len(suite["seeds"])) for data, categories in suite["data"].items()
    ]
    quotes = {table.data: _quotes(rows, table, quoted_file) for table in tables} if quoted else {}
    models = [_model_facts(rows, model) for model in suite["models"]]
    notes = _notes(suite, rows, faults)
    sure = {table.data: intervals.estimates(rows, table) for table in tables}
    context = {
        "title": suite["name"],
        "description": suite.get("description", ""),
        "suite": suite,
        "notes": notes,
        "tables": tables,
        "quotes": quotes,
        "titles": METRIC_TITLES,
        "mean": MEAN,
        "models": models,
        "facts": FACT_TITLES,
        "failed": [row for row in rows if row["status"] == "failed"],
        "grids": {table.data: pictures.grid(folder.path, rows, table.models, table.data) for table in tables},
        "charts": {table.data: _charts(table, rows) for table in tables},
        "estimates": sure,
        "measures": intervals.MEASURES,
        "method_words": text.METHOD,
        "defects": {table.data: intervals.per_defect(rows, table) for table in tables},
        "shown_facts": SHOWN_FACTS,
        "percent": text.percent,
        "p_text": text.p_text,
        "colour": charts.colour,
    }
    target = Path(output) if output else folder.path
    written = {
        "report.html": render_html(context),
        "report.md": text.markdown(suite["name"], tables, quotes, _flat_models(models), notes, sure),
        "jobs.csv": text.csv_text(rows),
        "tables.tex": text.latex(tables, quotes),
    }
    for name, content in written.items():
        with atomic_write(target / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return [target / name for name in written]


def render_html(context: dict[str, Any]) -> str:
    """Fill the template; everything from data is escaped."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    here = files(__package__)
    template = environment.from_string(here.joinpath("report.html.jinja").read_text(encoding="utf-8"))
    for name in ("report.css", "report.js"):
        context[name.replace(".", "_")] = jinja2.utils.markupsafe.Markup(here.joinpath(name).read_text(encoding="utf-8"))
    return template.render(context)


def _quotes(rows: list[dict], table: Table, path: str | Path | None) -> list[Quoted]:
    """Published figures of a data set; none for parts of it, and none for other data in its layout."""
    for row in rows:
        if row["job"]["data"] == table.data and row["status"] == "done":
            found = find_class("data", row["provenance"]["config"]["data"]["spec"]["class_path"])
            whole = set(table.categories) == set(constant_categories(found))
            return load_quoted(found.__name__, path) if whole or path is not None else []
    return []


def _notes(suite: dict, rows: list[dict], faults: list[str]) -> list[str]:
    done = sum(row["status"] == "done" for row in rows)
    failed = sum(row["status"] == "failed" for row in rows)
    notes = [f"{done} of {len(suite['jobs'])} jobs done, {failed} failed; seeds: {', '.join(map(str, suite['seeds']))}"]
    protocol = suite["protocol"]
    notes.append(
        f"All models are measured on their raw scores, before any normalisation; maps and masks are compared at "
        f"{'the size of the original images' if protocol['resolution'] == 'original' else 'the size of each model’s maps'}."
    )
    if len({json.dumps(row["map_size"]) for row in rows if row["status"] == "done"}) > 1 and protocol["resolution"] == "model":
        notes.append("The models' maps differ in size, so pixel metrics are not strictly comparable; use resolution: original.")
    few = sorted({row["counts"].get("reference_images", 0) for row in rows if row["status"] == "done"})
    few = [count for count in few if 0 < count < FEW]
    if few:
        notes.append(f"Thresholds rest on {_range(few)} normal images only: figures at a threshold are uncertain.")
    loads = [row["speed"].get("other_load") or 0.0 for row in rows if row["status"] == "done"]
    if max(loads, default=0.0) > 0.5:
        notes.append(f"Other programs kept up to {max(loads):.1f} CPU cores busy while jobs ran: times are too long.")
    if any("images" not in row for row in rows if row["status"] == "done"):
        notes.append("Some rows keep no scores of single images (made by an older version): they have no intervals.")
    for versions in _different(rows, lambda row: row["provenance"]["commit"]):
        notes.append(f"Rows come from different commits: {versions}")
    for processors in _different(rows, lambda row: row["provenance"]["hardware"].get("processor")):
        notes.append(f"Rows come from different machines, speed is not comparable: {processors}")
    return notes + [f"Left out: {fault}" for fault in faults]


def _different(rows: list[dict], read: Any) -> list[str]:
    values = sorted({str(read(row)) for row in rows if row["status"] == "done"})
    return [", ".join(values)] if len(values) > 1 else []


def _model_facts(rows: list[dict], model: str) -> dict[str, Any]:
    """A model's line in the provenance table, from its rows; differing entries are listed side by side."""
    own = [row for row in rows if row["job"]["model"] == model and row["status"] == "done"]

    def each(read: Any) -> str:
        return "; ".join(dict.fromkeys(str(read(row)) for row in own)) or "no result"

    provenance: dict[str, str] = {fact: each(lambda row, fact=fact: _yes(row["provenance"]["method"][fact])) for fact in FACTS}
    pre = lambda name: each(lambda row: row["provenance"]["preprocessing"].get(name))  # noqa: E731
    return {
        "name": model,
        "facts": provenance,
        "class": each(lambda row: row["provenance"]["config"]["model"]["spec"]["class_path"]),
        "callbacks": each(_callbacks),
        "learning type": each(lambda row: row["provenance"]["learning_type"]),
        "image size": pre("image_size"),
        "resize": pre("resize"),
        "smoothing": pre("smoothing"),
        "image score": each(lambda row: row["image_score"]),
        "image threshold": each(lambda row: row["thresholds"]["image"]["rule"]),
        "pixel threshold": each(lambda row: row["thresholds"]["pixel"]["rule"]),
        "reference images": each(lambda row: row["counts"].get("reference_images", 0)),
        "weights (SHA-256)": _digests(own),
        "versions": each(lambda row: ", ".join(f"{k} {v}" for k, v in row["provenance"]["versions"].items())),
        "commit": each(lambda row: row["provenance"]["commit"]),
        "hardware": each(lambda row: _hardware(row)),
        "note": "; ".join(dict.fromkeys(row["provenance"]["note"] for row in own if row["provenance"].get("note"))),
        "speed": speed_of(own, model),
    }


def _range(counts: list[int]) -> str:
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _callbacks(row: dict) -> str:
    specs = row["provenance"]["config"]["model"]["callbacks"]
    shown = [f"{spec['class_path'].rpartition('.')[2]}({_arguments(spec['init_args'])})" for spec in specs]
    return ", ".join(shown) or "none"


def _arguments(init_args: dict) -> str:
    return ", ".join(f"{key}={value}" for key, value in init_args.items())


def _digests(rows: list[dict]) -> str:
    digests = list(dict.fromkeys(row["provenance"]["weights_digest"][:12] for row in rows))
    if len(digests) > 3:
        return f"{', '.join(digests[:2])}, … ({len(digests)} trained models; all in the rows)"
    return ", ".join(digests) or "no result"


def _hardware(row: dict) -> str:
    hardware, speed = row["provenance"]["hardware"], row["speed"]
    return f"{hardware.get('gpu') or hardware.get('processor')}, {speed['device']}, {speed['threads']} threads"


def _yes(value: Any) -> str:
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _flat_models(models: list[dict]) -> list[dict[str, Any]]:
    flat = []
    for model in models:
        line = {key: value for key, value in model.items() if key not in ("facts", "speed")}
        line |= {FACT_TITLES[fact]: value for fact, value in model["facts"].items()}
        line |= {key: "n/a" if value is None else f"{value:.4g}" for key, value in model["speed"].items()}
        flat.append(line)
    return flat


def _charts(table: Table, rows: list[dict]) -> dict[str, Any]:
    """Drawings of a data set: curves of the mean and of each category with its histograms (first seed), speed and accuracy."""
    first = {(row["job"]["model"], row["job"]["category"]): row for row in pictures.first_seed_rows(rows, table.data)}
    mean: dict[str, dict[str, Any]] = {model: {} for model in table.models}
    for name, (*_, limit, start) in charts.CURVES.items():
        for model in table.models:
            own = [row["curves"][name] for (of, _), row in first.items() if of == model and name in row["curves"]]
            if own:
                mean[model][name] = mean_curve(own, limit, start)
    categories: dict[str, dict[str, list]] = {}
    for category in dict.fromkeys(category for _, category in first):
        found = {model: first[model, category] for model in table.models if (model, category) in first}
        drawn = [charts.histogram_chart(m, found[m]["histogram"], i) for i, m in enumerate(table.models) if m in found]
        curves = {model: row["curves"] for model, row in found.items()} if len(table.categories) > 1 else {}
        categories[category] = {
            "curves": charts.curve_charts(table.models, curves),
            "histograms": [chart for chart in drawn if chart is not None],
        }
    seconds = {model: speed_of(rows, model, table.data)["median_s"] for model in table.models}
    speed = {}
    for name in table.metrics:
        points = [(i, m, seconds[m], table.cells[m][MEAN][name].value) for i, m in enumerate(table.models)]
        chart = charts.speed_chart(points, METRIC_TITLES[name])
        if chart is not None:
            speed[METRIC_TITLES[name]] = chart
    return {"mean": charts.curve_charts(table.models, mean), "categories": categories, "speed": speed}
