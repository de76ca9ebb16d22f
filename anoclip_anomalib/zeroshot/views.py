"""The views of an image whose scores are averaged for the image score (authors' MVTec pipeline, ``vl_test.py``)."""

from collections.abc import Callable, Iterator
from functools import partial
from math import cos, pi, sin

import torch
import torch.nn.functional as F

View = Callable[[torch.Tensor], torch.Tensor]

_ROTATIONS = tuple(sign * step * pi / 16 for step in (1, 2, 3, 4) for sign in (1, -1))
_TRANSLATIONS = tuple((sx * t, sy * t) for t in (0.2, 0.1) for sx in (1, -1) for sy in (1, -1))
_QUARTER_TURNS = (pi / 2, pi, 3 * pi / 2)
_LUMINANCE = (0.299, 0.587, 0.114)


def views(count: int) -> tuple[View, ...]:
    """The views besides the image itself.

    Args:
        count: 1 for none, 22 for the authors' 21: 8 small rotations, 8 translations, a mirror image, a grey one and 3
            quarter turns. They see the image after normalisation.

    Returns:
        ``count - 1`` functions (B, 3, H, W) -> (B, 3, H, W).

    Raises:
        ValueError: If ``count`` is neither 1 nor 22.
    """
    if count == 1:
        return ()
    if count != 22:
        raise ValueError(f"views={count!r} is not available; choose 1 (the image itself) or 22 (the authors' views)")
    return (
        *(partial(rotate, angle=angle) for angle in _ROTATIONS),
        *(partial(translate, x=x, y=y) for x, y in _TRANSLATIONS),
        mirror,
        grey,
        *(partial(rotate, angle=angle) for angle in _QUARTER_TURNS),
    )


def rotate(images: torch.Tensor, angle: float) -> torch.Tensor:
    """Rotate (B, 3, H, W) images about their centre by ``angle`` in radians, reflected beyond the border."""
    height, width = images.shape[-2:]
    # In normalised coordinates a rotation of a non-square image is a rotation between two scalings; they reach from the
    # centre of the first to that of the last pixel.
    aspect = max(height - 1, 1) / max(width - 1, 1)
    matrix = [[cos(angle), -sin(angle) * aspect, 0.0], [sin(angle) / aspect, cos(angle), 0.0]]
    return _sample(images, matrix)


def translate(images: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """Shift (B, 3, H, W) images by fractions of half their width and height, reflected beyond the border."""
    return _sample(images, [[1.0, 0.0, x], [0.0, 1.0, y]])


def mirror(images: torch.Tensor) -> torch.Tensor:
    """Mirror (B, 3, H, W) images from left to right."""
    return images.flip(-1)


def grey(images: torch.Tensor) -> torch.Tensor:
    """Replace the channels of normalised (B, 3, H, W) images by their luminance."""
    weights = images.new_tensor(_LUMINANCE).view(1, 3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True).expand_as(images)


def _sample(images: torch.Tensor, matrix: list[list[float]]) -> torch.Tensor:
    theta = images.new_tensor(matrix).expand(images.shape[0], 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=True)


def grouped(functions: tuple[View, ...], images: torch.Tensor, limit: int | None) -> Iterator[tuple[int, torch.Tensor]]:
    """Views of images, as many at once as fit a batch.

    Args:
        functions: The views.
        images: (B, 3, H, W).
        limit: Images in a batch, if it can be kept (at least one view is made at a time); ``None`` for all views at once.

    Yields:
        The number n of views and the views, (n * B, 3, H, W), one after another.
    """
    step = max(1, len(functions) if limit is None else limit // len(images))
    for start in range(0, len(functions), step):
        chosen = functions[start : start + step]
        yield len(chosen), torch.cat([view(images) for view in chosen])
