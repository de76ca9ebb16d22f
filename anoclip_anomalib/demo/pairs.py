"""Training images in pairs: one part as it should be and the same part with one or two defects."""

from dataclasses import dataclass

import numpy as np
from torch.utils.data import Dataset

from anoclip_anomalib.demo.defects import DEFECTS, visible_defect
from anoclip_anomalib.demo.noise import Rng
from anoclip_anomalib.demo.objects import CATEGORIES
from anoclip_anomalib.demo.scene import Photograph, Scene

CATEGORY_NAMES = tuple(CATEGORIES)
"""Names by index, as ``Chunk.category`` uses them."""


@dataclass(frozen=True)
class Chunk:
    """Some pairs: ``images`` (n, 2, S, S, 3) uint8, normal then abnormal, and ``category`` (n,) int64."""

    images: np.ndarray
    category: np.ndarray


def draw_pair(rng: Rng, size: int, ease: float = 0.0) -> tuple[np.ndarray, int]:
    """One pair (2, size, size, 3) uint8 and the index of its category; ``ease`` 0..1 makes defects large and plain."""
    category = int(rng.integers(len(CATEGORY_NAMES)))
    scene = CATEGORIES[CATEGORY_NAMES[category]](rng, size)
    kinds = rng.choice(len(DEFECTS), 1 + int(rng.random() < 0.25), replace=False)
    image = scene.image
    for kind in kinds:
        defect = tuple(DEFECTS.values())[int(kind)]
        image, _ = visible_defect(
            rng, Scene(image, scene.foreground, scene.background), defect, 0.008 + 0.03 * ease, 0.12 + 0.2 * ease
        )
    first = Photograph.draw(rng, size)
    second = first if rng.random() < 0.8 else Photograph.draw(rng, size)
    return np.stack([first.take(scene.image), second.take(image)]), category


class PairChunks(Dataset[Chunk]):
    """Chunk k holds pairs drawn with seed (seed, k): the same on every machine, whatever process draws it.

    Args:
        seed: First part of each chunk's seed.
        size: Side of the images in pixels.
        pairs: Pairs in a chunk.
        count: Number of chunks.
        easing: Chunks over which defects go from large and plain to all kinds; 0 for all kinds at once.
    """

    def __init__(self, seed: int, size: int, pairs: int, count: int, easing: int = 0) -> None:
        self.seed, self.size, self.pairs, self.count, self.easing = seed, size, pairs, count, easing

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Chunk:
        rng = np.random.default_rng([self.seed, self.size, index])
        ease = max(0.0, 1 - index / self.easing) if self.easing else 0.0
        drawn = [draw_pair(rng, self.size, ease) for _ in range(self.pairs)]
        return Chunk(np.stack([images for images, _ in drawn]), np.array([category for _, category in drawn]))
