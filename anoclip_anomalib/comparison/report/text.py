"""The texts of a report: templates filled for HTML, Markdown and LaTeX, and the CSV of all jobs."""

import csv
import html
import io
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from anoclip_anomalib.comparison.report.intervals import MEASURES, RESAMPLES
from anoclip_anomalib.comparison.report.tables import MEAN, METRIC_TITLES
from anoclip_anomalib.comparison.run.row_schema import Row
from anoclip_anomalib.files import csv_safe

METHOD = (
    f"Intervals: percentile bootstrap, {RESAMPLES} draws of images (normal and anomalous apart, the same for every model); "
    "of several seeds the mean. p: no difference to the best model, by DeLong's test (image AUROC) or Wilcoxon's signed ranks "
    "(maps), after Holm's correction for the number of models, which intervals do not have. The best is the best on these very "
    "images, so its lead is somewhat optimistic."
)


def percent(value: float | None, digits: int = 2) -> str:
    """0.91234 -> "91.23"; ``None`` -> "n/a"."""
    return "n/a" if value is None else f"{100 * value:.{digits}f}"


def p_text(p: float | None) -> str:
    """0.03 -> "0.030"; below 0.001 only that."""
    return "n/a" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def plain(text: Any) -> str:
    """A text from data as Markdown that shows it and does nothing else: no HTML, link, table cell or line of its own."""
    escaped = re.sub(r"([\\`*\[\]|])", r"\\\1", " ".join(str(text).split()))
    return html.escape(escaped, quote=False)


_SPECIAL = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
_SPECIAL |= {char: "\\" + char for char in "&%$#_{}"}


def escaped(text: str) -> str:
    """A text from data as LaTeX that shows it."""
    return "".join(_SPECIAL.get(char, char) for char in text)


@cache
def _templates() -> Environment:
    loader, escaping = FileSystemLoader(Path(__file__).parent), lambda name: ".html" in name
    environment = Environment(
        loader=loader, autoescape=escaping, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {"percent": percent, "p_text": p_text, "titles": METRIC_TITLES, "mean": MEAN}
    environment.globals |= {"measures": MEASURES, "method_words": METHOD}
    environment.filters |= {"plain": plain, "escaped": escaped, "titled": METRIC_TITLES.get}
    return environment


def render(template: str, **context: Any) -> str:
    """Fill a template of this folder; in HTML everything from data is escaped."""
    return _templates().get_template(template).render(context)


COLUMNS = {  # column -> place in a row; with the job's own it is a superset of the columns of anomalib's benchmark CSV
    "status": "status",
    "error": "error.message",
    "accelerator": "speed.device",
    "job_duration": "duration_s",
    "fit_duration": "speed.fit_s",
    "test_duration": "speed.test_s",
    **{name: f"metrics.{name}" for name in METRIC_TITLES},
    **{name: f"speed.{name}" for name in ("median_s", "p95_s", "images_per_second", "batch_size", "threads", "other_load")},
    **{name: f"memory.{name}" for name in ("cpu_peak_mib", "cpu_extra_mib", "gpu_peak_mib")},
    "parameters": "parameters.total",
    "reference_images": "counts.reference_images",
    "image_threshold": "thresholds.image.value",
    "image_threshold_rule": "thresholds.image.rule",
    "pixel_threshold": "thresholds.pixel.value",
    "pixel_threshold_rule": "thresholds.pixel.rule",
    **{name: f"provenance.{name}" for name in ("weights_digest", "commit", "note", "learning_type", "time")},
}


def csv_text(rows: Sequence[Row]) -> str:
    """All jobs, one line each, see COLUMNS; and what is known of their origin."""
    lines = []
    for row in rows:
        found = flatten(row)
        line = {**row["job"], **{column: found.get(place) for column, place in COLUMNS.items()}}
        origin = cast(Mapping[str, Any], row.get("provenance", {}))
        parts = ("method", "preprocessing", "hardware", "versions", "config")
        lines.append(line | flatten({part: origin.get(part, {}) for part in parts}))
    columns = list(dict.fromkeys(key for line in lines for key in line))
    stream = io.StringIO()
    table = [columns, *([line.get(key) for key in columns] for line in lines)]
    csv.writer(stream, lineterminator="\n").writerows([csv_safe(cell) for cell in cells] for cells in table)
    return stream.getvalue()


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    result: dict[str, Any] = {}
    for key, item in value.items():
        result |= flatten(item, f"{prefix}{key}.") if isinstance(item, dict) else {f"{prefix}{key}": item}
    return result
