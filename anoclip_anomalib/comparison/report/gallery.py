"""A gallery of a comparison's images, masks and heatmaps as one HTML file that opens offline."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from anoclip_anomalib.comparison.report.build import SHOWN_FACTS
from anoclip_anomalib.comparison.report.pictures import Strips, data_uri, outlined
from anoclip_anomalib.comparison.report.tables import MEAN, distinct, finished, first_seed_rows
from anoclip_anomalib.comparison.report.text import render
from anoclip_anomalib.comparison.run.folder import ResultsError, ResultsFolder
from anoclip_anomalib.comparison.run.row_schema import DoneRow
from anoclip_anomalib.files import atomic_write

FACTS = ("weights (SHA-256)", "image size", "versions")  # how the figures came about, as far as rows tell


class GalleryItem(NamedTuple):
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
    scores: Mapping[str, float] = {}


class MetricRow(NamedTuple):
    """Figures of one variant on one category (or their mean): metric -> value, NaN where it is undefined."""

    category: str
    variant: str
    values: Mapping[str, float]


class Gallery(NamedTuple):
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
    facts: Mapping[str, str] = {}
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
    sections = [_section(category, items, side) for category, items in gallery.items.items()]
    page = render("gallery.html.jinja", gallery=gallery, table=_table(gallery.rows), sections=sections)
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Path(path)


def gallery_of(
    results: str | Path, title: str, notice: str, metrics: Mapping[str, str], each: int = 2, facts: Mapping[str, str] = {}
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
    rows = finished(folder.rows()[0])
    if not rows:
        raise ResultsError(f"{folder.path} has no results yet")
    items: dict[str, list[GalleryItem]] = {}
    table: list[MetricRow] = []
    for data, categories in suite["data"].items():
        first = first_seed_rows(rows, data)
        for category in categories:
            name = category if len(suite["data"]) == 1 else f"{data} / {category}"
            found = {model: first[model, category] for model in suite["models"] if (model, category) in first}
            items[name] = _items(Strips(folder.path), found, each)
            table += [_metric_row(name, model, [row], metrics) for model, row in found.items()]
    table += [_metric_row(MEAN, model, own, metrics) for model in suite["models"] if (own := finished(rows, model=model))]
    shown = {name: some for name, some in items.items() if some}
    known = {title: distinct(rows, SHOWN_FACTS[title]) for title in FACTS}
    return Gallery(title, notice, shown, table, known | dict(facts), suite["protocol"]["resolution"])


def _metric_row(category: str, model: str, rows: Sequence[DoneRow], metrics: Mapping[str, str]) -> MetricRow:
    """Figures of a model, their mean over several rows; NaN where one of them is undefined."""
    found = {title: np.array([row["metrics"][name] for row in rows], dtype=np.float64) for title, name in metrics.items()}
    return MetricRow(category, model, {title: float(np.mean(values)) for title, values in found.items()})


def _items(strips: Strips, rows: dict[str, DoneRow], each: int) -> list[GalleryItem]:
    """Images that all models kept, normal ones first."""
    kept = {model: {path: score for path, _, score, _ in row["samples"]} for model, row in rows.items()}
    kinds: dict[str, list[str]] = {}
    for path in sorted(set.intersection(*map(set, kept.values()))) if kept else []:
        kinds.setdefault(Path(path).parent.name, []).append(path)
    items = []
    for kind in sorted(kinds, key=lambda name: (name != "good", name)):
        for path in kinds[kind][:each]:
            image, mask = strips.image_and_mask(next(iter(rows.values())), path)
            maps = {}
            for model, row in rows.items():
                low, high = row.get("map_scale") or (0.0, 1.0)  # rows of earlier versions do not tell
                if (heat := strips.heatmap(row, path)) is not None:
                    maps[model] = low + heat.astype(np.float32) / 255 * (high - low)
            if image is not None and maps:
                scores = {model: own[path] for model, own in kept.items()}
                items.append(GalleryItem(f"{kind}/{Path(path).stem}", image, mask, maps, scores))
    return items


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
        raise ValueError(f"An anomaly map must be two-dimensional and finite, got shape {anomaly_map.shape}")
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
    return {"category": category, "ranges": ranges, "entries": [_entry(item, ranges, side) for item in items]}


def _entry(item: GalleryItem, ranges: Mapping[str, tuple[float, float]], side: int) -> dict:
    height, width = item.image.shape[:2]
    factor = side / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    image = cv2.resize(item.image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    defect = np.zeros((height, width), bool) if item.mask is None else item.mask
    mask = cv2.resize(defect.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    shown = data_uri(np.repeat(255 * mask[..., None], 3, 2), "png")
    pictures = [("image", data_uri(image, quality=88), ""), ("mask", shown, "" if defect.any() else "no defect")]
    for variant, anomaly_map in item.maps.items():
        overlay = outlined(heatmap_overlay(image, anomaly_map, *ranges[variant]), mask, (255, 255, 255))
        note = f"{item.scores[variant]:.4f}" if variant in item.scores else ""
        pictures.append((variant, data_uri(overlay, quality=88), note))
    return {"name": item.name, "pictures": pictures}


def _table(rows: Sequence[MetricRow]) -> dict:
    metrics = list(dict.fromkeys(metric for row in rows for metric in row.values))
    lines = []
    for row in rows:
        rivals = [other for other in rows if other.category == row.category]
        cells = []
        for metric in metrics:
            value, *others = (one.values.get(metric, float("nan")) for one in (row, *rivals))
            best = np.nanmin(others) < value == np.nanmax(others) if not np.isnan(value) else False
            cells.append(("–" if np.isnan(value) else f"{100 * value:.1f}", bool(best)))
        first = rivals[0] is row
        lines.append({"category": row.category if first else "", "first": first, "variant": row.variant, "cells": cells})
    return {"metrics": metrics, "lines": lines}
