"""The leaderboard's metrics on ``test_public``, so that a user sees where they stand before spending an upload."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anoclip_anomalib.evaluation.accumulator import PixelAccumulator
from anoclip_anomalib.evaluation.curves import aupro, auroc, count_scores, f1_at, f1_max
from anoclip_anomalib.evaluation.resolution import read_mask
from anoclip_anomalib.evaluation.thresholds import ThresholdRule
from anoclip_anomalib.progress import Steps
from anoclip_anomalib.submission.mvtec_ad2.layout import images_of
from anoclip_anomalib.submission.mvtec_ad2.object import fit_threshold
from anoclip_anomalib.submission.mvtec_ad2.predict import PredictSettings, RawMapStore, predict_object
from anoclip_anomalib.submission.provenance import open_work_folder, write_json

PARTS = ("validation", "test_public_good", "test_public_bad")
FPR_LIMIT = 0.05


@dataclass(frozen=True)
class PublicResult:
    """Figures of one object on ``test_public``, all between 0 and 1.

    Attributes:
        object_name: Such as ``can``.
        seg_f1: F1 over all pixels of all images at the threshold that the submission's PNGs would have.
        au_pro: Area under the PRO curve up to a false positive rate of 0.05, divided by 0.05, at original size.
        image_auroc: Of the largest score in each map, which is what the leaderboard takes.
        model_image_auroc: Of the model's own image score.
        best_seg_f1: The largest F1 over all thresholds. It uses the labels, so it is no estimate of the server's figure, only
            of what a better threshold could reach.
        threshold: The threshold.
        rule: How it was found.
    """

    object_name: str
    seg_f1: float
    au_pro: float
    image_auroc: float
    model_image_auroc: float
    best_seg_f1: float
    threshold: float
    rule: str


METRICS = ("seg_f1", "au_pro", "image_auroc", "model_image_auroc", "best_seg_f1")


def _evaluate_object(
    settings: PredictSettings, object_name: str, rule: ThresholdRule, store: RawMapStore, progress: Steps
) -> PublicResult:
    """Predict one object's public images and good validation images, and measure the predictions, image by image."""
    images = {part: images_of(settings.root, object_name, part) for part in PARTS}
    for part, found in images.items():
        if not found:
            raise FileNotFoundError(f"{settings.root / object_name} has no images for {part.replace('_', ' ')}")
    masks = dict.fromkeys(images["test_public_good"]) | {image: _mask_of(image) for image in images["test_public_bad"]}
    progress.start(f"{object_name}: predicting", sum(map(len, images.values())))
    predict_object(settings, object_name, [*images["validation"], *masks], store, progress.advance)
    progress.start(f"{object_name}: measuring", len(masks))
    threshold = fit_threshold(rule, map(store.read, images["validation"]))
    pixels = PixelAccumulator()
    measured = []
    for image, mask_path in masks.items():
        prediction = store.read(image)
        scores = prediction.at_original_size()
        mask = np.zeros(scores.shape, np.uint8) if mask_path is None else read_mask(mask_path)
        if mask.shape != scores.shape:
            raise ValueError(f"{mask_path} is {mask.shape}, its image {scores.shape}")
        pixels.update(scores, mask)
        measured.append((float(scores.max()), prediction.image_score, mask_path is not None))
        progress.advance(1)
    counts = pixels.counts()
    largest, own, labels = np.array(measured).T
    return PublicResult(
        object_name=object_name,
        seg_f1=f1_at(counts, threshold.value),
        au_pro=aupro(counts.curve, FPR_LIMIT),
        image_auroc=auroc(count_scores(largest, labels).curve),
        model_image_auroc=auroc(count_scores(own, labels).curve),
        best_seg_f1=f1_max(counts.curve)[0],
        threshold=threshold.value,
        rule=threshold.rule,
    )


def write_public_figures(
    settings: PredictSettings, objects: Sequence[str], place: Path, rule: ThresholdRule, progress: Steps, keep_raw: bool = False
) -> tuple[list[PublicResult], Path]:
    """Predict and measure ``test_public`` of several objects and write ``<name>.public.json``; an interrupted run goes on.

    Args:
        settings: Model and data.
        objects: Their names.
        place: The submission's folder, beside which the figures go.
        rule: The submission's rule.
        progress: Told of each step and of finished images.
        keep_raw: Keep the raw maps.

    Returns:
        The figures, and the path written.

    Raises:
        FileNotFoundError: If an object has no validation images, no good or no bad test images, or a mask is missing.
        ValueError: If a mask has another size than its image.
        FileExistsError: If there are figures already, or they were begun with other settings.
    """
    work, path = (place.with_name(f"{place.name}.public.{kind}") for kind in ("work", "json"))
    facts = {"configuration": settings.config.result_settings(), "fit": settings.fit}
    open_work_folder(work, facts, path)
    results = []
    for object_name in objects:
        store = RawMapStore(work / object_name, settings.root / object_name)
        results.append(_evaluate_object(settings, object_name, rule, store, progress))
        if not keep_raw:
            shutil.rmtree(store.folder, ignore_errors=True)
    write_json(path, {"leaderboard": "MVTec AD 2, test_public", **facts, **as_table(results)})
    if not keep_raw:
        shutil.rmtree(work, ignore_errors=True)
    return results, path


def as_table(results: Sequence[PublicResult]) -> dict[str, Any]:
    """Per object and mean, as plain data."""
    mean = {metric: float(np.mean([getattr(result, metric) for result in results])) for metric in METRICS}
    return {"objects": [asdict(result) for result in results], "mean": mean}


def _mask_of(image: Path) -> Path:
    mask = image.parent.parent / "ground_truth" / "bad" / f"{image.stem}_mask{image.suffix}"
    if not mask.is_file():
        raise FileNotFoundError(f"{image} has no mask {mask}")
    return mask
