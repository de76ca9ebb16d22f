"""What a run leaves behind: each image's raw score and map, and how far the run is."""

from collections.abc import Callable, Sized
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from anoclip_anomalib.evaluation.raw_batch import raw_maps, raw_scores
from anoclip_anomalib.evaluation.raw_predictions import RawPredictions
from anoclip_anomalib.evaluation.resolution import datasets_of, path_list
from anoclip_anomalib.progress import Steps

Keep = Callable[[str, float, Any], None]


class Collect(RawPredictions):
    """Hands every predicted image to a function, so that predictions do not pile up.

    Args:
        keep: Called with path, raw image score and, if wanted, map (h, w).
        maps: Whether maps are wanted.
        advance: Called with the number of images after each batch.
    """

    stages = ("predict",)

    def __init__(self, keep: Keep, *, maps: bool, advance: Callable[[int], None] | None = None) -> None:
        super().__init__()
        self.keep, self.maps, self.advance = keep, maps, advance

    def read(self, batch: Any, trainer: Trainer, pl_module: LightningModule, loader: int = 0) -> None:
        """Hand a batch on.

        Raises:
            ValueError: If a score or map is missing or not finite, or an image has no path.
        """
        scores = raw_scores(batch)
        maps = raw_maps(batch) if self.maps else None
        if self.maps and maps is None:
            raise ValueError(f"{type(pl_module).__name__} gives no anomaly map; this leaderboard is about maps")
        for index, path in enumerate(path_list(batch.image_path, len(scores))):
            if path is None:
                raise ValueError("A predicted image has no path")
            self.keep(str(path), float(scores[index]), None if maps is None else maps[index])
        if self.advance:
            self.advance(len(scores))


class ShowImages(Callback):
    """Tells a progress display of every batch, so that something moves within a long run."""

    def __init__(self, progress: Steps) -> None:
        self.progress = progress

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A step for each epoch."""
        self.progress.start(f"training, epoch {trainer.current_epoch + 1}", _images(trainer.train_dataloader))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A step."""
        self.progress.start("testing", _images(trainer.test_dataloaders))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A step."""
        limit = trainer.limit_predict_batches
        images = _images(trainer.predict_dataloaders)
        self.progress.start("one by one", min(limit, images) if isinstance(limit, int) else images)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any) -> None:
        """Advance."""
        image = getattr(batch, "image", None)
        self.progress.advance(1 if image is None else len(image))

    on_test_batch_end = on_predict_batch_end = on_train_batch_end


def _images(loaders: Any) -> int:
    """Images of one loader or several; 0 where nobody knows."""
    return sum(len(dataset) for dataset in datasets_of(loaders) if isinstance(dataset, Sized))
