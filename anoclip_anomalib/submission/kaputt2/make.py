"""A submission for Kaputt 2: predict, write, validate; an interrupted run goes on."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from anoclip_anomalib.running.progress import Steps
from anoclip_anomalib.submission.faults import Report
from anoclip_anomalib.submission.kaputt2.predict import ImageType, predict_queries, query_images
from anoclip_anomalib.submission.kaputt2.validate import validate_zip
from anoclip_anomalib.submission.kaputt2.write import read_capture_ids, to_unit_interval, write_zip
from anoclip_anomalib.submission.model_config import ModelConfig
from anoclip_anomalib.submission.provenance import write_provenance
from anoclip_anomalib.submission.work_folder import check_name, open_work_folder
from anoclip_anomalib.versions import weights_digest


@dataclass(frozen=True)
class KaputtSubmission:
    """What to submit and where to write it.

    Attributes:
        name: Name of the zip.
        out: The folder that it goes to.
        config: Model and trainer.
        root: Kaputt 2's folder.
        queries: ``query-test.parquet``.
        image_type: What of the photographs is predicted.
        batch_size: Images at a time.
        num_workers: Processes that read images.
    """

    name: str
    out: Path
    config: ModelConfig
    root: Path
    queries: Path
    image_type: ImageType = "crop"
    batch_size: int = 32
    num_workers: int = 0

    def __post_init__(self) -> None:
        check_name(self.name)


def make_submission(submission: KaputtSubmission, progress: Steps, say: Callable[[str], None]) -> Report:
    """Do all that is left to do for a submission.

    Args:
        submission: What and where.
        progress: Told about images.
        say: Told what was written.

    Returns:
        The validator's report on the zip.

    Raises:
        ValueError: If the table or the model's scores cannot be used.
        FileNotFoundError: If images are missing.
        FileExistsError: If the zip exists already, or was begun with other settings.
    """
    expected = read_capture_ids(submission.queries)
    images = query_images(submission.root, submission.queries, submission.image_type)
    path, work = submission.out / f"{submission.name}.zip", submission.out / f"{submission.name}.work"
    settings = {"configuration": submission.config.result_settings(), "image_type": submission.image_type}
    open_work_folder(work, settings, path)
    progress.start("predicting", len(images))
    scores, model = predict_queries(
        submission.config,
        images,
        work,
        batch_size=submission.batch_size,
        num_workers=submission.num_workers,
        progress=progress.advance,
    )
    written = to_unit_interval(scores)
    report = validate_zip(write_zip(path, written, expected), expected)
    facts = {
        "leaderboard": "Kaputt 2",
        "settings": settings,
        "configuration": {key: value for key, value in submission.config.as_dict().items() if key != "data"},
        "data": str(submission.root.resolve()),
        "weights_digest": weights_digest(model),
        "scores": {"smallest": min(scores.values()), "largest": max(scores.values()), "stretched": written != scores},
        "threshold_rule": "none: the leaderboard takes scores",
    }
    say(str(write_provenance(path, facts, path)))
    if report.ok:
        shutil.rmtree(work, ignore_errors=True)
    return report
