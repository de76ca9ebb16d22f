"""A pool of unlabelled images: its features, in memory or on disk, and the scores that the images get from each other."""

import shutil
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from anoclip_anomalib.mutual.patches import Patches, groups_of_sizes
from anoclip_anomalib.mutual.scoring import LOWEST, pool_scores
from anoclip_anomalib.progress import Progress
from anoclip_anomalib.zeroshot.features import Features
from anoclip_anomalib.zeroshot.scoring import upsample

SMALLEST = 3
"""Images that mutual scoring needs: an image, and two others to tell from each other."""


class FeaturePool:
    """Features of N images that arrive in batches.

    Args:
        images: How many at most: files that turn out not to be readable are left out.
        budget: Bytes that may be held in memory; beyond that the features go to a file in half precision.
        folder: Where that file lies while the pool is in use; ``None`` for the system's temporary folder.

    Raises:
        ValueError: If the images are fewer than three.
    """

    def __init__(self, images: int, budget: int = 4 << 30, folder: str | Path | None = None) -> None:
        _check_count(images)
        self._room, self.budget, self.folder = images, budget, folder
        self.filled = 0
        self.grid: tuple[int, int] = (0, 0)
        self.class_tokens: list[torch.Tensor] = []
        self._levels: torch.Tensor | None = None
        self._file: tempfile.TemporaryDirectory | None = None

    def add(self, features: Features) -> None:
        """Take over the levels and class tokens of a batch.

        Raises:
            ValueError: If the features neither fit the budget nor the disk, or images differ in their tiles.
        """
        assert features.levels is not None  # asked for by whoever encodes
        levels = features.levels
        self._levels = self._allocated(levels) if self._levels is None else self._levels
        if levels.shape[2:] != self._levels.shape[2:]:
            raise ValueError(
                f"All images of a pool must have the same shape: {tuple(levels.shape[2:])} and {tuple(self._levels.shape[2:])}"
            )
        self.grid = features.grid
        stop = self.filled + levels.shape[1]
        # To one variance for an image, as the neighbourhoods do anyway: half precision would not hold some towers' values.
        normed = F.layer_norm(levels.float(), levels.shape[-2:])
        self._levels[:, self.filled : stop] = normed.to(self._levels)
        self.class_tokens.append(features.image_tokens.cpu().clone())
        self.filled = stop

    @property
    def levels(self) -> torch.Tensor:
        """(V, N, T, L, W), float32 in memory or half precision in a file."""
        _check_count(self.filled)
        assert self._levels is not None
        return self._levels[:, : self.filled]

    def _allocated(self, levels: torch.Tensor) -> torch.Tensor:
        shape = (levels.shape[0], self._room, *levels.shape[2:])
        count = int(np.prod(shape))
        if 4 * count <= self.budget:
            return levels.new_empty(shape, dtype=torch.float32)
        folder = Path(self.folder or tempfile.gettempdir())
        free = shutil.disk_usage(folder).free
        if 2 * count > free:
            raise ValueError(
                f"The features of {self._room} images take {2 * count / 2**30:.1f} GiB, and {folder} has "
                f"{free / 2**30:.1f} GiB free: name another features_folder, or use fewer depths, smaller images or subsets"
            )
        self._file = tempfile.TemporaryDirectory(prefix="anoclip-pool-", dir=folder)
        held: np.ndarray = np.memmap(Path(self._file.name) / "levels", dtype=np.float16, mode="w+", shape=shape)
        return torch.from_numpy(held)

    def close(self) -> None:
        """Give the memory or the file back."""
        self._levels = None
        if self._file is not None:
            self._file.cleanup()

    def subsets(self, count: int) -> list[torch.Tensor]:
        """Divide the images at random into equal parts that score each other apart; labels play no part.

        Raises:
            ValueError: If a part would have fewer than three images.
        """
        if count < 1 or self.filled // count < SMALLEST:
            raise ValueError(f"subsets={count} of {self.filled} images: each needs at least {SMALLEST}")
        if count == 1:
            return [torch.arange(self.filled)]
        order = torch.randperm(self.filled, generator=torch.Generator().manual_seed(0))
        return [part.sort().values for part in order.tensor_split(count)]

    def patch_scores(
        self,
        neighbourhoods: Sequence[int],
        *,
        lowest: float = LOWEST,
        subsets: int = 1,
        device: torch.device | str = "cpu",
        progress: bool = True,
    ) -> torch.Tensor:
        """Mutual scores, averaged over all depths and neighbourhoods: (N, T, L) float32."""
        levels = self.levels
        parts = self.subsets(subsets)
        groups = groups_of_sizes(neighbourhoods, levels.shape[-1], device)
        total = torch.zeros(self.filled, levels.shape[2] * levels.shape[3], dtype=torch.float64)
        runs = self.filled * len(levels) * len(groups)
        with Progress(quiet=not progress) as display:
            display.start("Images score each other", runs)
            for level, sizes, part in product(levels, groups, parts):

                def read(start: int, stop: int, level=level, sizes=sizes, part=part) -> Patches:  # noqa: ANN001
                    return Patches.of(level[part[start:stop]].to(device), self.grid, sizes)

                found = pool_scores(read, len(part), lowest=lowest, budget=self.budget, step=display.advance)
                total[part] += found.sum(dim=0).cpu()
        return (total / (len(levels) * len(neighbourhoods))).float().unflatten(1, levels.shape[2:4])


def _check_count(images: int) -> None:
    if images < SMALLEST:
        raise ValueError(f"Mutual scoring needs at least {SMALLEST} images that can score each other; there are {images}")


def peaks(patches: torch.Tensor, grid: tuple[int, int], tile: tuple[int, int]) -> torch.Tensor:
    """The highest value of each upsampled map: (N, T, L) -> (N,)."""
    maps = patches.flatten(0, 1).unflatten(1, grid)
    # A graph may not fix the number of images; otherwise only some maps are upsampled at once.
    parts = (maps,) if torch.compiler.is_compiling() else maps.split(64)
    highest = [upsample(part.unsqueeze(1), tile).flatten(1).amax(dim=1) for part in parts]
    return torch.cat(highest).unflatten(0, patches.shape[:2]).amax(dim=1)
