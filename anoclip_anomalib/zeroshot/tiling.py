"""Square tiles of a non-square image, and their stitching (authors' VisA pipeline, ``vis_test.py``)."""

from dataclasses import dataclass
from math import ceil
from typing import Literal

import torch

Tiling = Literal["none", "square"]


@dataclass(frozen=True)
class TileLayout:
    """Where the T tiles of an image lie.

    Attributes:
        size: (H, W) of the image.
        tile: (h, w) of every tile.
        offsets: (top, left) of each tile.
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    offsets: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.offsets)

    def split(self, images: torch.Tensor) -> torch.Tensor:
        """Cut (B, C, H, W) images into (B * T, C, h, w) tiles, the tiles of an image one after another."""
        if len(self) == 1:
            return images
        height, width = self.tile
        tiles = [images[..., top : top + height, left : left + width] for top, left in self.offsets]
        return torch.stack(tiles, dim=1).flatten(0, 1)

    def stitch(self, tiles: torch.Tensor) -> torch.Tensor:
        """Put (B * T, C, h, w) tiles together to (B, C, H, W) images, averaged where they overlap."""
        if len(self) == 1:
            return tiles
        height, width = self.tile
        tiles = tiles.unflatten(0, (-1, len(self)))
        total = tiles.new_zeros((tiles.shape[0], tiles.shape[2], *self.size))
        count = tiles.new_zeros(self.size)
        for index, (top, left) in enumerate(self.offsets):
            total[..., top : top + height, left : left + width] += tiles[:, index]
            count[top : top + height, left : left + width] += 1
        return total / count


def plan_tiles(height: int, width: int, tiling: Tiling) -> TileLayout:
    """Choose the tiles of an image.

    With ``"square"`` the tiles have the length of the shorter side, as few as cover the image, evenly spaced with the outer
    ones at its ends. An image less than twice as long as wide gets the authors' two.

    Args:
        height: Of the image, in pixels.
        width: Of the image.
        tiling: ``"none"`` for the image as one tile.

    Raises:
        ValueError: If ``tiling`` is unknown.
    """
    if tiling == "none":
        return TileLayout((height, width), (height, width), ((0, 0),))
    if tiling != "square":
        raise ValueError(f"Unknown tiling {tiling!r}; choose 'none' or 'square'")
    side, length = min(height, width), max(height, width)
    count = ceil(length / side)
    starts = [round(index * (length - side) / max(count - 1, 1)) for index in range(count)]
    offsets = tuple((0, start) if width >= height else (start, 0) for start in starts)
    return TileLayout((height, width), (side, side), offsets)
