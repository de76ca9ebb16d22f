"""A gallery of images, masks and heatmaps as one HTML file that opens offline."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from anoclip_anomalib.files import atomic_write


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
    """

    title: str
    notice: str
    items: Mapping[str, Sequence[GalleryItem]]
    rows: Sequence[MetricRow] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


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
        loader=PackageLoader("anoclip_anomalib.demo"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("gallery.html.jinja").render(
        gallery=gallery,
        table=_table(gallery.rows),
        sections=[_section(category, items, side) for category, items in gallery.items.items()],
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Path(path)


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
