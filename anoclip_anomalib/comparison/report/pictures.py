"""The grid of heatmaps: the same images for all models, chosen where they do best, worst, and disagree most."""

import base64
import io
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from anoclip_anomalib.comparison.report.tables import first_seed_rows
from anoclip_anomalib.comparison.run.folder import picture_stem
from anoclip_anomalib.comparison.run.row_schema import DoneRow, Row


class Choice(NamedTuple):
    """An image of the grid: why it is there, and each model's quality on it (0..1)."""

    reason: str
    category: str
    path: str
    label: int
    quality: dict[str, float]


def choose(rows: Sequence[Row], models: list[str], data: str, each: int = 4) -> list[Choice]:
    """Choose images that every model has: the ``each`` best, worst and most disputed ones.

    Quality is how right a model is on an image (see row.image_quality): best and worst by the mean over models, disputed by
    the spread. Of several seeds the first counts. Images of different categories are preferred.
    """
    found: defaultdict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    labels: dict[tuple[str, str], int] = {}
    for (model, category), row in first_seed_rows(rows, data).items():
        for path, label, _, quality in row.get("samples", []):
            if quality is not None:
                found[category, path][model], labels[category, path] = quality, label
    wanted = set().union(*found.values())
    complete = {key: quality for key, quality in found.items() if wanted <= quality.keys()}
    mean = {key: float(np.mean(list(quality.values()))) for key, quality in complete.items()}
    spread = {key: float(np.ptp(list(quality.values()))) for key, quality in complete.items()}
    orders = {
        "worst": sorted(complete, key=lambda key: (mean[key], key)),
        "disputed": sorted((key for key in complete if spread[key] > 0), key=lambda key: (-spread[key], key)),
        "best": sorted(complete, key=lambda key: (-labels[key], -mean[key], key)),
    }
    chosen: dict[tuple[str, str], Choice] = {}
    for reason, order in orders.items():
        for key in _spread_over_categories([key for key in order if key not in chosen], each):
            chosen[key] = Choice(reason, *key, labels[key], complete[key])
    return sorted(chosen.values(), key=lambda choice: ("best", "worst", "disputed").index(choice.reason))


def _spread_over_categories(order: list[tuple[str, str]], count: int) -> list[tuple[str, str]]:
    """The first ``count``, but no category twice before all had their turn."""
    turns: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)
    return sorted(order, key=lambda key: next(turns[key[0]]))[:count]


def grid(folder: Path, rows: Sequence[Row], models: list[str], data: str, each: int = 4) -> list[dict[str, Any]]:
    """Rows of the grid with pictures as data URIs: photograph, mask, and each model's map laid over the photograph."""
    first, strips, shown = first_seed_rows(rows, data), Strips(folder), []
    for choice in choose(rows, models, data, each):
        owners = {model: first[model, choice.category] for model in models if (model, choice.category) in first}
        image, mask = strips.image_and_mask(next(iter(owners.values())), choice.path)
        if image is None:
            continue
        heats = {model: strips.heatmap(row, choice.path) for model, row in owners.items()}
        drawn = {model: data_uri(overlay(image, heat)) for model, heat in heats.items() if heat is not None}
        outline = None if mask is None else data_uri(outlined(image, mask, (255, 40, 40)))
        cells = [{"model": m, "quality": choice.quality.get(m), "picture": drawn.get(m)} for m in models]
        about = {"reason": choice.reason, "path": choice.path, "anomalous": choice.label > 0}
        shown.append(about | {"image": data_uri(image), "mask": outline, "cells": cells})
    return shown


class Strips:
    """Pictures of a results folder, cut out of the strips of squares that jobs wrote; ``None`` where one is lost.

    Args:
        folder: The results folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "pictures"
        self._read = cache(self._strip)

    def image_and_mask(self, row: DoneRow, path: str) -> tuple[np.ndarray | None, np.ndarray | None]:
        """A photograph (H, W, 3) uint8 and its mask (H, W) bool."""
        stem = picture_stem(row["job"]["data"], row["job"]["category"])
        own = f"{row['id']}-masks.png"
        mask = self._square(row, path, own if (self.folder / own).exists() else f"{stem}-masks.png")  # older: one for all
        image = self._square(row, path, f"{stem}-images.jpg")
        image = np.stack([image] * 3, axis=2) if image is not None and image.ndim == 2 else image
        return image, None if mask is None else mask > 127

    def heatmap(self, row: DoneRow, path: str) -> np.ndarray | None:
        """The map of a row's model (H, W) uint8."""
        return self._square(row, path, f"{row['id']}.png")

    def _square(self, row: DoneRow, path: str, name: str) -> np.ndarray | None:
        strip, paths = self._read(name), [path for path, *_ in row["samples"]]
        if strip is None or path not in paths:
            return None
        side = strip.shape[0]
        start = paths.index(path) * side
        return strip[:, start : start + side] if strip.shape[1] >= start + side else None

    def _strip(self, name: str) -> np.ndarray | None:
        try:
            with Image.open(self.folder / name) as image:
                return np.asarray(image)
        except OSError:  # a picture that is lost costs a picture, not the report
            return None


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay a heatmap (H, W) uint8 over a photograph (H, W, 3)."""
    colours = cv2.cvtColor(cv2.applyColorMap(np.ascontiguousarray(heat), cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    return (0.35 * image + 0.65 * colours).astype(np.uint8)


def outlined(image: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """A picture (H, W, 3) with the outline of a mask (H, W) bool."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.ascontiguousarray(image), contours, -1, colour, 1)


def data_uri(image: np.ndarray, kind: str = "jpeg", quality: int = 80) -> str:
    """A picture (H, W, 3) uint8 RGB as the address of itself; ``quality`` is JPEG's."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, quality=quality)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
