"""MVTec AD 2: predict, write, validate, pack. Resumable, and shared by any number of processes."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from anoclip_anomalib.claims import Claims
from anoclip_anomalib.evaluation.resolution import image_size
from anoclip_anomalib.files import plain
from anoclip_anomalib.progress import Steps
from anoclip_anomalib.submission.entries import pack_folder
from anoclip_anomalib.submission.faults import Report
from anoclip_anomalib.submission.mvtec_ad2.layout import IMAGES_PER_SPLIT, check_images
from anoclip_anomalib.submission.mvtec_ad2.object import Submission, make_object
from anoclip_anomalib.submission.mvtec_ad2.validate import ImageSize, validate
from anoclip_anomalib.submission.provenance import open_work_folder, provenance_path, read_json, write_provenance
from anoclip_anomalib.versions import sha256_of


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
    open_work_folder(submission.work, submission.settings(), submission.folder, submission.predict.config.build)
    claims = Claims(submission.work / "claims")
    waiting = False
    # Another process may pack meanwhile, and remove what told that objects are done.
    while (left := submission.left()) and (submission.is_open or not _finished(submission)):
        advanced = False
        for object_name in left:
            with claims.take(object_name) as mine:
                if mine and submission.is_open and not submission.figures_path(object_name).is_file():
                    make_object(submission, object_name, progress, say)
                    advanced = True
        if not advanced:
            if not waiting:
                say(f"waiting for other processes: {', '.join(left)}")
            waiting = True
            time.sleep(submission.poll)
    report = None
    while report is None:  # of several processes the first one packs, the others wait for it
        with claims.take("pack") as mine:
            if _finished(submission):
                report = Report(str(submission.folder))
            elif mine:
                report = _validate_and_pack(submission, progress, say)
        if report is None:
            time.sleep(submission.poll)
    if report.ok and submission.archive.is_file() and not submission.keep_raw:
        shutil.rmtree(submission.work, ignore_errors=True)
    return report


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


def _validate_and_pack(submission: Submission, progress: Steps, say: Callable[[str], None]) -> Report:
    counts, sizes = submission.counts, original_sizes(submission.predict.root)
    objects = {name: read_json(submission.figures_path(name)) for name in counts}
    files = 4 * sum(counts.values())
    progress.start("validating", files)
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
        "counts": dict(counts),
    }
    archive, absent = None, sorted(set(IMAGES_PER_SPLIT) - set(counts))
    if set(counts) == set(IMAGES_PER_SPLIT):
        progress.start("packing", files)
        level = submission.compression_level
        archive = pack_folder(submission.folder, submission.archive, level, progress=lambda _: progress.advance(1))
        if not (packed := validate(archive, counts=counts, contents=False)).ok:
            return packed
        say(f"{archive}: {archive.stat().st_size / 2**20:.1f} MiB, ready to upload")
    else:
        say(f"{submission.folder} is valid but not packed: the leaderboard asks for {', '.join(absent)} as well")
    write_provenance(submission.folder, facts, archive)
    return report
