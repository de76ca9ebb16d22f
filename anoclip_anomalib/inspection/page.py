"""``index.html`` of a results folder: its photographs ranked, to look through, on any screen and without a network."""

import base64
import csv
import hashlib
import heapq
import io
import json
import math
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from anoclip_anomalib.files import atomic_write, printable
from anoclip_anomalib.inspection.pictures import heat_colours

EMBEDDED = 300  # photographs in one file; with more their pictures stay beside it
EMBEDDED_BYTES = 64 * 2**20  # of their pictures; above it they are made smaller
EMBEDDED_SIDE = 900  # pixels
SHOWN = 20_000  # rows; browsers get slow
BINS = 60
_PARTS = ("page.css", "page.js", "page.html.jinja")


Row = dict[str, Any]
"""A photograph on the page; addresses are ``None`` for what is not there.

``path``, ``picture``: as ``results.csv`` has them. ``score``, ``rank`` (from 1, the most unusual one), ``z`` (``None`` if the
folder has no spread), ``verdict`` ("defect", "good" or ""): numbers and words of it. ``regions``: what stands below the score.
``name``: its path below the folder that all photographs share. ``photo``, ``heat``, ``composite``: addresses
of its picture for the page, of the photograph under its heat to lay over it, and of the picture that the run wrote for people.
"""


def write_page(folder: str | Path) -> Path:
    """Write ``index.html`` from ``results.csv``, ``run.json`` and the pictures in ``pictures/`` and ``page/``.

    The pictures of up to 300 photographs become part of the file; ``page/`` is then removed, unless the run is not complete.

    Args:
        folder: Results folder of an inspection, also of one that was stopped.

    Returns:
        The page; it takes the place of an earlier one when it is whole.

    Raises:
        OSError: If the results cannot be read, or the page cannot be written.
        ValueError: If ``run.json`` is damaged.
    """
    folder = Path(folder)
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    rows, faults, total = _read(folder / "results.csv")
    pictures = [_pictures(folder, row["picture"]) for row in rows]
    common = _common_folder(row["path"] for row in rows)
    together = len(rows) <= EMBEDDED
    small = together and sum(one.stat().st_size for own in pictures for one in own[:2] if one) > EMBEDDED_BYTES
    shown = partial(_embed, small=small) if together else partial(_link, folder)
    for row, (photo, heat, composite) in zip(rows, pictures, strict=True):
        row |= {
            "name": printable(os.path.relpath(row["path"], common) if common else row["path"]),
            "photo": photo and shown(photo),
            "heat": heat and shown(heat),
            "composite": composite and _link(folder, composite),
        }
    first = next((photo for photo, _, _ in pictures if photo), None)
    target = folder / "index.html"
    with atomic_write(target) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(_template().generate(_context(run, rows, faults, total) | {"aspect": _aspect(first)}))
    if together and run.get("complete") and not (folder / "page").is_symlink():
        shutil.rmtree(folder / "page", ignore_errors=True)
    return target


def _read(path: Path) -> tuple[list[Row], list[Row], int]:
    """The rows to show, most unusual first; files with a fault; the number of scores."""
    faults: list[Row] = []
    total = 0

    def scored(lines: Iterator[dict[str, Any]]) -> Iterator[Row]:
        nonlocal total
        for line in lines:
            row = {"path": "", "fault": "", "picture": None} | {key: value for key, value in line.items() if value}
            row |= {key: _number(line.get(key)) for key in ("score", "rank", "z")}
            if row["fault"] or row["score"] is None:
                faults.append(row | {"fault": row["fault"] or "its line has no score"})
                continue
            total += 1
            verdict = line.get("verdict")
            yield row | {"regions": _regions(line.get("regions")), "verdict": verdict if verdict in ("good", "defect") else ""}

    csv.field_size_limit(sys.maxsize)  # regions of one photograph may be many
    with path.open(encoding="utf-8", errors="backslashreplace", newline="") as file:
        rows = heapq.nlargest(SHOWN, scored(csv.DictReader(file)), key=lambda row: row["score"])
    for position, row in enumerate(rows, 1):
        row["rank"] = int(row["rank"] or position)
    return rows, faults, total


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _regions(text: str | None) -> str:
    try:
        regions = json.loads(text or "[]")
        peak = max(float(region["peak"]) for region in regions)
    except (ValueError, TypeError, KeyError):
        return ""
    return f"{len(regions)} region{'s' if len(regions) > 1 else ''}, peak {peak:.4f}"


def _common_folder(paths: Iterable[str]) -> str:
    """The folder that all photographs share, below which their names are short."""
    try:
        return os.path.commonpath([os.path.dirname(path) for path in paths])
    except ValueError:  # no rows, or absolute and relative paths
        return ""


def _pictures(folder: Path, composite: str | None) -> tuple[Path | None, Path | None, Path | None]:
    """Photograph, heat and composite of a row, as far as they are there; nothing outside of the folder."""
    if not composite:
        return None, None, None
    own = Path("page", *Path(composite).with_suffix("").parts[1:])
    return _inside(folder, f"{own}.photo.jpg"), _inside(folder, f"{own}.heat.jpg"), _inside(folder, composite)


def _inside(folder: Path, name: str) -> Path | None:
    try:
        path = folder / name
        return path if path.is_file() and path.resolve().is_relative_to(folder.resolve()) else None
    except (OSError, ValueError):  # a name that no file can have
        return None


def _link(folder: Path, path: Path) -> str:
    return quote(os.fsencode(path.resolve().relative_to(folder.resolve()).as_posix()))


def _embed(path: Path, small: bool) -> str | None:
    """A picture as a data URI; ``None`` if it is damaged."""
    try:
        with Image.open(path) as picture:
            content, kind = path.read_bytes(), "jpeg"
            if small:
                made = io.BytesIO()
                picture.thumbnail((EMBEDDED_SIDE, EMBEDDED_SIDE))
                picture.save(made, "WEBP", quality=82, method=1)  # a third of the time, little larger
                content, kind = made.getvalue(), "webp"
    except OSError:
        return None
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _aspect(path: Path | None) -> float:
    """Width by height of the cards' pictures: that of the first photograph, within reason."""
    try:
        with Image.open(path or "") as picture:
            return min(max(picture.width / picture.height, 0.6), 1.8)
    except OSError:  # none, or damaged
        return 1.0


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Whatever a file is called, its name is one line of text.
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    css, script, page = (files(__package__).joinpath(name).read_text(encoding="utf-8") for name in _PARTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.globals |= {
        "css": Markup(css.replace("HEAT_COLOURS", _colours())),
        "script": Markup(script),
        # No other script runs, whatever a name might have smuggled in.
        "script_hash": Markup(f"sha256-{digest}"),
    }
    return environment.from_string(page)


def _colours() -> str:
    """The heat's colours as stops of a CSS gradient."""
    stops = heat_colours(np.linspace(0, 1, 9)[None], (0, 1))[0].tolist()
    return ", ".join(f"rgb({red} {green} {blue} / {opacity / 255:.2f})" for red, green, blue, opacity in stops)


def _context(run: dict[str, Any], rows: list[Row], faults: list[Row], total: int) -> dict[str, Any]:
    decision, facts = run.get("decision") or {}, run.get("facts") or {}
    threshold = decision.get("image_threshold")
    good = sorted(decision.get("good") or [], key=lambda one: -one["score"])
    scores, good_scores = [row["score"] for row in rows], [one["score"] for one in good]
    values = scores + good_scores + ([] if threshold is None else [threshold])
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    shown = {name: _text(value) for name, value in facts.items() if value not in (None, "", {}, [])}
    subtitle = (
        ", backbone ".join(str(facts[name]) for name in ("model", "backbone") if facts.get(name)) if facts.get("model") else "",
        str(run.get("started") or "").replace("T", " ")[:16],
        f"{run['seconds']:.0f} s" if run.get("seconds") else "",
    )
    return {
        "title": f"Inspection: {facts['product']}" if facts.get("product") else "Inspection",
        "subtitle": " · ".join(filter(None, subtitle)),
        "decision": None if threshold is None else {"expected_false_alarm_rate": None, "pixel_threshold": None} | decision,
        "run": run,
        "good": good,
        "good_scores": good_scores,
        "rows": rows,
        "faults": faults,
        "total": total,
        "low": low,
        "high": high,
        "histogram": {"bins": BINS, "photographs": _bars(scores, low, high, 26), "good": _bars(good_scores, low, high, 11)},
        "facts": shown | {name: _text(run[name]) for name in ("started", "seconds", "command") if run.get(name)},
    }


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(_text, value)) if all(isinstance(item, str) for item in value) else ", ".join(map(_text, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _bars(scores: Sequence[float], low: float, high: float, tallest: float) -> list[tuple[int, float]]:
    """Position and height of the bars of a histogram that are not empty."""
    counts, _ = np.histogram(scores, BINS, (low, high if high > low else low + 1))
    return [(place, 1 + (tallest - 1) * count / counts.max()) for place, count in enumerate(counts.tolist()) if count]
