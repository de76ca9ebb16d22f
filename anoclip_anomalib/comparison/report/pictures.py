"""The grid of heatmaps: the same images for all models, chosen where they do best, worst, and disagree most."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from anoclip_anomalib.comparison.run.folder import picture_stem


@dataclass(frozen=True)
class Choice:
    """An image of the grid: why it is there, and each model's quality on it (0..1)."""

    reason: str
    category: str
    path: str
    label: int
    quality: dict[str, float]


def choose(rows: list[dict[str, Any]], models: list[str], data: str, each: int = 4) -> list[Choice]:
    """Choose images that every model has: the `each` best, worst and most disputed ones.

    Quality is how right a model is on an image (see row.image_quality): best and worst by the mean over models, disputed by
    the spread. Of several seeds the first counts. Images of different categories are preferred.
    """
    found: dict[tuple[str, str], dict[str, float]] = {}
    labels: dict[tuple[str, str], int] = {}
    for row in first_seed_rows(rows, data):
        for path, label, _, quality in row.get("samples", []):
            if quality is not None:
                key = (row["job"]["category"], path)
                found.setdefault(key, {})[row["job"]["model"]] = quality
                labels[key] = label
    wanted = [model for model in models if any(model in quality for quality in found.values())]
    complete = {key: quality for key, quality in found.items() if all(model in quality for model in wanted)}
    mean = {key: float(np.mean(list(quality.values()))) for key, quality in complete.items()}
    spread = {key: float(np.ptp(list(quality.values()))) for key, quality in complete.items()}
    orders = [
        ("worst", sorted(complete, key=lambda key: (mean[key], key))),
        ("disputed", sorted(complete, key=lambda key: (-spread[key], key)) if len(wanted) > 1 else []),
        ("best", sorted(complete, key=lambda key: (-labels[key], -mean[key], key))),
    ]
    chosen: list[Choice] = []
    taken: set[tuple[str, str]] = set()
    for reason, order in orders:
        if reason == "disputed":
            order = [key for key in order if spread[key] > 0]
        for key in _spread_over_categories([key for key in order if key not in taken], each):
            taken.add(key)
            chosen.append(Choice(reason, key[0], key[1], labels[key], complete[key]))
    return sorted(chosen, key=lambda choice: ("best", "worst", "disputed").index(choice.reason))


def _spread_over_categories(order: list[tuple[str, str]], count: int) -> list[tuple[str, str]]:
    """The first `count`, but no category twice before all had their turn."""
    seen: dict[str, int] = {}
    turns = []
    for place, key in enumerate(order):
        turn = seen.get(key[0], 0)
        seen[key[0]] = turn + 1
        turns.append((turn, place, key))
    return [key for _, _, key in sorted(turns)[:count]]


def first_seed_rows(rows: list[dict[str, Any]], data: str) -> list[dict[str, Any]]:
    """Finished rows of a data set, of each model and category the one with the smallest seed."""
    first: dict[tuple[str, str], dict] = {}
    for row in rows:
        job = row["job"]
        if row["status"] == "done" and job["data"] == data:
            key = (job["model"], job["category"])
            if key not in first or job["seed"] < first[key]["job"]["seed"]:
                first[key] = row
    return list(first.values())


def grid(folder: Path, rows: list[dict[str, Any]], models: list[str], data: str, each: int = 4) -> list[dict[str, Any]]:
    """Rows of the grid with pictures as data URIs: photograph, mask, and each model's map laid over the photograph."""
    by_job = {(row["job"]["model"], row["job"]["category"]): row for row in first_seed_rows(rows, data)}
    strips: dict[Path, np.ndarray | None] = {}
    result = []
    for choice in choose(rows, models, data, each):
        owners = {model: by_job[model, choice.category] for model in models if (model, choice.category) in by_job}
        any_row = next(iter(owners.values()))
        stem = folder / "pictures" / picture_stem(data, choice.category)
        paths = [path for path, *_ in any_row["samples"]]
        image = square(strips, Path(f"{stem}-images.jpg"), paths.index(choice.path))
        masks = folder / "pictures" / f"{any_row['id']}-masks.png"
        masks = masks if masks.exists() else Path(f"{stem}-masks.png")  # older folders: one file for all models
        mask = square(strips, masks, paths.index(choice.path))
        if image is None:
            continue
        image = image if image.ndim == 3 else np.stack([image] * 3, axis=2)
        cells = []
        for model in models:
            cell = {"model": model, "quality": choice.quality.get(model), "picture": None}
            if model in owners:
                own = [path for path, *_ in owners[model]["samples"]]
                strip = folder / "pictures" / f"{owners[model]['id']}.png"
                heat = square(strips, strip, own.index(choice.path)) if choice.path in own else None
                cell["picture"] = None if heat is None else _uri(overlay(image, heat))
            cells.append(cell)
        result.append(
            {
                "reason": choice.reason,
                "category": choice.category,
                "path": choice.path,
                "anomalous": choice.label > 0,
                "image": _uri(image),
                "mask": None if mask is None else _uri(_outlined(image, mask)),
                "cells": cells,
            }
        )
    return result


def square(strips: dict[Path, np.ndarray | None], path: Path, index: int) -> np.ndarray | None:
    """One picture of a strip of squares; None if it is lost.

    Args:
        strips: strips that were read before; this one is added.
        path: the strip's file.
        index: which square.
    """
    if path not in strips:
        try:
            with Image.open(path) as image:
                strips[path] = np.asarray(image)
        except OSError:  # a picture that is lost costs a picture, not the report
            strips[path] = None
    strip = strips[path]
    if strip is None:
        return None
    side = strip.shape[0]
    return strip[:, index * side : (index + 1) * side] if strip.shape[1] >= (index + 1) * side else None


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay a heatmap (H, W) uint8 over a photograph (H, W, 3)."""
    colours = cv2.cvtColor(cv2.applyColorMap(np.ascontiguousarray(heat), cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    return (0.35 * image + 0.65 * colours).astype(np.uint8)


def _outlined(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The photograph with the mask's outline."""
    contours, _ = cv2.findContours((mask > 127).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.ascontiguousarray(image), contours, -1, (255, 40, 40), 1)


def _uri(image: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
