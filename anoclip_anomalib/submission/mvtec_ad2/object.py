"""What an MVTec AD 2 submission is made of, and one object of it: its maps, as float16 TIFFs and thresholded PNGs."""

import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from anoclip_anomalib.evaluation.reference import ScoreReference
from anoclip_anomalib.evaluation.thresholds import Threshold, ThresholdRule
from anoclip_anomalib.files import atomic_write, plain, remove_drafts
from anoclip_anomalib.progress import Steps
from anoclip_anomalib.submission.mvtec_ad2 import rank_float16 as ranks
from anoclip_anomalib.submission.mvtec_ad2.layout import IMAGES_PER_SPLIT, MAPS, MASKS, SPLIT_SUFFIXES, file_path, images_of
from anoclip_anomalib.submission.mvtec_ad2.predict import PredictSettings, RawMap, RawMapStore, predict_object
from anoclip_anomalib.submission.provenance import check_name, read_json, write_json

MIN_TAU = 0.999
"""A written map whose ranks agree less than this with the model's is reported."""


@dataclass(frozen=True)
class Submission:
    """What to submit and where to write it.

    Attributes:
        name: Name of the folder and of the archive.
        out: The folder that both go to.
        predict: Model and data.
        threshold: The rule for the PNGs, fitted on good validation images.
        linear_share: See ``fit_rank_map``.
        counts: Objects and images per split; the leaderboard's by default.
        compression: TIFF compression, or ``None``.
        compression_level: The archive's.
        keep_raw: Keep the raw maps when all is done.
        poll: Seconds between two looks at what other processes do.
    """

    name: str
    out: Path
    predict: PredictSettings
    threshold: ThresholdRule = field(default_factory=ThresholdRule)
    linear_share: float = 0.5
    counts: Mapping[str, int] = field(default_factory=lambda: dict(IMAGES_PER_SPLIT))
    compression: str | None = None
    compression_level: int = 6
    keep_raw: bool = False
    poll: float = 2.0

    def __post_init__(self) -> None:
        check_name(self.name)

    @property
    def folder(self) -> Path:
        """The submission folder."""
        return self.out / self.name

    @property
    def work(self) -> Path:
        """Raw maps, claims and finished objects' figures, beside the submission folder."""
        return self.out / f"{self.name}.work"

    @property
    def archive(self) -> Path:
        """The packed submission."""
        return self.out / f"{self.name}.tar.gz"

    @property
    def is_open(self) -> bool:
        """Whether the work folder is there; it goes when all is packed."""
        return (self.work / "settings.json").is_file()

    def figures_path(self, object_name: str) -> Path:
        """The file that tells that an object is done."""
        return self.work / "done" / f"{object_name}.json"

    def left(self) -> list[str]:
        """Objects that are not done."""
        return [name for name in self.counts if not self.figures_path(name).is_file()]

    def settings(self) -> dict[str, Any]:
        """What decides the result, as plain data."""
        return {
            "configuration": self.predict.config.result_settings(),
            "fit": self.predict.fit,
            "threshold": asdict(self.threshold),
            "linear_share": self.linear_share,
            "compression": self.compression,
        }


def fit_threshold(rule: ThresholdRule, normal: Iterable[RawMap]) -> Threshold:
    """Find the threshold on predictions of good images, whose maps are taken at original size."""
    reference = ScoreReference()
    for prediction in normal if rule.needs_reference else ():
        reference.update(prediction.at_original_size())
    return rule.fit(reference)


def make_object(submission: Submission, object_name: str, progress: Steps, say: Callable[[str], None]) -> None:
    """Predict an object and write its files, and then its figures, which tell that it is done.

    Args:
        submission: What and where.
        object_name: Such as ``can``.
        progress: Told about images.
        say: Told about the object, one line each.

    Raises:
        ValueError: If the rule needs labels, a map is not finite, the test maps are all equal, or the weights changed since an
            interrupted run.
    """
    begun = time.monotonic()
    root = submission.predict.root
    store = RawMapStore(submission.work / "raw" / object_name, root / object_name)
    normal = images_of(root, object_name, "validation")
    test = [image for split in SPLIT_SUFFIXES for image in images_of(root, object_name, split)]
    progress.start(f"{object_name}: predicting", len(normal) + len(test))
    model_path = store.folder / "model.json"
    model = predict_object(submission.predict, object_name, [*normal, *test], store, progress.advance)
    if model is not None:
        if model_path.is_file() and read_json(model_path) != plain(model):
            raise ValueError(f"The weights changed since the first maps in {store.folder}; delete it to predict them anew")
        write_json(model_path, model)
    figures = _write_files(submission, store, normal, test, progress)
    figures |= read_json(model_path) if model_path.is_file() else {"weights_digest": None}
    figures["seconds"] = round(time.monotonic() - begun, 1)
    write_json(submission.figures_path(object_name), figures)
    if not submission.keep_raw:
        shutil.rmtree(store.folder, ignore_errors=True)
    say(
        f"{object_name}: {figures['images']} images, threshold {figures['threshold']:.6g} ({figures['threshold_rule']}), "
        f"{100 * figures['anomalous_pixels']:.2f} % of pixels above it, "
        f"smallest Kendall tau {figures['smallest_kendall_tau']:.5f}"
    )
    for weak in figures["maps_below_tau_0.999"]:
        say(f"warning: {object_name}/{weak['image']}: Kendall tau {weak['tau']:.4f} is below 0.999")


def _write_files(
    submission: Submission, store: RawMapStore, normal: list[Path], test: list[Path], progress: Steps
) -> dict[str, Any]:
    """Write each image's TIFF and PNG at the original size, under the stem of the input image.

    The float16 range is found on the test images (no label is used, and it changes no rank), the threshold on good ones.

    Returns:
        Figures for provenance: threshold, rule, score range, share of anomalous pixels, maps of weak ranks, and the smallest of
        Kendall's tau between a float32 map and what was written (at least; exact where it would be below 0.999).
    """
    if submission.threshold.kind == "adaptive":
        raise ValueError("The adaptive threshold needs labels, which the private splits do not have")
    threshold = fit_threshold(submission.threshold, map(store.read, normal))
    quantiles = np.stack([ranks.image_quantiles(store.read(image).scores) for image in test])
    rank_map = ranks.fit_rank_map(quantiles, linear_share=submission.linear_share)
    progress.start(f"{store.images.name}: writing", len(test))
    for kind, split in product((MASKS, MAPS), {image.parent.name for image in test}):
        remove_drafts((submission.folder / file_path(kind, store.images.name, split, "")).parent)
    taus, shares, weak = [], [], []
    for prediction in map(store.read, test):
        scores = prediction.at_original_size()
        values = rank_map(scores)
        # Checked on what the file will hold, not on what was meant.
        if values.dtype != np.float16 or values.shape != scores.shape or not np.isfinite(values).all():
            raise ValueError(f"The map of {prediction.image} could not be written as finite float16")
        mask = np.where(scores > threshold.value, np.uint8(255), np.uint8(0))
        place = (store.images.name, prediction.image.parent.name, prediction.image.stem)
        with atomic_write(submission.folder / file_path(MASKS, *place)) as temporary:
            Image.fromarray(mask).save(temporary, "PNG")
        # The TIFF comes last: where it lies, the image is complete.
        with atomic_write(submission.folder / file_path(MAPS, *place)) as temporary:
            tifffile.imwrite(temporary, values, compression=submission.compression, metadata=None)
        tau = ranks.kendall_tau_at_least(values)
        taus.append(tau if tau >= MIN_TAU else ranks.kendall_tau(scores, values))
        shares.append(float((mask > 0).mean()))
        if not taus[-1] >= MIN_TAU:
            weak.append({"image": f"{prediction.image.parent.name}/{prediction.image.name}", "tau": taus[-1]})
        progress.advance(1)
    return {
        "images": len(taus),
        "threshold": threshold.value,
        "threshold_rule": threshold.rule,
        "score_range": rank_map.score_range,
        "smallest_kendall_tau": min(taus, default=float("nan")),
        "anomalous_pixels": float(np.mean(shares)) if shares else float("nan"),
        "maps_below_tau_0.999": weak,
    }
