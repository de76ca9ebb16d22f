"""Reading an image file of any kind, in bounded memory; reducing what was read."""

import os
import warnings
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from anoclip_anomalib.files import OTHER_IMAGES, printable

# Pillow refuses more than 179 million pixels, which take 716 MB once decoded; up to these limits the result takes 12 bytes a
# pixel beside that. A file therefore never needs more than 1 GiB, whatever its compressed size is.
WHOLE_PIXELS = 48 << 20
"""Images of up to so many pixels are read as they are; larger ones are averaged over blocks, to at most ``REDUCED_PIXELS``."""
REDUCED_PIXELS = 16 << 20

_TOO_LARGE = "it has more than 179 million pixels; scale it down, or cut it into parts"
_BLOCK = 2048  # side of what is converted at a time
_EXIF_ORIENTATION = 0x0112


def read_image(path: str | Path) -> torch.Tensor:
    """Read an image as a viewer would show it.

    The camera's rotation (EXIF) is applied, 16-bit images keep their range instead of being clipped to white, grey and
    palette images become RGB, and transparent ones are laid on white. At most 1 GiB is used: an image of more than
    ``WHOLE_PIXELS`` is reduced by the smallest whole factor that leaves at most ``REDUCED_PIXELS``.

    Args:
        path: An image file that Pillow can read.

    Returns:
        (3, H, W) float32 in [0, 1].

    Raises:
        OSError: If the file is no image, is truncated, or has more pixels than Pillow takes; the message names it.
    """
    try:
        if not os.path.isfile(path):  # a pipe would be waited for, for ever
            raise OSError("a link that leads to no file" if os.path.islink(path) else "no regular file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large images are provided for
            with Image.open(path) as image:
                return from_pil(image)
    except Image.DecompressionBombError as error:
        raise OSError(f"Cannot read image {printable(path)}: {_TOO_LARGE}") from error
    except (OSError, SyntaxError, ValueError, MemoryError) as error:
        other = os.path.splitext(path)[1].lower() in OTHER_IMAGES
        hint = ". Its kind is not read here: convert it to JPEG, PNG or TIFF" if other else ""
        raise OSError(f"Cannot read image {printable(path)}: {printable(str(error) or type(error).__name__)}{hint}") from error


def from_pil(image: Image.Image) -> torch.Tensor:
    """An opened image as :func:`read_image` gives it, (3, H, W) float32 in [0, 1].

    Raises:
        OSError: If it cannot be decoded.
        ValueError: If it has values that are not finite.
    """
    image.load()
    return _upright(_to_tensor(image), image.getexif().get(_EXIF_ORIENTATION)).contiguous()


def _to_tensor(image: Image.Image) -> torch.Tensor:
    """A decoded image to (3, H, W) float32 in [0, 1], reduced if it is very large."""
    width, height = image.size
    factor = 1
    while width * height > (WHOLE_PIXELS if factor == 1 else REDUCED_PIXELS * factor**2):
        factor += 1
    peak = _peak(image)
    result = torch.empty(3, -(-height // factor), -(-width // factor))
    step = _BLOCK // factor * factor
    for top in range(0, height, step):
        for left in range(0, width, step):
            block = _convert(image.crop((left, top, min(left + step, width), min(top + step, height))), peak)
            if factor > 1:
                block = F.avg_pool2d(block, factor, ceil_mode=True)
            y, x = top // factor, left // factor
            result[:, y : y + block.shape[1], x : x + block.shape[2]] = block
    return result


def _peak(image: Image.Image) -> float | None:
    """White in an image of more than 8 bits; ``None`` for others.

    What is stored in 16 bits is read as such, however dark: the brightness of a pixel must not depend on the others. 32-bit
    integers and floats may hold anything: 1, 255 or 65535.
    """
    if not (image.mode.startswith("I") or image.mode == "F"):
        return None
    if image.mode.startswith("I;16"):
        return 65535.0
    highest = float(image.getextrema()[1])  # type: ignore[arg-type]  # one band
    return 1.0 if highest <= 1 else 255.0 if highest <= 255 else 65535.0


def _convert(block: Image.Image, peak: float | None) -> torch.Tensor:
    """A part of an image to (3, h, w) float32 in [0, 1]."""
    if peak is not None:
        values = np.asarray(block, dtype=np.float32)
        if not np.isfinite(values).all():
            raise ValueError("Values in it are not finite")
        return torch.from_numpy(np.clip(values / peak, 0.0, 1.0)).expand(3, -1, -1)
    if "A" in block.getbands() or "transparency" in block.info:
        block = block.convert("RGBA")
        block = Image.alpha_composite(Image.new("RGBA", block.size, "white"), block)
    return torch.from_numpy(np.array(block.convert("RGB"))).permute(2, 0, 1).float().div_(255)


def _upright(image: torch.Tensor, orientation: int | None) -> torch.Tensor:
    """Undo the rotation and mirroring that EXIF's tag describes; unknown values leave the image as it is."""
    if orientation in (5, 6, 7, 8):
        image = image.mT
    if orientation in (2, 3, 6, 7):
        image = image.flip(-1)
    if orientation in (3, 4, 7, 8):
        image = image.flip(-2)
    return image


def shrink(image: np.ndarray, side: int) -> np.ndarray:
    """Reduce (H, W) or (H, W, 3) so that the longer side is ``side`` at most, by area averaging."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return image if scale >= 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
