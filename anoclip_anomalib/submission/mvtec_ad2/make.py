"""MVTec AD 2: predict, write, validate, pack. Resumable, and shared by any number of processes."""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from anoclip_anomalib.claims import Claims
from anoclip_anomalib.evaluation.resolution import image_size
from anoclip_anomalib.evaluation.thresholds import ThresholdRule
from anoclip_anomalib.files import plain
from anoclip_anomalib.running.progress import Steps
from anoclip_anomalib.submission.faults import Report
from anoclip_anomalib.submission.mvtec_ad2.data import check_images, images_of
from anoclip_anomalib.submission.mvtec_ad2.layout import IMAGES_PER_SPLIT, SPLIT_SUFFIXES
from anoclip_anomalib.submission.mvtec_ad2.object import fit_object, write_object
from anoclip_anomalib.submission.mvtec_ad2.pack import pack_folder
from anoclip_anomalib.submission.mvtec_ad2.predict import PredictSettings, predict_object
from anoclip_anomalib.submission.mvtec_ad2.raw_maps import RawMapStore
from anoclip_anomalib.submission.mvtec_ad2.validate import ImageSize, validate
from anoclip_anomalib.submission.provenance import (
    check_name,
    open_work_folder,
    provenance_path,
    read_json,
    write_json,
    write_provenance,
)
from anoclip_anomalib.versions import sha256_of


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
        compression: TIFF compression, or None.
        compression_level: The archive's.
        keep_raw: Keep the raw maps when all is done.
        claims: Options of ``Claims``.
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
    claims: Mapping[str, float] = field(default_factory=dict)
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


def original_sizes(root: Path) -> ImageSize:
    """Look up sizes of private images in a data set, for the validator."""

    def look_up(object_name: str, split: str, stem: str) -> tuple[int, int] | None:
        path = root / object_name / split / f"{stem}.png"
        return image_size(path) if path.is_file() else None

    return look_up


def make_submission(submission: Submission, progress: Steps, say: Callable[[str], None]) -> Report:
    """Do all that is left to do for a submission; other processes may call this for the same one at the same time.

    Args:
        submission: What and where.
        progress: Told about images.
        say: Told about steps, one line each.

    Returns:
        The validator's report on the folder; nothing was packed if it is not ok.

    Raises:
        FileNotFoundError: If the data set is not complete.
        FileExistsError: If the folder holds another submission, or this one was begun with other settings.
    """
    if _finished(submission):
        say(f"{submission.archive} is complete already")
        return Report(str(submission.folder))
    check_images(submission.predict.root, submission.counts)
    open_work_folder(submission.work, submission.settings(), submission.folder)
    claims = Claims(submission.work / "claims", **submission.claims)
    waiting = False
    # Another process may pack meanwhile, and remove what told that objects are done.
    while (left := submission.left()) and (submission.is_open or not _finished(submission)):
        advanced = False
        for object_name in left:
            with claims.take(object_name) as mine:
                if mine and submission.is_open and not submission.figures_path(object_name).is_file():
                    _make_object(submission, object_name, progress, say)
                    advanced = True
        if not advanced:
            if not waiting:
                say(f"waiting for other processes: {', '.join(left)}")
            waiting = True
            time.sleep(submission.poll)
    while True:  # of several processes the first one packs, the others wait for it
        with claims.take("pack") as mine:
            if _finished(submission):
                report = Report(str(submission.folder))
            elif mine:
                report = _validate_and_pack(submission, progress, say)
            else:
                report = None
        if report is not None:
            if report.ok and submission.archive.is_file() and not submission.keep_raw:
                shutil.rmtree(submission.work, ignore_errors=True)
            return report
        time.sleep(submission.poll)


def _finished(submission: Submission) -> bool:
    """Whether an earlier run or another process has packed this very submission."""
    path = provenance_path(submission.folder)
    if not (path.is_file() and submission.archive.is_file() and submission.folder.is_dir()):
        return False
    before = read_json(path)
    if before.get("settings") != plain(submission.settings()):
        raise FileExistsError(f"{submission.folder} is another, finished submission (see {path}); choose another --name")
    if before.get("archive", {}).get("sha256") != sha256_of(submission.archive):
        raise FileExistsError(f"{submission.archive} was changed after it was packed; delete it and {path} to pack it anew")
    return True


def _make_object(submission: Submission, object_name: str, progress: Steps, say: Callable[[str], None]) -> None:
    begun = time.monotonic()
    root = submission.predict.root
    store = RawMapStore(submission.work / "raw" / object_name, root / object_name)
    normal = images_of(root, object_name, "validation")
    test = [(split, image) for split in SPLIT_SUFFIXES for image in images_of(root, object_name, split)]
    progress.start(f"{object_name}: predicting", len(normal) + len(test))
    model_path = store.folder / "model.json"
    model = predict_object(submission.predict, object_name, ["validation", *SPLIT_SUFFIXES], store, progress.advance)
    if model is not None:
        if model_path.is_file() and read_json(model_path) != plain(model):
            raise ValueError(f"the weights changed since the first maps in {store.folder}; delete it to predict them anew")
        write_json(model_path, model)
    raw = (store.read(image) for _, image in test)
    fit = fit_object(map(store.read, normal), raw, submission.threshold, submission.linear_share)
    progress.start(f"{object_name}: writing", len(test))
    raw_of_splits = ((split, store.read(image)) for split, image in test)
    figures = write_object(submission.folder, object_name, raw_of_splits, *fit, submission.compression, progress.advance)
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


def _validate_and_pack(submission: Submission, progress: Steps, say: Callable[[str], None]) -> Report:
    objects = {name: read_json(submission.figures_path(name)) for name in submission.counts}
    files = 4 * sum(submission.counts.values())
    progress.start("validating", files)
    sizes, counts = original_sizes(submission.predict.root), submission.counts
    report = validate(submission.folder, counts=counts, image_size=sizes, progress=lambda _: progress.advance(1))
    if not report.ok:
        return report
    facts = {
        "leaderboard": "MVTec AD 2",
        "settings": submission.settings(),
        "configuration": submission.predict.config.as_dict(),
        "data": str(submission.predict.root),
        "weights_digest": sorted({str(figures["weights_digest"]) for figures in objects.values()}),
        "objects": objects,
        "counts": dict(submission.counts),
    }
    archive, absent = None, sorted(set(IMAGES_PER_SPLIT) - set(submission.counts))
    if set(submission.counts) == set(IMAGES_PER_SPLIT):
        progress.start("packing", files)
        level = submission.compression_level
        archive = pack_folder(submission.folder, submission.archive, level, progress=lambda _: progress.advance(1))
        packed = validate(archive, counts=submission.counts, contents=False)
        if not packed.ok:
            return packed
        say(f"{archive}: {archive.stat().st_size / 2**20:.1f} MiB, ready to upload")
    else:
        say(f"{submission.folder} is valid but not packed: the leaderboard asks for {', '.join(absent)} as well")
    write_provenance(submission.folder, facts, archive)
    return report
