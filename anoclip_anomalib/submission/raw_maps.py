"""Raw anomaly maps of one object on disk, at the model's own resolution: what the writers start from.

Keeping the maps as the model gave them needs a tenth of the space of maps at original size, and makes a second pass over an
object's scores (for a range that is the same for all its images) possible without a second prediction.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from anoclip_anomalib.evaluation.raw_batch import raw_maps, raw_scores, require_before_post_processor
from anoclip_anomalib.evaluation.resolution import image_size, path_list, resize_map
from anoclip_anomalib.files import atomic_write


@dataclass(frozen=True)
class RawMap:
    """One prediction.

    Attributes:
        image: The input image.
        scores: (h, w) float32 at the model's resolution.
        image_score: The model's own image score.
    """

    image: Path
    scores: np.ndarray
    image_score: float

    def at_original_size(self) -> np.ndarray:
        """The map (H, W) float32 at the size of the image file, bilinear."""
        return resize_map(self.scores, image_size(self.image))


class RawMapStore:
    """Maps of the images below one folder, each in a file of its own; complete files survive an interruption.

    Args:
        folder: Where the maps lie.
        images: The folder that all images lie below, such as ``<root>/can``.
    """

    def __init__(self, folder: str | Path, images: str | Path) -> None:
        self.folder = Path(folder)
        self.images = Path(images)

    def path(self, image: str | Path) -> Path:
        """The file of an image's map.

        Raises:
            ValueError: If the image does not lie below the folder of images.
        """
        return self.folder / Path(image).relative_to(self.images).with_suffix(".npz")

    def has(self, image: str | Path) -> bool:
        """Whether the map is there."""
        return self.path(image).is_file()

    def write(self, image: str | Path, scores: np.ndarray, image_score: float) -> None:
        """Keep one prediction."""
        with atomic_write(self.path(image)) as temporary:
            np.savez(temporary, scores=np.asarray(scores, dtype=np.float32), image_score=np.float64(image_score))

    def read(self, image: str | Path) -> RawMap:
        """One prediction.

        Raises:
            ValueError: If its file is damaged.
        """
        path = self.path(image)
        try:
            with np.load(path, allow_pickle=False) as content:
                return RawMap(Path(image), content["scores"], float(content["image_score"]))
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise ValueError(f"{path} is damaged ({error}); delete it and run the command again") from error

    def read_all(self, images: list[Path]) -> Iterator[RawMap]:
        """Predictions one at a time."""
        for image in images:
            yield self.read(image)


class KeepRawMaps(Callback):
    """Writes each predicted batch's raw maps to a store, so that no predictions pile up.

    Args:
        store: Where they go.
        progress: Called with the number of images after each batch.
    """

    def __init__(self, store: RawMapStore, progress: Any = None) -> None:
        self.store = store
        self.progress = progress

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to run behind a PostProcessor, which would have changed the scores."""
        require_before_post_processor(self, trainer.callbacks)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write one batch."""
        maps = raw_maps(outputs)
        if maps is None:
            raise ValueError(f"{type(pl_module).__name__} gives no anomaly map; this leaderboard is about maps")
        images = path_list(outputs.image_path, len(maps))
        for image, scores, image_score in zip(images, maps, raw_scores(outputs), strict=True):
            if image is None:
                raise ValueError("a predicted image has no path")
            self.store.write(image, scores, float(image_score))
        if self.progress:
            self.progress(len(maps))
