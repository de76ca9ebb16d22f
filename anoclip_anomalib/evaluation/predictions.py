"""``predictions.csv``: every image's raw score and decision, from test and predict, with any anomalib model."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer

from anoclip_anomalib.evaluation import thresholds
from anoclip_anomalib.evaluation.epoch_metrics import gathered
from anoclip_anomalib.evaluation.left_out import write_left_out
from anoclip_anomalib.evaluation.map_files import MapWriter
from anoclip_anomalib.evaluation.output_names import path_cell, prediction_root
from anoclip_anomalib.evaluation.raw_batch import raw_maps, raw_scores
from anoclip_anomalib.evaluation.raw_predictions import RawPredictions
from anoclip_anomalib.evaluation.reference import ScoreReference
from anoclip_anomalib.evaluation.resolution import datasets_of, image_size, path_list
from anoclip_anomalib.files import atomic_write, printable, set_aside

Labelled = tuple[np.ndarray, np.ndarray]  # scores (N,), and whether they are of anomalous images
COLUMNS = ("path", "score", "threshold", "label", "threshold_rule", "map", "map_min", "map_max", "fault")


def write_predictions(path: str | Path, rows: list[dict[str, Any]]) -> None:
    """Write rows with (a part of) ``COLUMNS`` as CSV in UTF-8, at once or not at all; see ``path_cell`` for paths."""
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows({**row, "path": path_cell(row["path"])} for row in rows)


def decision(score: float, threshold: thresholds.Threshold) -> dict[str, Any]:
    """An image's cells of what its threshold decides; without a threshold only the rule, which says why."""
    label = threshold.label(score)
    known = {} if label is None else {"threshold": repr(threshold.value), "label": label}
    return known | {"threshold_rule": threshold.rule}


class PredictionsCsv(RawPredictions):
    """Write ``predictions.csv`` and, if wanted, every pixel map at original size.

    Scores are the model's own, before anomalib's normalisation. Without a rule the threshold is the one that anomalib's
    post-processor decides with in the same run, so that file, pictures and anomalib's metrics agree. A rule that is asked
    for takes the normal images of the validation set if these are other images than the test set's. Where there is neither,
    a few-shot model's own threshold is used, or a zero-shot model's natural one. The column ``threshold_rule`` says which.

    Images that could not be read (``faults`` of the predicted dataset, path -> reason), or whose score or map is not finite,
    are rows without a score; the column ``fault`` says why. Test images that anomalib holds back for validation are listed in
    ``left_out.csv``. What an earlier run has left in the folder is moved to ``earlier-1``, ``earlier-2``, ... Several processes
    write one file.

    Args:
        folder: Where files go; default: the run's result folder.
        save_maps: ``None``, "tiff" (float32) or "png" (16 bit; ``map_min`` and ``map_max`` give its 0 and 65535).
        threshold: Kind of the rule, see :class:`ThresholdRule`; ``None`` for anomalib's own decision.
        k: For "mean_std".
        q: For "quantile".
        value: For "fixed".
    """

    def __init__(
        self,
        folder: str | None = None,
        save_maps: str | None = None,
        threshold: str | None = None,
        k: float = 3.0,
        q: float = 0.99,
        value: float | None = None,
    ) -> None:
        super().__init__()
        self.folder, self.save_maps = folder, save_maps
        self.follow_post_processor = threshold is None
        self.rule = thresholds.ThresholdRule(threshold or "mean_std", k=k, q=q, value=value)
        self.path: Path | None = None  # of the file written last
        self.faults: dict[str, str] = {}  # of the last run: path -> why it was not read
        if save_maps is not None:
            MapWriter(".", save_maps)  # a wrong kind is an error now, not after the run
        self._labelled: list[Labelled] = []
        self._rows: list[dict[str, Any]] = []
        self._maps: MapWriter | None = None

    def forget_validation(self) -> None:
        """Forget the validation scores of an earlier epoch."""
        self._labelled = []

    def read_validation(self, batch: Any, scores: np.ndarray, anomalous: np.ndarray) -> None:
        """Collect scores of validation images."""
        self._labelled.append((scores, anomalous))

    def begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the run."""
        folder = Path(self.folder or trainer.default_root_dir)
        suffix = f"-rank{trainer.global_rank}" if trainer.world_size > 1 else ""
        if trainer.is_global_zero:
            set_aside(folder, "predictions*.csv", "left_out.csv", "maps*", "images")
            write_left_out(folder / "left_out.csv", getattr(trainer, "datamodule", None))
        trainer.strategy.barrier()  # no process writes before the earlier files are away
        self.path = folder / "predictions.csv"
        self._maps = MapWriter(folder / f"maps{suffix}", self.save_maps, prediction_root(trainer)) if self.save_maps else None
        self._rows = []
        self.faults = {}

    def read(self, batch: Any, trainer: Trainer, pl_module: LightningModule, loader: int = 0) -> None:
        """Record a batch; an image whose score or map is not finite is a fault, and no end of the run."""
        scores = raw_scores(batch, finite=False)
        maps = raw_maps(batch, finite=False)
        for index, path in enumerate(path_list(batch.image_path, len(scores))):
            row: dict[str, Any] = {"path": path or "", "score": repr(float(scores[index]))}
            if not (np.isfinite(scores[index]) and (maps is None or np.isfinite(maps[index]).all())):
                self.faults[path or f"image-{len(self._rows):06d}"] = f"The model's score or map of {path} is not finite"
                continue
            if self._maps and maps is not None:
                size = image_size(path) if path else maps[index].shape
                written = self._maps.write(maps[index], path or f"image-{len(self._rows):06d}", size)
                row["map"] = (Path(self._maps.folder.name) / written).as_posix()
                row["map_min"], row["map_max"] = float(maps[index].min()), float(maps[index].max())
            self._rows.append(row)

    def end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file: one, whatever the number of processes."""
        for dataset in datasets_of(trainer.predict_dataloaders if trainer.predicting else None):
            self.faults.update(getattr(dataset, "faults", {}))
        every = gathered((self._rows, self.faults, self._labelled))
        self.faults = {path: fault for _, faults, _ in every for path, fault in faults.items()}
        threshold = self._threshold(trainer, pl_module, [part for _, _, labelled in every for part in labelled])
        rows = [row | decision(float(row["score"]), threshold) for rows, _, _ in every for row in rows]
        unread = [{"path": path, "fault": printable(fault)} for path, fault in self.faults.items()]
        assert self.path is not None  # set in begin
        if trainer.is_global_zero:
            write_predictions(self.path, [*rows, *unread])
        trainer.strategy.barrier()  # the file is there when any process goes on

    def _threshold(self, trainer: Trainer, pl_module: LightningModule, validation: list[Labelled]) -> thresholds.Threshold:
        held_out = thresholds.is_held_out(getattr(trainer, "datamodule", None))
        if self.follow_post_processor and (decided := thresholds.post_processor_threshold(pl_module, held_out=held_out)):
            return decided
        reference, labelled = ScoreReference(), None
        if validation:
            scores, anomalous = labelled = tuple(np.concatenate(parts) for parts in zip(*validation, strict=True))
            reference.update(scores[~anomalous])
        own = getattr(pl_module, "image_threshold", None)
        return thresholds.choose_threshold(self.rule, reference, thresholds.natural_threshold(pl_module), labelled, own)
