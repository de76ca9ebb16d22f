"""A job's row: metrics, thresholds, curves, a histogram; and its pictures for the report."""

import io
import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image

from anoclip_anomalib.comparison.run.measure import THUMBNAIL, Measured, relative_path, shrink
from anoclip_anomalib.comparison.run.row_schema import FORMAT
from anoclip_anomalib.comparison.suite.suite import Job
from anoclip_anomalib.evaluation import curves
from anoclip_anomalib.evaluation.curves import ScoreCounts, UndefinedMetricError
from anoclip_anomalib.evaluation.registry import METRICS
from anoclip_anomalib.evaluation.thresholds import Threshold, choose_threshold

HISTOGRAM_BINS = 40


@dataclass
class Pictures:
    """Pictures of a job's samples, each a strip of squares side by side.

    Attributes:
        heatmaps: PNG, grey: the maps, one scale for the whole job.
        images: JPEG: the photographs (the same for every job on this category).
        masks: PNG, grey: the masks as this model saw them.
    """

    heatmaps: bytes
    images: bytes
    masks: bytes


def job_fields(job: Job) -> dict[str, Any]:
    """What names a job in its row."""
    return {"model": job.model.name, "data": job.data.name, "category": job.category, "seed": job.seed}


def failed_row(job: Job, error: BaseException, trace: str = "") -> dict[str, Any]:
    """The row of a job that failed."""
    return {
        "format": FORMAT,
        "id": job.id,
        "job": job_fields(job),
        "status": "failed",
        "error": {"type": type(error).__name__, "message": str(error)[:2000], "traceback": trace[-10000:]},
    }


def finished_row(job: Job, result: Measured, natural: float | None, root: Any) -> dict[str, Any]:
    """The measured part of a job's row. Undefined metrics are null and explained under "undefined".

    Args:
        job: what ran.
        result: what it left behind.
        natural: the model's natural threshold, if it has one.
        root: folder of the data set.
    """
    scores, labels = np.array(result.scores), np.array(result.labels)
    known = labels >= 0
    validation = (np.array(result.validation[0]), np.array(result.validation[1]))
    labelled = validation if len(validation[0]) else None
    image_threshold = choose_threshold(job.protocol.threshold, result.image_reference, natural, labelled)
    pixel_threshold = choose_threshold(job.protocol.threshold, result.pixel_reference, natural)
    image = _counts(lambda: curves.count_scores(scores[known], labels[known]))
    pixel = _counts(result.pixels.counts)
    image_metrics, image_undefined = _measure("image", image, image_threshold)
    pixel_metrics, pixel_undefined = _measure("pixel", pixel, pixel_threshold)
    return {
        "format": FORMAT,
        "id": job.id,
        "job": job_fields(job),
        "status": "done",
        "metrics": image_metrics | pixel_metrics,
        "undefined": image_undefined | pixel_undefined,
        "thresholds": {
            "image": {"value": _finite(image_threshold.value), "rule": image_threshold.rule},
            "pixel": {"value": _finite(pixel_threshold.value), "rule": pixel_threshold.rule},
        },
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
        "curves": _curves(image, pixel),
        "histogram": _histogram(scores[known], labels[known]),
        "images": [
            [relative_path(path, root), float(score), int(label), _finite(map_auroc)]
            for path, score, label, map_auroc in zip(result.paths, result.scores, result.labels, result.map_aurocs, strict=True)
        ],
    }


def _counts(read: Any) -> ScoreCounts | str:
    try:
        return read()
    except UndefinedMetricError as error:
        return str(error)


def _measure(level: str, counts: ScoreCounts | str, threshold: Threshold) -> tuple[dict[str, float | None], dict[str, str]]:
    """Values of the metrics of images or pixels, None where undefined, and the reasons for those."""
    wanted = {name: metric for name, metric in METRICS.items() if metric.level == level}
    metrics: dict[str, float | None] = dict.fromkeys(wanted)
    if isinstance(counts, str):
        return metrics, dict.fromkeys(wanted, counts)
    undefined: dict[str, str] = {}
    for name, metric in wanted.items():
        try:
            metrics[name] = float(metric.compute(counts, threshold.value))
        except UndefinedMetricError as error:
            undefined[name] = str(error)
    return metrics, undefined


def _curves(image: ScoreCounts | str, pixel: ScoreCounts | str) -> dict[str, Any]:
    """Points for drawing: ROC and precision over recall of images and pixels, PRO up to a false positive rate of 0.3."""
    found: dict[str, Any] = {}

    def add(name: str, counts: ScoreCounts | str, read: Any, limit: float) -> None:
        if isinstance(counts, str):
            return
        try:
            x, y = read(counts.curve)
        except UndefinedMetricError:
            return
        inside = int(np.searchsorted(x, limit, side="right")) + 1
        x, y = curves.downsample(x[:inside], y[:inside], 120)
        found[name] = {"x": [round(value, 5) for value in x], "y": [round(value, 5) for value in y]}

    add("image_roc", image, curves.roc, 1.0)
    add("pixel_roc", pixel, curves.roc, 1.0)
    add("image_pr", image, curves.precision_recall, 1.0)
    add("pixel_pr", pixel, curves.precision_recall, 1.0)
    add("pro", pixel, curves.pro_curve, 0.3)
    return found


def _histogram(scores: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Image scores of normal and anomalous images in equal bins."""
    if not len(scores):
        return {"edges": [], "normal": [], "anomalous": []}
    low, high = float(scores.min()), float(scores.max())
    edges = np.linspace(low, high if high > low else low + 1e-6, HISTOGRAM_BINS + 1)
    count = lambda chosen: np.histogram(scores[chosen], edges)[0].tolist()  # noqa: E731
    return {"edges": [low, float(edges[-1])], "normal": count(labels == 0), "anomalous": count(labels > 0)}


def pictures_of(job: Job, result: Measured, root: Any, row: dict[str, Any]) -> Pictures | None:
    """Draw the strips and add to the row which squares they hold: "samples" [path, label, score, quality],
    and the scores that a heatmap's 0 and 255 stand for: "map_scale"."""
    samples = sorted(result.samples, key=lambda sample: sample.path)
    row["samples"], row["map_scale"] = [], None
    if not samples:
        return None
    low, high = row["map_scale"] = _scale(result, samples)
    index = {path: i for i, path in enumerate(result.paths)}
    scores, labels = np.array(result.scores), np.array(result.labels)
    strips: tuple[list, list, list] = ([], [], [])
    for sample in samples:
        position = index[sample.path]
        level = np.clip((sample.anomaly_map - low) / (high - low), 0, 1) if high > low else sample.anomaly_map * 0
        # A model may have squeezed the image: map and mask take the photograph's shape, so that they lie on it.
        photograph = _photograph(sample.path)
        size = (photograph.shape[1], photograph.shape[0])
        level = np.clip(cv2.resize(level, size, interpolation=cv2.INTER_LINEAR), 0, 1)
        mask = np.zeros(level.shape, np.uint8)
        if sample.mask is not None:
            mask = cv2.resize(sample.mask, size, interpolation=cv2.INTER_LINEAR)
        strips[0].append(_square(np.round(255 * level).astype(np.uint8)))
        strips[1].append(_square(photograph))
        strips[2].append(_square(mask))
        quality = image_quality(scores, labels, position, result.map_aurocs[position])
        row["samples"].append(
            [relative_path(sample.path, root), int(labels[position]), float(scores[position]), _finite(quality)]
        )
    heatmaps, images, masks = (np.concatenate(strip, axis=1) for strip in strips)
    return Pictures(_encode(heatmaps, "PNG"), _encode(images, "JPEG"), _encode(masks, "PNG"))


def image_quality(scores: np.ndarray, labels: np.ndarray, index: int, pixel_auroc: float = math.nan) -> float:
    """How right a model is on one image, 0..1: the share of images of the other class on the right side of it,
    averaged with the AUROC inside its map where there is one. NaN if neither exists.
    """
    others = scores[(labels >= 0) & (labels != labels[index])]
    parts = [] if math.isnan(pixel_auroc) else [pixel_auroc]
    if len(others) and labels[index] >= 0:
        side = scores[index] - others if labels[index] > 0 else others - scores[index]
        parts.append(float((side > 0).mean() + 0.5 * (side == 0).mean()))
    return float(np.mean(parts)) if parts else math.nan


def _scale(result: Measured, samples: list) -> tuple[float, float]:
    """Scores drawn darkest and brightest: the 1st and 99.9th percentile of the samples' maps."""
    values = np.concatenate([sample.anomaly_map.reshape(-1) for sample in samples])
    return float(np.percentile(values, 1)), float(np.percentile(values, 99.9))


def _photograph(path: str) -> np.ndarray:
    with Image.open(path) as image:
        image.draft("RGB", (4 * THUMBNAIL, 4 * THUMBNAIL))
        return shrink(np.asarray(image.convert("RGB")))


def _square(image: np.ndarray) -> np.ndarray:
    """Centre a thumbnail in a black square of THUMBNAIL pixels."""
    square = np.zeros((THUMBNAIL, THUMBNAIL, *image.shape[2:]), np.uint8)
    top, left = (THUMBNAIL - image.shape[0]) // 2, (THUMBNAIL - image.shape[1]) // 2
    square[top : top + image.shape[0], left : left + image.shape[1]] = image
    return square


def _encode(image: np.ndarray, kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **({"quality": 82} if kind == "JPEG" else {"optimize": True}))
    return stream.getvalue()


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
