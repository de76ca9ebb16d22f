"""What stands between encoding images and scoring them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from anoclip_anomalib.zeroshot.tiling import TileLayout


class Features(NamedTuple):
    """What a method's image encoder says about B images, in float32, not normalised.

    Attributes:
        class_tokens: (V, B, T, D) of V views of each of an image's T tiles; the first view is the image itself.
        patch_tokens: (B, T, h * w, D), row by row, of the image itself.
        grid: (h, w), the patches in a column and in a row of a tile.
        layout: Where the T tiles lie in the image.
        levels: (V, B, T, h * w, W) of the original stream behind V blocks, for methods that compare images with each other;
            ``None`` if they were not asked for.
    """

    class_tokens: torch.Tensor
    patch_tokens: torch.Tensor
    grid: tuple[int, int]
    layout: TileLayout
    levels: torch.Tensor | None = None

    @property
    def image_tokens(self) -> torch.Tensor:
        """(B, D): for each image the mean of its tiles' unit class tokens, without other views."""
        return F.normalize(self.class_tokens[0].float(), dim=-1).mean(dim=1)


def check_images(images: torch.Tensor) -> None:
    """Refuse what is no batch of colour images.

    Args:
        images: Should be (B, 3, H, W).

    Raises:
        ValueError: Saying what it is instead; a video is named.
    """
    if images.ndim == 4 and images.shape[1] == 3:
        return
    kind = "a video of (B, T, 3, H, W), whose frames must be given one by one" if images.ndim == 5 else "something else"
    raise ValueError(f"Images must be (B, 3, H, W), a batch of colour images; got {tuple(images.shape)}, {kind}")


def as_size(image_size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """(height, width) of an image size that is given as the side of a square or as both; ``None`` stays ``None``.

    Raises:
        ValueError: If it is neither.
    """
    if image_size is None:
        return None
    sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(sides) != 2:
        raise ValueError(f"image_size={image_size!r} must be one number or (height, width), in pixels")
    return int(sides[0]), int(sides[1])
