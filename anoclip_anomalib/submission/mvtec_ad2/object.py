"""One object of an MVTec AD 2 submission: from raw maps to float16 TIFFs and thresholded PNGs."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from anoclip_anomalib.evaluation.reference import ScoreReference
from anoclip_anomalib.evaluation.thresholds import ThresholdRule
from anoclip_anomalib.files import atomic_write
from anoclip_anomalib.submission.mvtec_ad2.layout import MAPS, MASKS, file_path
from anoclip_anomalib.submission.mvtec_ad2.rank_float16 import (
    RankMap,
    fit_rank_map,
    image_quantiles,
    kendall_tau,
    kendall_tau_at_least,
)
from anoclip_anomalib.submission.mvtec_ad2.raw_maps import RawMap

MIN_TAU = 0.999
"""A written map whose ranks agree less than this with the model's is reported."""


@dataclass(frozen=True)
class ObjectFit:
    """What all images of one object share.

    Attributes:
        rank_map: Scores to float16 values.
        threshold: Scores above it are anomalous.
        rule: How the threshold was found, in words.
    """

    rank_map: RankMap
    threshold: float
    rule: str


def fit_object(normal: Iterable[RawMap], test: Iterable[RawMap], rule: ThresholdRule, linear_share: float) -> ObjectFit:
    """Find the threshold on good validation images and the float16 range on the test images.

    Args:
        normal: Predictions of good validation images; their maps are taken at original size, as the test maps are.
        test: Predictions of both private splits. No label is used, and the range changes no rank.
        rule: A rule that needs no labels.
        linear_share: See ``fit_rank_map``.

    Raises:
        ValueError: If the rule needs labels, or the test maps are all equal.
    """
    if rule.kind == "adaptive":
        raise ValueError("the adaptive threshold needs labels, which the private splits do not have")
    reference = ScoreReference()
    if rule.needs_reference:
        for prediction in normal:
            reference.update(prediction.at_original_size())
    threshold = rule.fit(reference)
    quantiles = np.stack([image_quantiles(prediction.scores) for prediction in test])
    return ObjectFit(fit_rank_map(quantiles, linear_share=linear_share), threshold.value, threshold.rule)


def write_result(
    folder: Path, object_name: str, split: str, prediction: RawMap, fit: ObjectFit, compression: str | None = None
) -> dict[str, Any]:
    """Write one image's TIFF and PNG at the original size, under the stem of the input image.

    Returns:
        ``tau``: Kendall's tau between the float32 map and what was written (at least; exact where it would be below 0.999),
        ``anomalous``: the share of pixels above the threshold.
    """
    stem = prediction.image.stem
    scores = prediction.at_original_size()
    values = fit.rank_map(scores)
    # Checked on what the file will hold, not on what was meant.
    if values.dtype != np.float16 or values.shape != scores.shape or not np.isfinite(values).all():
        raise ValueError(f"the map of {prediction.image} could not be written as finite float16")
    mask = np.where(scores > fit.threshold, np.uint8(255), np.uint8(0))
    with atomic_write(folder / file_path(MASKS, object_name, split, stem)) as temporary:
        Image.fromarray(mask).save(temporary, "PNG")
    # The TIFF comes last: where it lies, the image is complete.
    with atomic_write(folder / file_path(MAPS, object_name, split, stem)) as temporary:
        tifffile.imwrite(temporary, values, compression=compression, metadata=None)
    tau = kendall_tau_at_least(values)
    return {"tau": tau if tau >= MIN_TAU else kendall_tau(scores, values), "anomalous": float((mask > 0).mean())}


def write_object(
    folder: Path,
    object_name: str,
    predictions: Iterable[tuple[str, RawMap]],
    fit: ObjectFit,
    *,
    compression: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Write all images of an object.

    Args:
        folder: The submission folder.
        object_name: Such as ``can``.
        predictions: (split, prediction) of every private image.
        fit: The object's range and threshold.
        compression: TIFF compression; None writes plain TIFFs, which every reader understands.
        progress: Called with 1 for each image.

    Returns:
        Figures for provenance: threshold, rule, score range, smallest tau, share of anomalous pixels, maps of weak ranks.
    """
    figures, weak = [], []
    for split, prediction in predictions:
        result = write_result(folder, object_name, split, prediction, fit, compression)
        figures.append(result)
        if not result["tau"] >= MIN_TAU:
            weak.append({"image": f"{split}/{prediction.image.name}", "tau": result["tau"]})
        if progress:
            progress(1)
    return {
        "images": len(figures),
        "threshold": fit.threshold,
        "threshold_rule": fit.rule,
        "score_range": fit.rank_map.score_range,
        "smallest_kendall_tau": min((figure["tau"] for figure in figures), default=float("nan")),
        "anomalous_pixels": float(np.mean([figure["anomalous"] for figure in figures])) if figures else float("nan"),
        "maps_below_tau_0.999": weak,
    }
