"""Predicting Kaputt 2's unlabelled query images with any anomalib model."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from anomalib.data import ImageBatch, ImageItem
from anomalib.data.transforms.utils import extract_transforms_by_type
from anomalib.data.utils import read_image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import Resize

from anoclip_anomalib.running.collect import Collect
from anoclip_anomalib.running.engine import build_engine, strip, undisturbed
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
    absent = [name for name in ("capture_id", column) if name not in table.columns]
    if absent:
        raise ValueError(f"{parquet} lacks the column(s) {', '.join(absent)}")
    root = root.resolve()
    found: dict[str, Path] = {}
    missing = []
    for capture_id, relative in zip(table["capture_id"].astype(str), table[column].astype(str), strict=True):
        for base in (root, root / f"query-{image_type}"):
            path = (base / relative).resolve()
            if not path.is_relative_to(root):
                raise ValueError(f"{parquet}: the path {relative} of {capture_id} leads out of {root}")
            if path.is_file():
                found[capture_id] = path
                break
        else:
            missing.append(relative)
    if missing:
        raise FileNotFoundError(f"{len(missing)} of {len(table)} query images are missing below {root}, {missing[0]} first")
    return found


class QueryImages(Dataset):
    """Unlabelled images; ``resize`` is the model's own, so that images of different sizes fit in one batch."""

    def __init__(self, paths: list[Path], resize: Resize | None) -> None:
        self.paths = paths
        self.resize = resize

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> ImageItem:
        image = read_image(self.paths[index], as_tensor=True)
        return ImageItem(image=self.resize(image) if self.resize else image, image_path=str(self.paths[index]))


def read_scores(path: Path) -> dict[str, float]:
    """The scores of an earlier run; a line that an interruption left half-written is dropped."""
    scores: dict[str, float] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                capture_id, score = json.loads(line)
            except (json.JSONDecodeError, ValueError, TypeError):
                continue
            scores[str(capture_id)] = float(score)
    return scores


def predict_queries(
    config: ModelConfig,
    images: Mapping[str, Path],
    work: Path,
    *,
    batch_size: int = 32,
    num_workers: int = 0,
    progress: Callable[[int], None] | None = None,
) -> tuple[dict[str, float], Any]:
    """Raw image scores of all query images.

    Args:
        config: The model and trainer.
        images: capture_id -> file.
        work: Folder for the scores file.
        batch_size: Images at a time.
        num_workers: Processes that read images.
        progress: Called with numbers of finished images.

    Returns:
        capture_id -> raw score, and the model.
    """
    work.mkdir(parents=True, exist_ok=True)
    scores_path = work / "scores.jsonl"
    model, callbacks, trainer = config.build()
    scores = {key: score for key, score in read_scores(scores_path).items() if key in images}
    if progress and scores:
        progress(len(scores))
    left = {str(path): key for key, path in images.items() if key not in scores}
    if left:
        if scores_path.is_file() and not scores_path.read_text(encoding="utf-8").endswith("\n"):
            with scores_path.open("a", encoding="utf-8") as stream:
                stream.write("\n")
        strip(model, keep={"post_processor"})
        dataset = QueryImages([Path(path) for path in left], _resize_of(model))
        loader = DataLoader(dataset, batch_size=batch_size, num_workers=num_workers, collate_fn=ImageBatch.collate)
        with undisturbed(), scores_path.open("a", encoding="utf-8") as stream:

            def keep(path: str, score: float, _: object) -> None:
                stream.write(json.dumps([left[path], score]) + "\n")
                stream.flush()  # an interrupted run goes on behind the last image

            collect = Collect(keep, maps=False, advance=progress)
            engine = build_engine(work / "engine", [collect, *callbacks], {**trainer, "limit_val_batches": 0})
            engine.predict(model, dataloaders=loader, ckpt_path=config.ckpt_path, return_predictions=False)
        scores = {key: score for key, score in read_scores(scores_path).items() if key in images}
    return scores, model


def _resize_of(model: Any) -> Resize | None:
    found = extract_transforms_by_type(getattr(model.pre_processor, "transform", None), Resize)
    return found[0] if found else None
