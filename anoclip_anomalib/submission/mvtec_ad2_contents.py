"""The rules for a single file of an MVTec AD 2 submission: float16 TIFF maps and black-and-white PNG masks."""

import io
import warnings

import numpy as np
import tifffile
from PIL import Image

MAX_PIXELS = 1 << 28
"""Larger images are taken for an attack on memory; the data set's own have about five million pixels."""

Faults = list[tuple[str, str]]


def check_map(content: bytes) -> tuple[tuple[int, int] | None, Faults]:
    """Check one anomaly map.

    Args:
        content: The TIFF file.

    Returns:
        Its height and width (None if it has no two dimensions), and the (rule, message) pairs of what is wrong.
    """
    try:
        with tifffile.TiffFile(io.BytesIO(content)) as tiff:
            if not len(tiff.pages):
                return None, [("unreadable", "the TIFF holds no image")]
            pixels = sum(int(np.prod(series.shape)) for series in tiff.series)
            if pixels > MAX_PIXELS:
                return None, [("implausible-size", f"the TIFF claims {pixels} pixels")]
            scores = np.asarray(tiff.asarray())
    except Exception as error:  # noqa: BLE001 (a damaged file can raise nearly anything inside the reader)
        return None, [("unreadable", f"not a readable TIFF ({type(error).__name__}: {error})")]
    faults: Faults = []
    if scores.ndim != 2:
        faults.append(("wrong-ndim", f"a map has 2 dimensions, this one has {scores.ndim}: {scores.shape}"))
    if scores.dtype != np.float16:
        faults.append(("wrong-dtype", f"a map is float16, this one is {scores.dtype}"))
    if scores.size == 0:
        faults.append(("wrong-size", "the map has no pixels"))
    elif np.issubdtype(scores.dtype, np.inexact):
        not_a_number, infinite = int(np.isnan(scores).sum()), int(np.isinf(scores).sum())
        if not_a_number:
            faults.append(("nan", f"{not_a_number} pixels are NaN"))
        if infinite:
            faults.append(("inf", f"{infinite} pixels are infinite (float16 ends at 65504)"))
    if scores.size and (scores == scores.flat[0]).all():
        faults.append(("all-equal", f"all pixels are {scores.flat[0]}: the map says nothing"))
    return ((scores.shape[0], scores.shape[1]) if scores.ndim == 2 else None), faults


def check_mask(content: bytes) -> tuple[tuple[int, int] | None, Faults]:
    """Check one thresholded map.

    Args:
        content: The PNG file.

    Returns:
        Its height and width (None if it could not be read), and the (rule, message) pairs of what is wrong.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=["PNG"])
            if image.width * image.height > MAX_PIXELS:
                return None, [("implausible-size", f"the PNG claims {image.width} x {image.height} pixels")]
            values = np.asarray(image)
    except Exception as error:  # noqa: BLE001 (as above)
        return None, [("unreadable", f"not a readable PNG ({type(error).__name__}: {error})")]
    faults: Faults = []
    if values.ndim != 2:
        faults.append(("wrong-ndim", f"a mask has one channel, this one has mode {image.mode}: {values.shape}"))
    elif image.mode != "L":
        faults.append(("wrong-dtype", f"a mask is an 8-bit greyscale PNG (mode L), this one has mode {image.mode}"))
    elif ((values != 0) & (values != 255)).any():
        found = np.unique(values[(values != 0) & (values != 255)])
        faults.append(("grey-values", f"a mask holds 0 and 255 alone, this one also {found[:5].tolist()}"))
    return (image.height, image.width), faults
