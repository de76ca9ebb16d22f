"""The rules for a single file of an MVTec AD 2 submission: float16 TIFF maps and black-and-white PNG masks.

What a file claims about itself is checked before anything is decoded, and that its data are as long as claimed: readers fill up
what is missing with zeros and pass over what is too much.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import tifffile
from PIL import Image

MAX_PIXELS = 1 << 26
"""Larger images are taken for an attack on memory; the data set's own have about five million pixels."""

Faults = list[tuple[str, str]]
Size = tuple[int, int]


class _WrongFileError(Exception):
    """A rule that a file's claims about itself break, (rule, message)."""


def check_map(content: bytes) -> tuple[Size | None, Faults]:
    """Check one anomaly map.

    Args:
        content: The TIFF file.

    Returns:
        Its height and width (``None`` if it could not be read), and the (rule, message) pairs of what is wrong.
    """
    faults: Faults = []
    with _readable("TIFF", faults), tifffile.TiffFile(io.BytesIO(content)) as tiff:
        _check_tiff(tiff, content)
        scores = np.asarray(tiff.asarray())
    if faults:
        return None, faults
    if not_a_number := int(np.isnan(scores).sum()):
        faults.append(("nan", f"{not_a_number} pixels are NaN"))
    if infinite := int(np.isinf(scores).sum()):
        faults.append(("inf", f"{infinite} pixels are infinite (float16 ends at 65504)"))
    if (scores == scores.flat[0]).all():
        faults.append(("all-equal", f"all pixels are {scores.flat[0]}: the map says nothing"))
    return (scores.shape[0], scores.shape[1]), faults


def check_mask(content: bytes) -> tuple[Size | None, Faults]:
    """Check one thresholded map.

    Args:
        content: The PNG file.

    Returns:
        Its height and width (``None`` if it could not be read), and the (rule, message) pairs of what is wrong.
    """
    faults: Faults = []
    with _readable("PNG", faults):
        _check_png(content)
        values = np.asarray(Image.open(io.BytesIO(content), formats=["PNG"]))
    if faults:
        return None, faults
    grey = np.unique(values[(values != 0) & (values != 255)])
    if len(grey):
        faults.append(("grey-values", f"a mask holds 0 and 255 alone, this one also {grey[:5].tolist()}"))
    return (values.shape[0], values.shape[1]), faults


@contextmanager
def _readable(kind: str, faults: Faults) -> Iterator[None]:
    try:
        yield
    except _WrongFileError as error:
        faults.append(error.args)
    except Exception as error:  # noqa: BLE001 (a damaged file can raise nearly anything inside the reader)
        faults.append(("unreadable", f"not a readable {kind} ({type(error).__name__}: {error})"))


def _check_tiff(tiff: tifffile.TiffFile, content: bytes) -> None:
    if not len(tiff.pages):
        raise _WrongFileError("unreadable", "the TIFF holds no image")
    page = tiff.pages.first
    if len(tiff.pages) > 1 or len(tiff.series) > 1 or "SubIFDs" in page.tags:
        raise _WrongFileError("wrong-ndim", "a map has 2 dimensions; this TIFF holds more than one image")
    shape = tuple(tiff.series[0].shape)
    if len(page.shape) != 2 or shape != tuple(page.shape):
        raise _WrongFileError("wrong-ndim", f"a map has 2 dimensions, this one has {len(shape)}: {shape}")
    if page.dtype != np.float16:
        raise _WrongFileError("wrong-dtype", f"a map is float16, this one is {page.dtype}")
    height, width = shape
    if height * width == 0:
        raise _WrongFileError("wrong-size", "the map has no pixels")
    if height * width > MAX_PIXELS:
        raise _WrongFileError("implausible-size", f"the TIFF claims {width} x {height} pixels")
    # Bytes that each strip or tile has when it is not compressed; tiles are whole, the last strip may be short.
    rows, columns = page.chunks[:2]
    counts = [rows] * -(-height // rows) * -(-width // columns)
    if not page.is_tiled:
        counts[-1] = height - rows * (len(counts) - 1)
    expected = [2 * columns * count for count in counts]
    if not len(expected) == len(page.dataoffsets) == len(page.databytecounts):
        raise _WrongFileError("unreadable", f"the TIFF has {len(page.databytecounts)} pieces of data, not {len(expected)}")
    for size, offset, count in zip(expected, page.dataoffsets, page.databytecounts, strict=True):
        data = content[offset : offset + count]
        if page.compression in (tifffile.COMPRESSION.ADOBE_DEFLATE, tifffile.COMPRESSION.DEFLATE):
            _inflate(data, size)
        elif page.compression != tifffile.COMPRESSION.NONE:
            name = getattr(page.compression, "name", page.compression)
            raise _WrongFileError("wrong-format", f"the TIFF is compressed by {name}; write it plain or with zlib")
        elif len(data) != size or count != size:
            raise _WrongFileError("unreadable", f"the TIFF holds {len(data)} bytes where the map needs {size}")


def _check_png(content: bytes) -> None:
    chunks = list(_png_chunks(content))
    kinds = [kind for kind, _ in chunks]
    if kinds[:1] != [b"IHDR"] or kinds[-1] != b"IEND" or kinds.count(b"IHDR") != 1 or len(chunks[0][1]) != 13:
        raise _WrongFileError("unreadable", "the PNG has no header or no end")
    width, height, depth, colour, interlaced = struct.unpack(">IIBB2xB", chunks[0][1])
    if colour != 0:
        raise _WrongFileError("wrong-ndim", f"a mask has one channel of grey, this PNG has colour type {colour}")
    if depth != 8:
        raise _WrongFileError("wrong-dtype", f"a mask is an 8-bit greyscale PNG, this one has {depth} bits")
    if b"tRNS" in kinds:
        raise _WrongFileError("wrong-dtype", "a mask is an 8-bit greyscale PNG, this one has a transparent value (tRNS)")
    if b"acTL" in kinds:
        raise _WrongFileError("wrong-ndim", "a mask is one picture, this PNG is animated")
    if width * height == 0 or width * height > MAX_PIXELS:
        raise _WrongFileError("implausible-size", f"the PNG claims {width} x {height} pixels")
    passes = [(0, 0, 1, 1)]
    if interlaced:  # Adam7: (first column, first row, columns apart, rows apart)
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    sizes = [(-((x - width) // dx), -((y - height) // dy)) for x, y, dx, dy in passes]
    # Each row begins with a byte that tells its filter.
    _inflate(b"".join(data for kind, data in chunks if kind == b"IDAT"), sum(h * (w + 1) for w, h in sizes if w > 0 and h > 0))


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    if content[:8] != b"\x89PNG\r\n\x1a\n":
        raise _WrongFileError("unreadable", "not a PNG")
    position = 8
    while position < len(content):
        end = position + 12 + int.from_bytes(content[position : position + 4], "big")
        if end > len(content) or int.from_bytes(content[end - 4 : end], "big") != zlib.crc32(content[position + 4 : end - 4]):
            raise _WrongFileError("unreadable", f"the PNG is cut off or damaged at byte {position}")
        yield content[position + 4 : position + 8], content[position + 8 : end - 4]
        position = end


def _inflate(data: bytes, size: int) -> None:
    """Make sure that zlib data hold exactly ``size`` bytes, without unpacking more than that."""
    stream = zlib.decompressobj()
    found = len(stream.decompress(data, size + 1))
    if found != size or not stream.eof or stream.unused_data:
        more = "more than" if found > size else f"{found} of"
        raise _WrongFileError("unreadable", f"the compressed data hold {more} {size} bytes, or do not end there")
