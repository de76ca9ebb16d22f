"""The one callback that reads a model's raw scores and maps, whatever is done with them."""

from functools import partialmethod
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from anoclip_anomalib.evaluation.epoch_metrics import DistinctImages
from anoclip_anomalib.evaluation.raw_batch import raw_scores, require_before_post_processor
from anoclip_anomalib.evaluation.resolution import mask_paths_of, restored_mask_paths
from anoclip_anomalib.evaluation.thresholds import is_held_out


class RawPredictions(Callback):
    """Base of callbacks that read predictions before any PostProcessor changes them, in several processes each image once.

    Subclasses override :meth:`begin`, :meth:`read`, :meth:`end` and, for thresholds, :meth:`read_validation`.

    Attributes:
        stages: What is read: "test", "predict" or both.
    """

    stages: tuple[str, ...] = ("test", "predict")

    def __init__(self) -> None:
        self._distinct = DistinctImages()
        self._mask_paths: dict[str, str] = {}

    def begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A test or prediction begins."""

    def read(self, batch: Any, trainer: Trainer, pl_module: LightningModule, loader: int = 0) -> None:
        """A batch of the data loader with that index has its raw ``pred_score``, ``anomaly_map`` and all its mask paths."""

    def end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All batches were read."""

    def forget_validation(self) -> None:
        """A validation epoch begins; training has several."""

    def read_validation(self, batch: Any, scores: np.ndarray, anomalous: np.ndarray) -> None:
        """A batch of labelled validation images that are no test images: scores (B,), labels (B,) bool."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Only the last validation counts."""
        self._distinct = DistinctImages()
        self.forget_validation()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int = 0,
        dataloader_idx: int = 0,
    ) -> None:
        """Read scores of held-out images; some models compute losses alone here."""
        if trainer.sanity_checking or batch.gt_label is None or not is_held_out(getattr(trainer, "datamodule", None)):
            return
        batch = self._distinct.of(batch, getattr(trainer, "val_dataloaders", None), dataloader_idx)
        if batch is not None and (batch.pred_score is not None or batch.anomaly_map is not None):
            self.read_validation(batch, raw_scores(batch), batch.gt_label.cpu().numpy().reshape(-1) > 0)

    def _begin(self, stage: str, trainer: Trainer, pl_module: LightningModule) -> None:
        if stage in self.stages:
            require_before_post_processor(self, trainer.callbacks)
            self._distinct = DistinctImages()
            self._mask_paths = mask_paths_of(trainer.test_dataloaders) if stage == "test" else {}
            self.begin(trainer, pl_module)

    def _batch_end(
        self, stage: str, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, number: int, loader: int = 0
    ) -> None:
        if stage in self.stages:
            predicted = batch if stage == "test" else outputs
            distinct = self._distinct.of(predicted, getattr(trainer, f"{stage}_dataloaders"), loader)
            if distinct is not None:
                with restored_mask_paths(distinct, self._mask_paths):
                    self.read(distinct, trainer, pl_module, loader)

    def _end(self, stage: str, trainer: Trainer, pl_module: LightningModule) -> None:
        if stage in self.stages:
            self.end(trainer, pl_module)

    on_test_start, on_predict_start = partialmethod(_begin, "test"), partialmethod(_begin, "predict")
    on_test_batch_end, on_predict_batch_end = partialmethod(_batch_end, "test"), partialmethod(_batch_end, "predict")
    on_test_end, on_predict_end = partialmethod(_end, "test"), partialmethod(_end, "predict")
