"""A submission for Kaputt 2 with any anomalib model: predict, write, validate; an interrupted run goes on."""

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from anomalib.data.transforms.utils import extract_transforms_by_type
from torchvision.transforms.v2 import Resize

from anoclip_anomalib.files import atomic_write
from anoclip_anomalib.progress import Progress
from anoclip_anomalib.running.collect import Collect
from anoclip_anomalib.running.engine import predict_raw
from anoclip_anomalib.submission.faults import Report
from anoclip_anomalib.submission.images import UnlabelledImages
from anoclip_anomalib.submission.kaputt2.validate import validate_zip
from anoclip_anomalib.submission.kaputt2.write import read_capture_ids, to_unit_interval, write_zip
from anoclip_anomalib.submission.model_config import ModelConfig
from anoclip_anomalib.submission.provenance import check_name, open_work_folder, write_provenance
from anoclip_anomalib.versions import weights_digest

ImageType = Literal["image", "crop"]


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
    open_work_folder(work, settings, path, config.build)
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


def query_images(root: Path, parquet: Path, image_type: ImageType = "crop") -> dict[str, Path]:
    """Where the query images lie: capture_id -> file.

    The challenge's own loader resolves the paths in the table against the data set's folder, anomalib's against
    ``query-<image_type>/``; whichever exists is taken.

    Args:
        root: The data set's folder.
        parquet: ``query-test.parquet``.
        image_type: ``image`` for the whole photograph, ``crop`` for the item alone.

    Raises:
        ValueError: If columns are missing or a path leads out of the data set.
        FileNotFoundError: If images are missing.
    """
    table = pd.read_parquet(parquet)
    column = f"query_{image_type}"
    if absent := [name for name in ("capture_id", column) if name not in table.columns]:
        raise ValueError(f"{parquet} lacks the column(s) {', '.join(absent)}")
    root = root.resolve()
    found: dict[str, Path] = {}
    missing = []
    for capture_id, relative in zip(table["capture_id"].astype(str), table[column].astype(str), strict=True):
        places = [(base / relative).resolve() for base in (root, root / f"query-{image_type}")]
        if not all(path.is_relative_to(root) for path in places):
            raise ValueError(f"{parquet}: the path {relative} of {capture_id} leads out of {root}")
        if existing := [path for path in places if path.is_file()]:
            found[capture_id] = existing[0]
        else:
            missing.append(relative)
    if missing:
        raise FileNotFoundError(f"{len(missing)} of {len(table)} query images are missing below {root}, {missing[0]} first")
    return found


def predict_queries(
    config: ModelConfig, images: Mapping[str, Path], work: Path, progress: Callable[[int], None], **loading: int
) -> tuple[dict[str, float], Any]:
    """Raw image scores of all query images.

    Args:
        config: The model and trainer.
        images: capture_id -> file.
        work: Folder for the scores file.
        progress: Called with numbers of finished images.
        **loading: ``batch_size`` and ``num_workers`` of the data loader.

    Returns:
        capture_id -> raw score, and the model.
    """
    path = work / "scores.jsonl"
    model, callbacks, trainer = config.build()
    scores: dict[str, float] = {}  # those of an earlier run; a line that an interruption left half-written is dropped
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        with suppress(ValueError, TypeError):
            key, score = json.loads(line)
            if key in images:
                scores[key] = float(score)
    progress(len(scores))
    left: dict[str, list[str]] = {}  # two captures may have one file
    for key, file in images.items():
        if key not in scores:
            left.setdefault(str(file), []).append(key)
    if left:
        resize = extract_transforms_by_type(getattr(model.pre_processor, "transform", None), Resize)
        loader = UnlabelledImages([Path(file) for file in left], next(iter(resize), None)).loader(**loading)
        with atomic_write(path) as temporary:
            temporary.write_text("".join(json.dumps(item) + "\n" for item in scores.items()), encoding="utf-8")
        with path.open("a", encoding="utf-8") as stream:

            def keep(image: str, score: float, _: object) -> None:
                for capture_id in left[image]:
                    scores[capture_id] = score
                    stream.write(json.dumps([capture_id, score]) + "\n")
                stream.flush()  # an interrupted run goes on behind the last image

            collect = Collect(keep, maps=False, advance=progress)
            predict_raw(model, collect, callbacks, trainer, work / "engine", dataloaders=loader, ckpt_path=config.checkpoint())
    return scores, model
