"""A submission for Kaputt 2: predict, write, validate; an interrupted run goes on."""

import shutil
from pathlib import Path

from anoclip_anomalib.running.progress import Progress
from anoclip_anomalib.submission.faults import Report
from anoclip_anomalib.submission.kaputt2.predict import ImageType, predict_queries, query_images
from anoclip_anomalib.submission.kaputt2.validate import validate_zip
from anoclip_anomalib.submission.kaputt2.write import read_capture_ids, to_unit_interval, write_zip
from anoclip_anomalib.submission.model_config import ModelConfig
from anoclip_anomalib.submission.provenance import check_name, open_work_folder, write_provenance
from anoclip_anomalib.versions import weights_digest


def make_submission(
    name: str,
    out: Path,
    config: ModelConfig,
    root: Path,
    queries: Path,
    image_type: ImageType,
    progress: Progress,
    **loading: int,
) -> Report:
    """Do all that is left to do for a submission.

    Args:
        name: Name of the zip.
        out: The folder that it goes to.
        config: Model and trainer.
        root: Kaputt 2's folder.
        queries: ``query-test.parquet``.
        image_type: What of the photographs is predicted.
        progress: Told about images, and what was written.
        **loading: ``batch_size`` and ``num_workers`` of the data loader.

    Returns:
        The validator's report on the zip.

    Raises:
        ValueError: If the name, the table or the model's scores cannot be used.
        FileNotFoundError: If images are missing.
        FileExistsError: If the zip exists already, or was begun with other settings.
    """
    path, work = out / f"{check_name(name)}.zip", out / f"{name}.work"
    expected = read_capture_ids(queries)
    images = query_images(root, queries, image_type)
    settings = {"configuration": config.result_settings(), "image_type": image_type}
    open_work_folder(work, settings, path)
    progress.start("predicting", len(images))
    scores, model = predict_queries(config, images, work, progress.advance, **loading)
    written = to_unit_interval(scores)
    report = validate_zip(write_zip(path, written, expected), expected)
    facts = {
        "leaderboard": "Kaputt 2",
        "settings": settings,
        "configuration": {key: value for key, value in config.as_dict().items() if key != "data"},
        "data": str(root.resolve()),
        "weights_digest": weights_digest(model),
        "scores": {"smallest": min(scores.values()), "largest": max(scores.values()), "stretched": written != scores},
        "threshold_rule": "none: the leaderboard takes scores",
    }
    progress.say(str(write_provenance(path, facts, path)))
    if report.ok:
        shutil.rmtree(work, ignore_errors=True)
    return report
