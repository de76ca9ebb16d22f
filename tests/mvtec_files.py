"""Small data sets in MVTecAD layout: coloured squares, with a bright spot where they are defective."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def image(seed: int, *, defect: bool = False, size: tuple[int, int] = (64, 64)) -> tuple[Image.Image, Image.Image]:
    """A picture and its mask."""
    random = np.random.default_rng(seed)
    height, width = size
    pixels = np.full((height, width, 3), random.integers(40, 90, 3), dtype=np.uint8)
    pixels[height // 8 : -(height // 8), width // 8 : -(width // 8)] = random.integers(90, 160, 3)
    mask = np.zeros((height, width), dtype=np.uint8)
    if defect:
        top, left = random.integers(height // 4, height // 2), random.integers(width // 4, width // 2)
        mask[top : top + height // 4, left : left + width // 4] = 255
        pixels[mask > 0] = (250, 240, 20)
    pixels = np.clip(pixels + random.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8)
    return Image.fromarray(pixels), Image.fromarray(mask)


def write_mvtec(
    root: Path,
    categories: Sequence[str] = ("bottle",),
    *,
    good: int = 3,
    defects: int = 3,
    masks: bool = True,
    size: tuple[int, int] = (64, 64),
) -> Path:
    """Write categories with ``good`` and ``defects`` test images each."""
    for number, category in enumerate(categories):
        base = root / category
        for folder in ("train/good", "test/good", *(("test/spot", "ground_truth/spot") if defects else ())):
            (base / folder).mkdir(parents=True, exist_ok=True)
        for index in range(2):
            image(1000 * number + index, size=size)[0].save(base / f"train/good/{index:03d}.png")
        for index in range(good):
            image(1000 * number + 100 + index, size=size)[0].save(base / f"test/good/{index:03d}.png")
        for index in range(defects):
            picture, mask = image(1000 * number + 200 + index, defect=True, size=size)
            picture.save(base / f"test/spot/{index:03d}.png")
            if masks:
                mask.save(base / f"ground_truth/spot/{index:03d}_mask.png")
    return root
