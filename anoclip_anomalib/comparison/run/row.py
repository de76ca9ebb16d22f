"""A job's row: metrics, thresholds, curves, a histogram; and its pictures for the report."""

import io
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
from PIL import Image

from anoclip_anomalib.checks import own_words
from anoclip_anomalib.comparison.run.measure import THUMBNAIL, Measured, relative_path
from anoclip_anomalib.comparison.run.row_schema import FORMAT, DoneRow, FailedRow
from anoclip_anomalib.comparison.suite.suite import Job
from anoclip_anomalib.data.images import shrink
from anoclip_anomalib.evaluation import curves
from anoclip_anomalib.evaluation.curves import ScoreCounts, UndefinedMetricError
from anoclip_anomalib.evaluation.registry import METRICS, Metric
from anoclip_anomalib.evaluation.thresholds import choose_threshold

HISTOGRAM_BINS = 40
ROC = (curves.roc, 1.0, 0.0, "false positive rate", "true positive rate")
PRECISION_RECALL = (curves.precision_recall, 1.0, None, "recall", "precision")
PRO = (curves.pro_curve, 0.3, 0.0, "false positive rate", "mean region overlap")
CURVES: dict[str, tuple[str, str, Callable, float, float | None, str, str]] = {
    "image_roc": ("image", "Image ROC", *ROC),
    "pixel_roc": ("pixel", "Pixel ROC", *ROC),
    "image_pr": ("image", "Image precision-recall", *PRECISION_RECALL),
    "pixel_pr": ("pixel", "Pixel precision-recall", *PRECISION_RECALL),
    "pro": ("pixel", "PRO up to a false positive rate of 0.3", *PRO),
}
"""Name -> level, title, points, limit of x, first y of a mean (``None``: the curves' own), titles of the axes."""


class Pictures(NamedTuple):
    """Pictures of a job's samples, each a strip of squares side by side.

    Attributes:
        heatmaps: PNG, grey: the maps, one scale for the whole job.
        images: JPEG: the photographs (the same for every job on this category).
        masks: PNG, grey: the masks as this model saw them.
    """

    heatmaps: bytes
    images: bytes
    masks: bytes


def _head(job: Job, status: str) -> dict[str, Any]:
    """What every row holds."""
    names = {"model": job.model.name, "data": job.data.name, "category": job.category, "seed": job.seed}
    return {"format": FORMAT, "id": job.id, "job": names, "status": status}


def failed_row(job: Job, error: BaseException, trace: str = "") -> FailedRow:
    """The row of a job that failed."""
    told = {"type": type(error).__name__, "message": own_words(error)[:2000], "traceback": trace[-10000:]}
    return cast(FailedRow, _head(job, "failed") | {"error": told})


def finished_row(job: Job, result: Measured, natural: float | None, root: Any) -> DoneRow:
    """The measured part of a job's row; undefined metrics are null and explained under "undefined". The job adds the rest.

    Args:
        job: What ran.
        result: What it left behind.
        natural: The model's natural threshold, if it has one.
        root: Folder of the data set.
    """
    scores, labels = np.array([image.score for image in result.images]), np.array([image.label for image in result.images])
    known, rule = labels >= 0, job.protocol.threshold
    labelled = (np.array(result.validation[0]), np.array(result.validation[1])) if result.validation[0] else None
    image_threshold = choose_threshold(rule, result.image_reference, natural, labelled)
    thresholds = {"image": image_threshold, "pixel": choose_threshold(rule, result.pixel_reference, natural)}
    counts = {"image": _tried(curves.count_scores, scores[known], labels[known]), "pixel": _tried(result.pixels.counts)}

    def figure(metric: Metric) -> tuple[float | None, str | None]:
        found, reason = counts[metric.level]
        return (None, reason) if reason else _tried(metric.compute, found, thresholds[metric.level].value)

    figures = {name: figure(metric) for name, metric in METRICS.items()}
    measured = {
        "metrics": {name: value for name, (value, _) in figures.items()},
        "undefined": {name: reason for name, (_, reason) in figures.items() if reason},
        "thresholds": {level: {"value": _finite(one.value), "rule": one.rule} for level, one in thresholds.items()},
        "counts": {
            "images": len(scores),
            "normal": int((labels == 0).sum()),
            "anomalous": int((labels > 0).sum()),
            "masked_images": result.pixels.images,
            "regions": result.pixels.regions,
            "reference_images": result.image_reference.count,
        },
        "map_size": result.map_size,
        "resolution": job.protocol.resolution,
        "image_score": "maximum of the map" if result.no_image_score else "the model's own",
        "curves": _curves({level: found for level, (found, _) in counts.items()}),
        "histogram": _histogram(scores[known], labels[known]),
        "images": [[relative_path(one.path, root), one.score, one.label, _finite(one.map_auroc)] for one in result.images],
    }
    return cast(DoneRow, _head(job, "done") | measured)


def _tried(compute: Callable[..., Any], *arguments: Any) -> tuple[Any, str | None]:
    """What is computed, or ``None`` and why it is undefined."""
    try:
        return compute(*arguments), None
    except UndefinedMetricError as error:
        return None, str(error)


def _curves(counts: dict[str, ScoreCounts | None]) -> dict[str, Any]:
    """Points for drawing, see CURVES."""
    drawn = {}
    for name, (level, _, read, limit, *_) in CURVES.items():
        with suppress(UndefinedMetricError):
            if (found := counts[level]) is not None:
                x, y = read(found.curve)
                inside = int(np.searchsorted(x, limit, side="right")) + 1
                x, y = curves.downsample(x[:inside], y[:inside], 120)
                drawn[name] = {"x": [round(value, 5) for value in x], "y": [round(value, 5) for value in y]}
    return drawn


def _histogram(scores: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Image scores of normal and anomalous images in equal bins."""
    if not len(scores):
        return {"edges": [], "normal": [], "anomalous": []}
    low, high = float(scores.min()), float(scores.max())
    edges = np.linspace(low, high if high > low else low + 1e-6, HISTOGRAM_BINS + 1)
    normal, anomalous = (np.histogram(scores[chosen], edges)[0].tolist() for chosen in (labels == 0, labels > 0))
    return {"edges": [low, float(edges[-1])], "normal": normal, "anomalous": anomalous}


def pictures_of(job: Job, result: Measured, root: Any, row: DoneRow) -> Pictures | None:
    """Draw the strips and add to the row which squares they hold.

    They are "samples" [path, label, score, quality]; "map_scale" are the scores that a heatmap's 0 and 255 stand for.
    """
    kept = [(index, image, image.thumbnail) for index, image in enumerate(result.images) if image.thumbnail is not None]
    row["samples"], row["map_scale"] = [], None
    if not kept:
        return None
    values = np.concatenate([small.reshape(-1) for _, _, small in kept])
    low, high = row["map_scale"] = float(np.percentile(values, 1)), float(np.percentile(values, 99.9))  # in float32, as ever
    scores, labels = np.array([image.score for image in result.images]), np.array([image.label for image in result.images])
    squares = []
    for index, image, small in sorted(kept, key=lambda one: one[1].path):
        level = np.clip((small - low) / (high - low), 0, 1) if high > low else small * 0
        # A model may have squeezed the image: map and mask take the photograph's shape, so that they lie on it.
        photograph = _photograph(image.path)
        size = (photograph.shape[1], photograph.shape[0])
        level = np.clip(cv2.resize(level, size, interpolation=cv2.INTER_LINEAR), 0, 1)
        mask = np.zeros((1, 1), np.uint8) if image.mask is None else image.mask
        mask = cv2.resize(mask, size, interpolation=cv2.INTER_LINEAR)
        squares.append([_square(one) for one in (np.round(255 * level).astype(np.uint8), photograph, mask)])
        quality = image_quality(scores, labels, index, image.map_auroc)
        row["samples"].append((relative_path(image.path, root), image.label, image.score, _finite(quality)))
    strips = (np.concatenate(strip, axis=1) for strip in zip(*squares, strict=True))
    return Pictures(*(_encode(strip, kind) for strip, kind in zip(strips, ("PNG", "JPEG", "PNG"), strict=True)))


def image_quality(scores: np.ndarray, labels: np.ndarray, index: int, pixel_auroc: float = math.nan) -> float:
    """How right a model is on one image, 0..1; NaN if nothing tells.

    The share of images of the other class on the right side of it, averaged with the AUROC inside its map where there is one.
    """
    others = scores[(labels >= 0) & (labels != labels[index])]
    parts = [] if math.isnan(pixel_auroc) else [pixel_auroc]
    if len(others) and labels[index] >= 0:
        side = scores[index] - others if labels[index] > 0 else others - scores[index]
        parts.append(float((side > 0).mean() + 0.5 * (side == 0).mean()))
    return float(np.mean(parts)) if parts else math.nan


def _photograph(path: str) -> np.ndarray:
    with Image.open(path) as image:
        image.draft("RGB", (4 * THUMBNAIL, 4 * THUMBNAIL))
        return shrink(np.asarray(image.convert("RGB")), THUMBNAIL)


def _square(image: np.ndarray) -> np.ndarray:
    """Centre a thumbnail in a black square of THUMBNAIL pixels."""
    gaps = [THUMBNAIL - length for length in image.shape[:2]]
    return np.pad(image, [(gap // 2, gap - gap // 2) for gap in gaps] + [(0, 0)] * (image.ndim - 2))


def _encode(image: np.ndarray, kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **({"quality": 82} if kind == "JPEG" else {"optimize": True}))
    return stream.getvalue()


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
