"""`predictions.csv`: every image's raw score and decision, from test and predict, with any anomalib model."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer

from anoclip_anomalib.evaluation.map_files import MapWriter
from anoclip_anomalib.evaluation.raw_batch import raw_maps, raw_scores
from anoclip_anomalib.evaluation.raw_predictions import RawPredictions
from anoclip_anomalib.evaluation.reference import ScoreReference
from anoclip_anomalib.evaluation.resolution import image_size, path_list
from anoclip_anomalib.evaluation.thresholds import ThresholdRule, choose_threshold
from anoclip_anomalib.files import atomic_write

COLUMNS = ("path", "score", "threshold", "label", "threshold_rule", "map", "map_min", "map_max")


def write_predictions(path: str | Path, rows: list[dict[str, Any]]) -> None:
    """Write rows with (a part of) `COLUMNS` as CSV, at once or not at all."""
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)


class PredictionsCsv(RawPredictions):
    """Write `predictions.csv` and, if wanted, every pixel map at original size.

    Scores are the model's own, before anomalib's normalisation. The threshold comes from the normal images of the
    validation set if these are other images than the test set's; without such images a zero-shot model's natural
    threshold is used. The column `threshold_rule` says which.

    Args:
        folder: where files go; default: the run's result folder.
        save_maps: None, "tiff" (float32) or "png" (16 bit; `map_min` and `map_max` give its 0 and 65535).
        threshold: kind of the rule, see :class:`ThresholdRule`.
        k: for "mean_std".
        q: for "quantile".
        value: for "fixed".
    """

    def __init__(
        self,
        folder: str | None = None,
        save_maps: str | None = None,
        threshold: str = "mean_std",
        k: float = 3.0,
        q: float = 0.99,
        value: float | None = None,
    ) -> None:
        self.folder = folder
        self.save_maps = save_maps
        self.rule = ThresholdRule(threshold, k=k, q=q, value=value)
        self.path: Path | None = None  # of the file written last
        if save_maps is not None:
            MapWriter(".", save_maps)  # a wrong kind is an error now, not after the run
        self._reference = ScoreReference()
        self._labelled: list[tuple[np.ndarray, np.ndarray]] = []
        self._rows: list[dict[str, Any]] = []
        self._maps: MapWriter | None = None

    def forget_validation(self) -> None:
        """Forget the validation scores of an earlier epoch."""
        self._reference.reset()
        self._labelled = []

    def read_validation(self, batch: Any, scores: np.ndarray, anomalous: np.ndarray) -> None:
        """Collect scores of validation images."""
        self._labelled.append((scores, anomalous))
        self._reference.update(scores[~anomalous])

    def begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the run."""
        folder = Path(self.folder or trainer.default_root_dir)
        suffix = f"-rank{trainer.global_rank}" if trainer.world_size > 1 else ""
        self.path = folder / f"predictions{suffix}.csv"
        self._maps = MapWriter(folder / f"maps{suffix}", self.save_maps) if self.save_maps else None
        self._rows = []

    def read(self, batch: Any, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record a batch."""
        scores = raw_scores(batch)
        maps = raw_maps(batch) if self._maps else None
        for index, path in enumerate(path_list(batch.image_path, len(scores))):
            row: dict[str, Any] = {"path": path or "", "score": repr(float(scores[index]))}
            if self._maps and maps is not None:
                size = image_size(path) if path else maps[index].shape
                written = self._maps.write(maps[index], path or f"image-{len(self._rows):06d}", size)
                row["map"] = (Path(self._maps.folder.name) / written).as_posix()
                row["map_min"], row["map_max"] = float(maps[index].min()), float(maps[index].max())
            self._rows.append(row)

    def end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file."""
        labelled = None
        if self._labelled:
            labelled = (np.concatenate([s for s, _ in self._labelled]), np.concatenate([y for _, y in self._labelled]))
        learning_type = getattr(pl_module, "learning_type", None)
        threshold = choose_threshold(self.rule, self._reference, learning_type, labelled)
        for row in self._rows:
            label = threshold.label(float(row["score"]))
            row["label"] = "" if label is None else label
            row["threshold"] = "" if label is None else repr(threshold.value)
            row["threshold_rule"] = threshold.rule
        assert self.path is not None  # set in begin
        write_predictions(self.path, self._rows)
