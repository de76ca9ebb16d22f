"""Whatever somebody has of a photograph -> (3, H, W) float32 in [0, 1], as a file of it would be read."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from anoclip_anomalib.data.images import from_pil, read_image

ROUNDING = 1e-3
"""So far beyond [0, 1] float images may reach, from resizing."""
_KINDS = "a path, a PIL image, a numpy array (H, W, 3) or a tensor (3, H, W)"


def is_one(photos: Any) -> bool:
    """Whether this is meant as a single photograph."""
    return isinstance(photos, str | Path | Image.Image | np.ndarray | torch.Tensor)


def as_tensor(photo: Any) -> torch.Tensor:
    """Read or convert a photograph.

    Args:
        photo: Path, PIL image (any mode; EXIF rotation is applied), numpy array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) in
            RGB order, or tensor (H, W), (1, H, W) or (3, H, W). Integers are uint8 (0..255), bool or uint16 (0..65535),
            floats lie in [0, 1].

    Returns:
        (3, H, W) float32 in [0, 1] on the CPU.

    Raises:
        OSError: If a file is no image; the message names it.
        TypeError: If it is nothing of these.
        ValueError: For another shape or range, with what it looks like and what to do.
    """
    if isinstance(photo, str | Path):
        if Path(photo).is_dir():
            raise ValueError(f"{photo} is a folder: give its files, or run `anoclip inspect {photo}`")
        return read_image(photo)
    if isinstance(photo, Image.Image):
        return from_pil(photo)
    if isinstance(photo, torch.Tensor):
        values = photo.detach().cpu()
        values = values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
        return _from_array(_channels_last(values.numpy(), first=True))
    if isinstance(photo, np.ndarray):
        return _from_array(_channels_last(photo, first=False))
    raise TypeError(f"A photograph must be {_KINDS}; got {type(photo).__name__}")


def to_bytes(image: torch.Tensor) -> np.ndarray:
    """(3, H, W) in [0, 1] -> (H, W, 3) uint8, for people to look at."""
    return np.asarray(cv2.merge([cv2.convertScaleAbs(plane, alpha=255) for plane in image.numpy()]))


def _channels_last(values: np.ndarray, *, first: bool) -> np.ndarray:
    """(H, W, C) with C in 1, 3, 4, from channels first or last."""
    shape = tuple(values.shape)
    if values.ndim == 2:
        values = values[..., None]
    elif values.ndim == 3 and first:
        values = np.moveaxis(values, 0, -1)
    if values.ndim != 3 or values.shape[2] not in ((1, 3) if first else (1, 3, 4)):
        wanted = "A tensor must be (3, H, W)" if first else "An array must be (H, W, 3)"
        turned = len(shape) == 3 and shape[-1 if first else 0] in (1, 3)
        turn = f": did you mean .{'permute(2, 0, 1)' if first else 'transpose(1, 2, 0)'}?" if turned else ""
        hint = ": several photographs are given as a list" if len(shape) == 4 else turn
        raise ValueError(f"{wanted}, one photograph; got {shape}{hint}")
    if 0 in values.shape:
        raise ValueError(f"The photograph is empty: {shape}")
    return values


def _from_array(values: np.ndarray) -> torch.Tensor:
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * 255
    if values.dtype == np.uint8:
        return from_pil(Image.fromarray(values[..., 0] if values.shape[2] == 1 else values))
    if values.dtype == np.uint16:
        values = values.astype(np.float32) / np.float32(65535)
    elif not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"Photographs hold uint8 (0..255), uint16 (0..65535) or floats in [0, 1]; got {values.dtype}")
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        count = int((~np.isfinite(values)).sum())
        raise ValueError(f"The photograph has {count} values that are not finite (NaN or infinite)")
    if low < -ROUNDING:
        raise ValueError(
            f"The photograph has values from {low:.3g} to {high:.3g}: it looks normalised. Give it as it is, in [0, 1]; the "
            "inspector normalises by itself"
        )
    if high > 1 + ROUNDING:
        raise ValueError(
            f"The photograph has float values up to {high:.6g}: floats must lie in [0, 1]. "
            f"Divide by {255 if high <= 255 else 65535}, or give integers"
        )
    values = np.clip(values, 0, 1).astype(np.float32)
    if values.shape[2] == 4:  # on white, as files are
        values = values[..., :3] * values[..., 3:] + (1 - values[..., 3:])
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(values, -1, 0))).expand(3, -1, -1)
