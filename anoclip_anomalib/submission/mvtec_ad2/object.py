"""One object of an MVTec AD 2 submission: from raw maps to float16 TIFFs and thresholded PNGs."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from anoclip_anomalib.evaluation.reference import ScoreReference
from anoclip_anomalib.evaluation.thresholds import Threshold, ThresholdRule
from anoclip_anomalib.files import atomic_write
from anoclip_anomalib.submission.mvtec_ad2 import rank_float16 as ranks
from anoclip_anomalib.submission.mvtec_ad2.layout import MAPS, MASKS, file_path
from anoclip_anomalib.submission.mvtec_ad2.raw_maps import RawMap

MIN_TAU = 0.999
"""A written map whose ranks agree less than this with the model's is reported."""


def fit_threshold(rule: ThresholdRule, normal: Iterable[RawMap]) -> Threshold:
    """Find the threshold on predictions of good images, whose maps are taken at original size."""
    reference = ScoreReference()
    for prediction in normal if rule.needs_reference else ():
        reference.update(prediction.at_original_size())
    return rule.fit(reference)


def fit_object(
    normal: Iterable[RawMap], test: Iterable[RawMap], rule: ThresholdRule, linear_share: float
) -> tuple[ranks.RankMap, Threshold]:
    """Find the float16 range on the test images and the threshold on good validation images.

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
    threshold = fit_threshold(rule, normal)
    quantiles = np.stack([ranks.image_quantiles(prediction.scores) for prediction in test])
    return ranks.fit_rank_map(quantiles, linear_share=linear_share), threshold


def write_object(
    folder: Path,
    object_name: str,
    predictions: Iterable[tuple[str, RawMap]],
    rank_map: ranks.RankMap,
    threshold: Threshold,
    compression: str | None,
    progress: Callable[[int], None],
) -> dict[str, Any]:
    """Write each image's TIFF and PNG at the original size, under the stem of the input image.

    Args:
        folder: The submission folder.
        object_name: Such as ``can``.
        predictions: (split, prediction) of every private image.
        rank_map: The object's range.
        threshold: Scores above it are anomalous.
        compression: TIFF compression; None writes plain TIFFs, which every reader understands.
        progress: Called with 1 for each image.

    Returns:
        Figures for provenance: threshold, rule, score range, share of anomalous pixels, maps of weak ranks, and the smallest of
        Kendall's tau between a float32 map and what was written (at least; exact where it would be below 0.999).
    """
    taus, shares, weak = [], [], []
    for split, prediction in predictions:
        scores = prediction.at_original_size()
        values = rank_map(scores)
        # Checked on what the file will hold, not on what was meant.
        if values.dtype != np.float16 or values.shape != scores.shape or not np.isfinite(values).all():
            raise ValueError(f"the map of {prediction.image} could not be written as finite float16")
        mask = np.where(scores > threshold.value, np.uint8(255), np.uint8(0))
        with atomic_write(folder / file_path(MASKS, object_name, split, prediction.image.stem)) as temporary:
            Image.fromarray(mask).save(temporary, "PNG")
        # The TIFF comes last: where it lies, the image is complete.
        with atomic_write(folder / file_path(MAPS, object_name, split, prediction.image.stem)) as temporary:
            tifffile.imwrite(temporary, values, compression=compression, metadata=None)
        tau = ranks.kendall_tau_at_least(values)
        taus.append(tau if tau >= MIN_TAU else ranks.kendall_tau(scores, values))
        shares.append(float((mask > 0).mean()))
        if not taus[-1] >= MIN_TAU:
            weak.append({"image": f"{split}/{prediction.image.name}", "tau": taus[-1]})
        progress(1)
    return {
        "images": len(taus),
        "threshold": threshold.value,
        "threshold_rule": threshold.rule,
        "score_range": rank_map.score_range,
        "smallest_kendall_tau": min(taus, default=float("nan")),
        "anomalous_pixels": float(np.mean(shares)) if shares else float("nan"),
        "maps_below_tau_0.999": weak,
    }
