"""Submission folders and data sets in MVTec AD 2's exact layouts, small and quickly written."""

import io
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from anoclip_anomalib.submission.mvtec_ad2.layout import (
    EXTENSIONS,
    IMAGES_PER_SPLIT,
    MAPS,
    SPLIT_SUFFIXES,
    expected_stems,
    file_path,
)

COUNTS: Mapping[str, int] = dict.fromkeys(IMAGES_PER_SPLIT, 2) | {"sheet_metal": IMAGES_PER_SPLIT["sheet_metal"]}
"""All eight objects, one of them with the leaderboard's own number of images."""

SIZE = (6, 9)
"""Height and width of the small images."""


def tiff_bytes(scores: np.ndarray, **kwargs) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, scores, **kwargs)
    return stream.getvalue()


def png_bytes(values: np.ndarray, mode: str | None = None) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(values)
    (image.convert(mode) if mode else image).save(stream, "PNG")
    return stream.getvalue()


def good_map(size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.linspace(0, 1, size[0] * size[1], dtype=np.float16).reshape(size)


def good_mask(size: tuple[int, int] = SIZE) -> np.ndarray:
    return ((np.indices(size).sum(0) > 8) * 255).astype(np.uint8)


def write_submission(folder: Path, counts: Mapping[str, int] = COUNTS) -> Path:
    """A valid submission with made-up results."""
    contents = {MAPS: tiff_bytes(good_map())}
    for kind in EXTENSIONS:
        content = contents.get(kind) or png_bytes(good_mask())
        for object_name, count in counts.items():
            for split in SPLIT_SUFFIXES:
                (folder / kind / object_name / split).mkdir(parents=True)
                for stem in expected_stems(split, count):
                    (folder / file_path(kind, object_name, split, stem)).write_bytes(content)
    return folder


def write_dataset(
    root: Path, counts: Mapping[str, int] = COUNTS, size: tuple[int, int] = (24, 36), public: int = 3, good: int = 4
) -> Path:
    """A data set: noise images, in ``test_public/bad`` with a bright square that the masks mark."""
    random = np.random.default_rng(0)
    noise = [random.integers(60, 120, (*size, 3), dtype=np.uint8) for _ in range(5)]
    plain = [png_bytes(image) for image in noise]
    mask = np.zeros(size, dtype=np.uint8)
    mask[4:12, 6:14] = 255
    bad = [png_bytes(np.where(mask[..., None] > 0, np.uint8(250), image)) for image in noise]
    for object_name, count in counts.items():
        folder = root / object_name
        for place, names in {
            "train/good": [f"{n:03d}_regular" for n in range(good)],
            "validation/good": [f"{n:03d}_regular" for n in range(good)],
            "test_public/good": [f"{n:03d}_regular" for n in range(public)],
            "test_public/bad": [f"{n:03d}_regular" for n in range(public)],
            **{split: expected_stems(split, count) for split in SPLIT_SUFFIXES},
        }.items():
            (folder / place).mkdir(parents=True)
            for number, name in enumerate(names):
                is_bad = place.endswith("bad") or (place.startswith("test_private") and number % 2)
                (folder / place / f"{name}.png").write_bytes((bad if is_bad else plain)[number % 5])
        masks = folder / "test_public" / "ground_truth" / "bad"
        masks.mkdir(parents=True)
        for number in range(public):
            (masks / f"{number:03d}_regular_mask.png").write_bytes(png_bytes(mask))
    return root


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(header: tuple[int, int, int, int, int], rows: bytes, *more: bytes) -> bytes:
    """A PNG from width, height, bit depth, colour type and interlacing, its unpacked rows, and further chunks before them."""
    width, height, depth, colour, interlaced = header
    start = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    return b"\x89PNG\r\n\x1a\n" + start + b"".join(more) + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
