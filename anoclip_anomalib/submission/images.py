"""Images without labels, for prediction."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from anomalib.data import ImageBatch, ImageItem
from anomalib.data.utils import read_image
from torch.utils.data import DataLoader, Dataset


class UnlabelledImages(Dataset):
    """Image files; ``resize`` is the model's own, so that images of different sizes fit in one batch."""

    def __init__(self, paths: Sequence[Path], resize: Callable[[torch.Tensor], torch.Tensor] | None) -> None:
        self.paths, self.resize = paths, resize

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> ImageItem:
        image = read_image(self.paths[index], as_tensor=True)
        return ImageItem(image=self.resize(image) if self.resize else image, image_path=str(self.paths[index]))

    def loader(self, **options: int) -> DataLoader:
        """A loader of them; ``batch_size`` and ``num_workers``."""
        return DataLoader(self, collate_fn=ImageBatch.collate, **options)
