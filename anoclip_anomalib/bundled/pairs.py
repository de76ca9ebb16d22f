"""Training images in pairs: one part as it should be and the same part with one or two defects."""

from dataclasses import dataclass

import cv2
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


def draw_pair(rng: Rng, size: int, ease: float = 0.0, close_ups: float = 0.6) -> tuple[np.ndarray, int]:
    """Draw one pair.

    In a close-up a defect covers anything up to the whole image, so that the network cannot keep its verdict anywhere but in
    the patches that show the defect: without close-ups the values of other patches carried it.

    Args:
        rng: Random numbers.
        size: Side of the images in pixels.
        ease: 0 to 1; 1 makes defects large and plain.
        close_ups: Share of the pairs that show only the surroundings of the defect.

    Returns:
        (2, size, size, 3) uint8 and the index of the category.
    """
    category = int(rng.integers(len(CATEGORY_NAMES)))
    zoomed = rng.random() < close_ups
    drawn = 2 * size if zoomed else size
    scene = CATEGORIES[CATEGORY_NAMES[category]](rng, drawn)
    kinds = rng.choice(len(DEFECTS), 1 + int(not zoomed and rng.random() < 0.25), replace=False)
    image, least, most = scene.image, 0.008 + 0.03 * ease, 0.12 + 0.2 * ease
    for kind in kinds:
        before = Scene(image, scene.foreground, scene.background)
        image, mask = visible_defect(rng, before, tuple(DEFECTS.values())[int(kind)], least, most)
    first = Photograph.draw(rng, drawn)
    second = first if rng.random() < 0.8 else Photograph.draw(rng, drawn)
    pair = np.stack([first.take(scene.image), second.take(image)])
    return (_close_up(rng, pair, mask, size) if zoomed else pair), category


def _close_up(rng: Rng, pair: np.ndarray, mask: np.ndarray, size: int) -> np.ndarray:
    """The same window around a place of the defect, from both images (2, S, S, 3), as (2, size, size, 3)."""
    side = int(np.exp(rng.uniform(np.log(size / 2), np.log(len(mask)))))
    places = np.argwhere(mask)
    place = places[int(rng.integers(len(places)))]
    top, left = (int(np.clip(middle - side * rng.uniform(0.15, 0.85), 0, len(mask) - side)) for middle in place)
    window = pair[:, top : top + side, left : left + side]
    how = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    return np.stack([cv2.resize(image, (size, size), interpolation=how) for image in window])


class PairChunks(Dataset[Chunk]):
    """Chunk k holds pairs drawn with seed (seed, k): the same on every machine, whatever process draws it.

    Args:
        seed: First part of each chunk's seed.
        size: Side of the images in pixels.
        pairs: Pairs in a chunk.
        count: Number of chunks.
        easing: Chunks over which defects go from large and plain to all kinds; 0 for all kinds at once.
        close_ups: Share of close-ups, see :func:`draw_pair`.
    """

    def __init__(self, seed: int, size: int, pairs: int, count: int, easing: int = 0, close_ups: float = 0.6) -> None:
        self.seed, self.size, self.pairs, self.count = seed, size, pairs, count
        self.easing, self.close_ups = easing, close_ups

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Chunk:
        rng = np.random.default_rng([self.seed, self.size, index])
        ease = max(0.0, 1 - index / self.easing) if self.easing else 0.0
        drawn = [draw_pair(rng, self.size, ease, self.close_ups) for _ in range(self.pairs)]
        return Chunk(np.stack([images for images, _ in drawn]), np.array([category for _, category in drawn]))
