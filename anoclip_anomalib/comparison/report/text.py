"""Tables as Markdown, CSV and LaTeX."""

import csv
import html
import io
import re
from typing import Any

from anoclip_anomalib.comparison.report.intervals import MEASURES, RESAMPLES, Estimate
from anoclip_anomalib.comparison.report.quoted import Quoted
from anoclip_anomalib.comparison.report.tables import MEAN, METRIC_TITLES, Cell, Table
from anoclip_anomalib.files import csv_safe

METHOD = (
    f"Intervals: percentile bootstrap, {RESAMPLES} draws of images (normal and anomalous apart, the same for every model); "
    "of several seeds the mean. p: no difference to the best model, by DeLong's test (image AUROC) or Wilcoxon's signed ranks "
    "(maps), after Holm's correction for the number of models, which intervals do not have. The best is the best on these very "
    "images, so its lead is somewhat optimistic."
)


def percent(value: float | None, digits: int = 2) -> str:
    """0.91234 -> "91.23"; None -> "n/a"."""
    return "n/a" if value is None else f"{100 * value:.{digits}f}"


def p_text(p: float | None) -> str:
    """0.03 -> "0.030"; below 0.001 only that."""
    return "n/a" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def markdown(
    title: str,
    tables: list[Table],
    quoted: dict[str, list[Quoted]],
    models: list[dict[str, Any]],
    notes: list[str],
    sure: dict[str, dict[str, dict[str, Estimate]]],
) -> str:
    """The whole report as Markdown: mean table, intervals, a table for each metric, speed, provenance."""
    parts = [f"# {plain(title)}\n", "Percent; best in bold, second best underlined.\n"]
    parts += [f"- {plain(note)}" for note in notes] + ([""] if notes else [])
    for table in tables:
        parts.append(f"## {plain(table.heading)}\n")
        head = ["model", *(METRIC_TITLES[name] for name in table.metrics)]
        lines = [[plain(model), *(_mark(table.cells[model][MEAN][name]) for name in table.metrics)] for model in table.models]
        for entry in quoted.get(table.data, []):
            values = [percent(entry.metrics.get(name)) if name in entry.metrics else "" for name in table.metrics]
            lines.append([f"*quoted:* {plain(entry.method)}", *values])
        parts.append(_markdown_table(head, lines))
        for entry in quoted.get(table.data, []):
            about = f"{entry.method}: {entry.source}; trained on: {entry.trained_on}"
            parts.append(f"- quoted, not measured here: {plain(about)}")
        parts += _sure_tables(table.data, sure.get(table.data, {}))
        for name in table.metrics:
            parts.append(f"\n### {plain(table.data)}: {METRIC_TITLES[name]}\n")
            categories = [*table.categories, MEAN]
            rows = [[plain(c), *(_mark(table.cells[m][c][name]) for m in table.models)] for c in categories]
            parts.append(_markdown_table(["category", *map(plain, table.models)], rows))
    parts.append("\n## Speed, memory, provenance\n")
    if models:
        head = [key for key in models[0] if key != "name"]
        parts.append(_markdown_table(["model", *head], [[plain(m["name"]), *(plain(m[key]) for key in head)] for m in models]))
    return "\n".join(parts) + "\n"


def _mark(cell: Cell) -> str:
    text = percent(cell.value)
    text = {1: f"**{text}**", 2: f"<u>{text}</u>"}.get(cell.rank, text)
    return f"{text} ({plain(cell.note)})" if cell.note and cell.value is not None else text


def plain(text: Any) -> str:
    """A text from data as Markdown that shows it and does nothing else: no HTML, link, table cell or line of its own."""
    escaped = re.sub(r"([\\`*\[\]|])", r"\\\1", " ".join(str(text).split()))
    return html.escape(escaped, quote=False)


def _sure_tables(data: str, sure: dict[str, dict[str, Estimate]]) -> list[str]:
    parts = []
    for measure, found in sure.items():
        lines = []
        for model, one in found.items():
            line = [plain(model), percent(one.value), f"{percent(one.low)} to {percent(one.high)}", "best", "", ""]
            if one.difference is not None:
                gap, low, high = (f"{100 * value:+.2f}" for value in one.difference)
                line[3:] = [gap, f"{low} to {high}", html.escape(p_text(one.p))]
            lines.append(line)
        head = ["model", "value", "95 % interval", "difference to the best", "95 % interval of it", "p"]
        parts += [f"\n### {plain(data)}: {MEASURES[measure]}\n", _markdown_table(head, lines)]
    return [*parts, f"{METHOD}\n"] if parts else []


def _markdown_table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in [head, *rows]]
    return "\n".join([lines[0], "|" + " --- |" * len(head), *lines[1:]]) + "\n"


def csv_text(rows: list[dict[str, Any]]) -> str:
    """All jobs, one line each: a superset of the columns of anomalib's benchmark CSV."""
    lines = []
    for row in rows:
        job, speed = row["job"], row.get("speed", {})
        provenance = row.get("provenance", {})
        line: dict[str, Any] = {**job, "status": row["status"], "error": row.get("error", {}).get("message", "")}
        line |= {"accelerator": speed.get("device", ""), "job_duration": row.get("duration_s")}
        line |= {"fit_duration": speed.get("fit_s"), "test_duration": speed.get("test_s")}
        line |= {name: row.get("metrics", {}).get(name) for name in METRIC_TITLES}
        line |= {
            name: speed.get(name) for name in ("median_s", "p95_s", "images_per_second", "batch_size", "threads", "other_load")
        }
        line |= row.get("memory", {})
        line["parameters"] = row.get("parameters", {}).get("total")
        line["reference_images"] = row.get("counts", {}).get("reference_images")
        for part in ("image", "pixel"):
            threshold = row.get("thresholds", {}).get(part, {})
            line |= {f"{part}_threshold": threshold.get("value"), f"{part}_threshold_rule": threshold.get("rule")}
        line |= {key: provenance.get(key) for key in ("weights_digest", "commit", "note", "learning_type", "time")}
        line |= flatten({key: provenance.get(key, {}) for key in ("method", "preprocessing", "hardware", "versions", "config")})
        lines.append(line)
    columns = list(dict.fromkeys(key for line in lines for key in line))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([csv_safe(column) for column in columns])
    writer.writerows(["" if line.get(key) is None else csv_safe(line[key]) for key in columns] for line in lines)
    return stream.getvalue()


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    if isinstance(value, dict):
        result: dict[str, Any] = {}
        for key, item in value.items():
            result |= flatten(item, f"{prefix}.{key}" if prefix else str(key))
        return result
    return {prefix: value}


def latex(tables: list[Table], quoted: dict[str, list[Quoted]]) -> str:
    """One table of means for each data set (booktabs)."""
    parts = ["% Percent; best bold, second best underlined. Needs \\usepackage{booktabs}."]
    for table in tables:
        columns = "l" + "r" * len(table.metrics)
        parts += ["\\begin{table}", "\\centering", f"\\begin{{tabular}}{{{columns}}}", "\\toprule"]
        parts.append(" & ".join(["Model", *(_escape(METRIC_TITLES[name]) for name in table.metrics)]) + " \\\\")
        parts.append("\\midrule")
        for model in table.models:
            cells = [_latex_cell(table.cells[model][MEAN][name]) for name in table.metrics]
            parts.append(" & ".join([_escape(model), *cells]) + " \\\\")
        if quoted.get(table.data):
            parts += ["\\midrule", f"\\multicolumn{{{len(table.metrics) + 1}}}{{l}}{{Quoted, not measured here}} \\\\"]
        for entry in quoted.get(table.data, []):
            cells = [percent(entry.metrics[name], 1) if name in entry.metrics else "--" for name in table.metrics]
            parts.append(" & ".join([f"\\emph{{{_escape(entry.method)}}}", *cells]) + " \\\\")
        caption = f"{_escape(table.heading)}."
        parts += ["\\bottomrule", "\\end{tabular}", f"\\caption{{{caption}}}", "\\end{table}", ""]
    return "\n".join(parts)


def _latex_cell(cell: Cell) -> str:
    if cell.value is None:
        return "--"
    text = percent(cell.value, 1)
    return {1: f"\\textbf{{{text}}}", 2: f"\\underline{{{text}}}"}.get(cell.rank, text)


_SPECIAL = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
_SPECIAL |= {char: "\\" + char for char in "&%$#_{}"}


def _escape(text: str) -> str:
    return "".join(_SPECIAL.get(char, char) for char in text)
