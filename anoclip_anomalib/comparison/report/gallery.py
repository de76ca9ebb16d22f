"""A gallery of a comparison's images, masks and heatmaps as one HTML file that opens offline."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from anoclip_anomalib.comparison.report.pictures import first_seed_rows, square
from anoclip_anomalib.comparison.run.folder import ResultsError, ResultsFolder, picture_stem
from anoclip_anomalib.files import atomic_write

MEAN = "mean"


@dataclass(frozen=True)
class GalleryItem:
    """One test image.

    Attributes:
        name: What stands below the image, such as ``"dent/003"``.
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool, or ``None`` where nothing is wrong or no mask is known.
        maps: Variant -> anomaly map (h, w), any range; enlarged to the image.
        scores: Variant -> image score.
    """

    name: str
    image: np.ndarray
    mask: np.ndarray | None
    maps: Mapping[str, np.ndarray]
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class MetricRow:
    """Figures of one variant on one category (or their mean): metric -> value, NaN where it is undefined."""

    category: str
    variant: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Gallery:
    """What the page shows.

    Attributes:
        title: Heading.
        notice: A sentence that stands on top, framed.
        items: Category -> its images, in the order in which they are shown.
        rows: The metric table; rows of one category follow one another.
        facts: Name -> value, at the end: how the figures came about.
        resolution: "model" or "original": where maps and masks were compared.
    """

    title: str
    notice: str
    items: Mapping[str, Sequence[GalleryItem]]
    rows: Sequence[MetricRow] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    resolution: str = "model"


def write_gallery(gallery: Gallery, path: str | Path, *, side: int = 160) -> Path:
    """Render ``gallery`` into one HTML file without any outside reference.

    Heatmaps of one variant in one category share a colour range, from the 2nd percentile of these maps to the 99.8th; the page
    states it.

    Args:
        gallery: What to show.
        path: The file; replaced atomically.
        side: Longer side of each picture in pixels.

    Returns:
        ``path``.

    Raises:
        ValueError: If a map is not two-dimensional or not finite.
    """
    environment = Environment(
        loader=FileSystemLoader(str(files(__package__))), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("gallery.html.jinja").render(
        gallery=gallery,
        table=_table(gallery.rows),
        sections=[_section(category, items, side) for category, items in gallery.items.items()],
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Path(path)


def gallery_of(
    results: str | Path,
    title: str,
    notice: str,
    metrics: Mapping[str, str],
    each: int = 2,
    facts: Mapping[str, str] | None = None,
) -> Gallery:
    """The gallery of a comparison's results; of several seeds the first counts.

    Args:
        results: Results folder of a comparison.
        title: Heading.
        notice: The sentence on top.
        metrics: Title in the table -> name of the metric, as rows have it.
        each: At most so many images of each kind (the name of an image's folder), of those that the comparison kept.
        facts: More lines at the end.

    Raises:
        ResultsError: If it is no results folder, or has no finished row.
    """
    folder = ResultsFolder(results)
    suite = folder.suite()
    rows = [row for row in folder.rows()[0] if row["status"] == "done"]
    if not rows:
        raise ResultsError(f"{folder.path} has no results yet")
    items: dict[str, list[GalleryItem]] = {}
    table: list[MetricRow] = []
    for data, categories in suite["data"].items():
        own = {(row["job"]["category"], row["job"]["model"]): row for row in first_seed_rows(rows, data)}
        for category in categories:
            name = category if len(suite["data"]) == 1 else f"{data} / {category}"
            found = {model: own[category, model] for model in suite["models"] if (category, model) in own}
            items[name] = _items(folder.path, data, category, found, each)
            table += [_metric_row(name, model, [row], metrics) for model, row in found.items()]
    means = [(model, [row for row in rows if row["job"]["model"] == model]) for model in suite["models"]]
    table += [_metric_row(MEAN, model, own, metrics) for model, own in means if own]
    shown = {name: some for name, some in items.items() if some}
    return Gallery(title, notice, shown, table, _facts(rows) | dict(facts or {}), suite["protocol"]["resolution"])


def _metric_row(category: str, model: str, rows: Sequence[dict[str, Any]], metrics: Mapping[str, str]) -> MetricRow:
    """Figures of a model, their mean over several rows; NaN where one of them is undefined."""
    found = {title: [row["metrics"][name] for row in rows] for title, name in metrics.items()}
    values = {title: float("nan") if None in own else float(np.mean(own)) for title, own in found.items()}
    return MetricRow(category, model, values)


def _items(folder: Path, data: str, category: str, rows: dict[str, dict[str, Any]], each: int) -> list[GalleryItem]:
    """Images that all models kept, normal ones first."""
    kept = {model: {sample[0]: index for index, sample in enumerate(row["samples"])} for model, row in rows.items()}
    common = sorted(set.intersection(*(set(paths) for paths in kept.values()))) if kept else []
    kinds: dict[str, list[str]] = {}
    for path in common:
        kinds.setdefault(Path(path).parent.name, []).append(path)
    strips: dict[Path, np.ndarray | None] = {}
    stem = f"{folder / 'pictures' / picture_stem(data, category)}"
    items = []
    for kind in sorted(kinds, key=lambda name: (name != "good", name)):
        for path in kinds[kind][:each]:
            place = next(iter(kept.values()))[path]
            image, mask = square(strips, Path(f"{stem}-images.jpg"), place), square(strips, Path(f"{stem}-masks.png"), place)
            maps = {}
            for model, row in rows.items():
                heat = square(strips, folder / "pictures" / f"{row['id']}.png", kept[model][path])
                low, high = row.get("map_scale") or (0.0, 1.0)  # rows of earlier versions do not tell
                if heat is not None:
                    maps[model] = low + heat.astype(np.float32) / 255 * (high - low)
            if image is not None and maps:
                image = image if image.ndim == 3 else np.repeat(image[..., None], 3, 2)
                scores = {model: row["samples"][kept[model][path]][2] for model, row in rows.items()}
                name = f"{kind}/{Path(path).stem}"
                items.append(GalleryItem(name, image, None if mask is None else mask > 127, maps, scores))
    return items


def _facts(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """How the figures came about, as far as rows tell."""

    def each(read: Any) -> str:
        return "; ".join(dict.fromkeys(str(read(row["provenance"])) for row in rows))

    return {
        "weights (SHA-256)": each(lambda provenance: provenance["weights_digest"]),
        "image size": each(lambda provenance: provenance["preprocessing"].get("image_size")),
        "versions": each(lambda provenance: ", ".join(f"{name} {value}" for name, value in provenance["versions"].items())),
    }


def colour_range(maps: Sequence[np.ndarray]) -> tuple[float, float]:
    """Common range of several maps: 2nd and 99.8th percentile of all their values."""
    values = np.concatenate([np.asarray(anomaly_map).ravel() for anomaly_map in maps])
    low, high = np.percentile(values, [2, 99.8])
    return float(low), float(high)


def heatmap_overlay(image: np.ndarray, anomaly_map: np.ndarray, low: float, high: float) -> np.ndarray:
    """Lay a map over its image: (H, W, 3) uint8; ``low`` and what is below leaves the image, greyed, as it is.

    Args:
        image: (H, W, 3) uint8 RGB.
        anomaly_map: (h, w) float, resized bilinearly to the image.
        low: Value that is drawn as nothing.
        high: Value, and all above it, that is drawn as the hottest colour.

    Raises:
        ValueError: If the map is not two-dimensional or not finite.
    """
    if anomaly_map.ndim != 2 or not np.isfinite(anomaly_map).all():
        msg = f"An anomaly map must be two-dimensional and finite, got shape {anomaly_map.shape}"
        raise ValueError(msg)
    height, width = image.shape[:2]
    scaled = np.clip((anomaly_map.astype(np.float32) - low) / max(high - low, 1e-12), 0, 1)
    scaled = cv2.resize(scaled, (width, height), interpolation=cv2.INTER_LINEAR)
    heat = cv2.applyColorMap(np.round(255 * scaled).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    grey = np.repeat(image.mean(2, keepdims=True), 3, 2)
    weight = 0.25 + 0.5 * scaled[..., None]
    return np.round(grey * (1 - weight) + heat * weight).astype(np.uint8)


def _section(category: str, items: Sequence[GalleryItem], side: int) -> dict:
    variants = list(dict.fromkeys(variant for item in items for variant in item.maps))
    ranges = {variant: colour_range([item.maps[variant] for item in items if variant in item.maps]) for variant in variants}
    return {
        "category": category,
        "ranges": ranges,
        "entries": [_entry(item, ranges, side) for item in items],
    }


def _entry(item: GalleryItem, ranges: Mapping[str, tuple[float, float]], side: int) -> dict:
    image = _shrink(item.image, side)
    height, width = image.shape[:2]
    mask = None
    if item.mask is not None and item.mask.any():
        mask = cv2.resize(item.mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    pictures = [("image", _embed(image), "")]
    shown = np.zeros((height, width, 3), np.uint8) if mask is None else np.repeat(255 * mask[..., None], 3, 2)
    pictures.append(("mask", _embed(shown, ".png"), "" if mask is not None else "no defect"))
    for variant, anomaly_map in item.maps.items():
        overlay = np.ascontiguousarray(heatmap_overlay(image, anomaly_map, *ranges[variant]))
        if mask is not None:
            contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(overlay, contours, -1, (255, 255, 255), 1)
        score = item.scores.get(variant)
        pictures.append((variant, _embed(overlay), "" if score is None else f"{score:.4f}"))
    return {"name": item.name, "defective": mask is not None, "pictures": pictures}


def _shrink(image: np.ndarray, side: int) -> np.ndarray:
    height, width = image.shape[:2]
    factor = side / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)


def _embed(image: np.ndarray, suffix: str = ".jpg") -> str:
    options = [cv2.IMWRITE_JPEG_QUALITY, 88] if suffix == ".jpg" else []
    _, data = cv2.imencode(suffix, image[..., ::-1], options)
    kind = "jpeg" if suffix == ".jpg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode()}"


def _table(rows: Sequence[MetricRow]) -> dict:
    metrics = list(dict.fromkeys(metric for row in rows for metric in row.values))
    lines = []
    for row in rows:
        rivals = [other for other in rows if other.category == row.category]
        cells = []
        for metric in metrics:
            value = row.values.get(metric, float("nan"))
            others = [rival.values.get(metric, float("nan")) for rival in rivals]
            cells.append(("–" if np.isnan(value) else f"{100 * value:.1f}", min(others) < value == max(others)))
        first = rivals[0] is row
        lines.append({"category": row.category if first else "", "first": first, "variant": row.variant, "cells": cells})
    return {"metrics": metrics, "lines": lines}
