"""Predicting Kaputt 2's unlabelled query images with any anomalib model."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from anomalib.data.transforms.utils import extract_transforms_by_type
from torchvision.transforms.v2 import Resize

from anoclip_anomalib.files import atomic_write
from anoclip_anomalib.running.collect import Collect
from anoclip_anomalib.running.engine import build_engine, strip, undisturbed
from anoclip_anomalib.submission.images import UnlabelledImages
from anoclip_anomalib.submission.model_config import ModelConfig

ImageType = Literal["image", "crop"]


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


def read_scores(path: Path) -> dict[str, float]:
    """The scores of an earlier run; a line that an interruption left half-written is dropped."""
    scores: dict[str, float] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        with suppress(ValueError, TypeError):
            capture_id, score = json.loads(line)
            scores[str(capture_id)] = float(score)
    return scores


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
    scores = {key: score for key, score in read_scores(path).items() if key in images}
    progress(len(scores))
    if left := {str(path): key for key, path in images.items() if key not in scores}:
        strip(model, keep={"post_processor"})
        resize = extract_transforms_by_type(getattr(model.pre_processor, "transform", None), Resize)
        loader = UnlabelledImages([images[key] for key in left.values()], next(iter(resize), None)).loader(**loading)
        with atomic_write(path) as temporary:
            temporary.write_text("".join(json.dumps(item) + "\n" for item in scores.items()), encoding="utf-8")
        with undisturbed(), path.open("a", encoding="utf-8") as stream:

            def keep(image: str, score: float, _: object) -> None:
                scores[left[image]] = score
                stream.write(json.dumps([left[image], score]) + "\n")
                stream.flush()  # an interrupted run goes on behind the last image

            collect = Collect(keep, maps=False, advance=progress)
            engine = build_engine(work / "engine", [collect, *callbacks], {**trainer, "limit_val_batches": 0})
            engine.predict(model, dataloaders=loader, ckpt_path=config.checkpoint(), return_predictions=False)
    return scores, model
