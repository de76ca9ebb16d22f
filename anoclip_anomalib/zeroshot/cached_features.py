"""What a training reads from the frozen image tower, kept on disk: only the text tower is computed then."""

import logging
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset

from anoclip_anomalib.data.auxiliary import AuxiliaryDataset, Item
from anoclip_anomalib.files import atomic_write
from anoclip_anomalib.zeroshot.training import Training

logger = logging.getLogger(__name__)


class CachedFeatures(Dataset[Item]):
    """A data set's items with features instead of images, one file for each.

    Patch features are kept in float16: of ViT-L-14 at 518 pixels and four levels 8.4 MB for an image. Images are those of
    the first epoch, without augmentation, in every epoch.

    Args:
        dataset: The images.
        folder: Where the files are.
    """

    def __init__(self, dataset: AuxiliaryDataset, folder: Path) -> None:
        self.dataset, self.folder = dataset, folder
        self.classes, self.pairs = dataset.classes, dataset.pairs

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> Item:
        """Levels (K, L, E), class token (E,), grid (2,), mask (S, S), label and class index."""
        item = load_file(self._path(position % len(self)))
        return {**item, "mask": item["mask"].float()}

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:06d}.safetensors"

    def compute(self, stage: Training, *, rank: int = 0, processes: int = 1) -> None:
        """Compute what is not there yet, this process's share of it.

        Args:
            stage: Reads images; its device is used.
            rank: Of this process.
            processes: How many there are.
        """
        missing = [index for index in range(rank, len(self), processes) if not self._path(index).is_file()]
        if missing:
            logger.info("Features of %d images are computed once and kept in %s", len(missing), self.folder)
        for index in missing:
            item = self.dataset[index]
            levels, class_token, grid = stage.features(item["image"].unsqueeze(0).to(stage.device))
            content = {name: tensor for name, tensor in item.items() if name != "image"} | {
                "levels": torch.cat(levels).half().cpu(),
                "class_token": class_token[0].cpu(),
                "grid": torch.tensor(grid),
                "mask": item["mask"].to(torch.uint8),
            }
            with atomic_write(self._path(index)) as temporary:
                save_file({name: tensor.contiguous() for name, tensor in content.items()}, temporary)


class ComputeFeatures(Callback):
    """Fills a :class:`CachedFeatures` before the first epoch, each process its share.

    Args:
        cache: What to fill.
    """

    def __init__(self, cache: CachedFeatures) -> None:
        self.cache = cache

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute what is missing."""
        assert isinstance(pl_module, Training)
        self.cache.compute(pl_module, rank=trainer.global_rank, processes=trainer.world_size)
        trainer.strategy.barrier()
