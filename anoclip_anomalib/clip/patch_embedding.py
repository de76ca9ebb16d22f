"""From images to the tokens of a ``VisionTransformer``'s first block."""

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import nn

PositionKind = Literal["bicubic-antialias", "bicubic", "bicubic-offset", "bilinear"]


def embed_images(
    visual: nn.Module, images: torch.Tensor, position: PositionKind = "bicubic-antialias"
) -> tuple[torch.Tensor, tuple[int, int]]:
    """Class token and patches as the first block gets them, (B, 1 + h * w, D), and the grid (h, w); see :func:`walk_image`."""
    check_image_size(visual, *images.shape[-2:])
    x = visual.conv1(images.to(visual.conv1.weight.dtype))
    grid = (x.shape[-2], x.shape[-1])
    x = x.flatten(2).transpose(1, 2)
    class_token = visual.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
    embedding = interpolate_position(visual.positional_embedding, pair(visual.grid_size), grid, position)
    x = torch.cat([class_token, x], dim=1) + embedding.to(x.dtype)
    return visual.ln_pre(x), grid


def interpolate_position(
    embedding: torch.Tensor, native: tuple[int, int], grid: tuple[int, int], kind: PositionKind = "bicubic-antialias"
) -> torch.Tensor:
    """Fit a position embedding to another patch grid; the class token's position stays.

    Args:
        embedding: (1 + h0 * w0, D), the class token's position first.
        native: (h0, w0), the grid that the embedding was made for.
        grid: (h, w), the grid wanted.
        kind: ``"bicubic-antialias"``, as open_clip does when it loads one (AnoCLIP, AA-CLIP, APRIL-GAN); ``"bicubic"``
            without antialiasing (AdaCLIP, MuSc); ``"bicubic-offset"``, the same with the scale (h + 0.1) / h0 (SC-CLIP);
            ``"bilinear"`` (AnomalyCLIP, Crane). Corners are not aligned in any.

    Returns:
        (1 + h * w, D); ``embedding`` itself if the grids are equal.

    Raises:
        ValueError: If the kind is unknown.
    """
    if kind not in get_args(PositionKind):
        raise ValueError(f"Unknown interpolation {kind!r}; choose one of {', '.join(map(repr, get_args(PositionKind)))}")
    if native == grid:
        return embedding
    mode, _, option = kind.partition("-")
    size: dict[str, Any] = {"size": grid}
    if option == "offset":
        size = {"scale_factor": [(n + 0.1) / n0 for n, n0 in zip(grid, native, strict=True)]}
    class_position, patches = embedding[:1], embedding[1:]
    patches = patches.float().T.unflatten(1, native).unsqueeze(0)
    patches = F.interpolate(patches, **size, mode=mode, antialias=option == "antialias", align_corners=False)
    return torch.cat([class_position, patches[0].flatten(1).T.to(embedding.dtype)])


def check_image_size(visual: nn.Module, height: int, width: int) -> None:
    """Raise a ``ValueError`` unless the size is a multiple of the patch size."""
    patch_height, patch_width = pair(visual.patch_size)
    if height % patch_height or width % patch_width or min(height, width) < 1:
        near = [max(1, round(n / p)) * p for n, p in ((height, patch_height), (width, patch_width))]
        raise ValueError(
            f"Image size {height} x {width} is not a multiple of the patch size {patch_height} x {patch_width}; "
            f"the nearest that is: {near[0]} x {near[1]}"
        )


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a size that may be one number."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
