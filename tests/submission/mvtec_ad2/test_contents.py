"""Single files that readers open without a word although half of them is missing, or more is there than is read."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from anoclip_anomalib.submission.mvtec_ad2.contents import MAX_PIXELS, check_map, check_mask

from ..ad2_files import SIZE, good_map, good_mask, png_bytes, png_chunk, raw_png, tiff_bytes

HEIGHT, WIDTH = SIZE
ROWS = b"".join(b"\0" + row.tobytes() for row in good_mask())
MANY_ROWS = {"rowsperstrip": 2}


def rules(check, content):
    return [rule for rule, _ in check(content)[1]]


@pytest.mark.parametrize(
    "options", [{}, MANY_ROWS, {"tile": (16, 16)}, {"compression": "zlib"}, {"compression": "zlib", "predictor": True}]
)
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_every_way_to_write_a_valid_map(options, byteorder):
    assert check_map(tiff_bytes(good_map((30, 20)), byteorder=byteorder, **options)) == ((30, 20), [])
    assert check_map(tiff_bytes(good_map((30, 20)), bigtiff=True, compression="zlib", **MANY_ROWS)) == ((30, 20), [])


def test_second_page_is_seen():
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        writer.write(good_map(), metadata=None)
        writer.write(np.full(SIZE, np.nan, np.float16), metadata=None)
    assert rules(check_map, stream.getvalue()) == ["wrong-ndim"]


def test_image_hidden_below_the_first_is_seen():
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        writer.write(good_map(), metadata=None, subifds=1)
        writer.write(np.full(SIZE, np.nan, np.float16), metadata=None)
    assert rules(check_map, stream.getvalue()) == ["wrong-ndim"]


def with_tag(content, code, change):
    """A TIFF with another value of a tag, which lies in the tag itself."""
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        tag = tiff.pages[0].tags[code]
        changed = bytearray(content)
        kind = {3: "H", 4: "I"}[tag.dtype]
        value = tag.value[0] if isinstance(tag.value, tuple) else tag.value
        struct.pack_into(tiff.byteorder + kind, changed, tag.valueoffset, change(value))
        return bytes(changed)


@pytest.mark.parametrize("options", [{}, MANY_ROWS, {"compression": "zlib"}])
@pytest.mark.parametrize("change", [lambda count: count // 2, lambda count: count - 1, lambda count: 0])
def test_strips_that_are_too_short(options, change):
    content = tiff_bytes(good_map((30, 20)), metadata=None, **options)
    assert rules(check_map, with_tag(content, "StripByteCounts", change)) == ["unreadable"]


def test_compressed_strip_with_half_its_rows():
    content = tiff_bytes(good_map((30, 20)), metadata=None, compression="zlib")
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        offset, count = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
    half = zlib.compress(good_map((30, 20))[:15].tobytes())
    changed = content[:offset] + half + b"\0" * (count - len(half)) + content[offset + count :]
    assert rules(check_map, with_tag(changed, "StripByteCounts", lambda _: len(half))) == ["unreadable"]


def test_rarer_compressions_are_refused_by_name():
    pytest.importorskip("imagecodecs")
    size, [(rule, message)] = check_map(tiff_bytes(good_map(), compression="lzw"))
    assert (size, rule) == (None, "wrong-format")
    assert "LZW" in message


def test_dtype_is_known_before_anything_is_decoded():
    """A megabyte that would unpack to 1 GB, as 8192 x 8192 complex128, under a limit that would not allow it."""
    script = (
        "import io, resource, sys, numpy, tifffile, zlib\n"
        "from anoclip_anomalib.submission.mvtec_ad2.contents import check_map\n"
        "content = sys.stdin.buffer.read()\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 28),) * 2)\n"
        "print(check_map(content)[1][0][0])\n"
    )
    stream = io.BytesIO()
    rows = [zlib.compress(b"\0" * (64 * 8192 * 16))] * 128
    tifffile.imwrite(
        stream, iter(rows), shape=(8192, 8192), dtype=np.complex128, rowsperstrip=64, compression="zlib", metadata=None
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        input=stream.getvalue(),
        capture_output=True,
        cwd=Path(__file__).parents[3],
        timeout=120,
        check=False,
    )
    assert result.stdout.decode().strip() == "wrong-dtype", result.stderr.decode()


def test_sizes_that_would_fill_memory():
    content = with_tag(tiff_bytes(good_map(), metadata=None), "ImageWidth", lambda _: 1 << 15)
    assert rules(check_map, with_tag(content, "ImageLength", lambda _: 1 << 15)) == ["implausible-size"]
    assert rules(check_mask, raw_png((1 << 14, MAX_PIXELS >> 13, 8, 0, 0), ROWS)) == ["implausible-size"]
    bomb = zlib.compress(b"\0" * (1 << 24))
    content = raw_png((WIDTH, HEIGHT, 8, 0, 0), b"").replace(png_chunk(b"IDAT", zlib.compress(b"")), png_chunk(b"IDAT", bomb))
    assert rules(check_mask, content) == ["unreadable"]


def test_hand_made_masks_are_read():
    assert check_mask(raw_png((WIDTH, HEIGHT, 8, 0, 0), ROWS)) == (SIZE, [])
    assert check_mask(raw_png((WIDTH, HEIGHT, 8, 0, 0), ROWS, png_chunk(b"pHYs", b"\0" * 9))) == (SIZE, [])


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5, 9), (8, 8), (17, 30)])
def test_interlaced_masks_are_read(size):
    """Adam7: each pixel belongs to one of seven passes, and a pass without pixels has no bytes."""
    height, width = size
    mask = (np.indices(size).sum(0) % 2 * 255).astype(np.uint8)
    passes = [mask[y::dy, x::dx] for x, y, dx, dy in [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)]]
    passes += [mask[y::dy, x::dx] for x, y, dx, dy in [(0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]]
    rows = b"".join(b"\0" + row.tobytes() for part in passes if part.size for row in part)
    content = raw_png((width, height, 8, 0, 1), rows)
    assert (np.asarray(Image.open(io.BytesIO(content))) == mask).all()
    assert check_mask(content) == (size, [])
    assert rules(check_mask, raw_png((width, height, 8, 0, 1), rows[:-1])) == ["unreadable"]


def packed(depth):
    """The good mask's rows with ``depth`` bits for a pixel, all of them set where it is 255."""
    bits = np.repeat(good_mask() > 0, depth, axis=1)
    return b"".join(b"\0" + row.tobytes() for row in np.packbits(bits, axis=1))


MASKS = {
    "half the rows": (raw_png((WIDTH, HEIGHT, 8, 0, 0), ROWS[: len(ROWS) // 2]), "unreadable"),
    "a row too many": (raw_png((WIDTH, HEIGHT, 8, 0, 0), ROWS + ROWS[: WIDTH + 1]), "unreadable"),
    "1 bit": (raw_png((WIDTH, HEIGHT, 1, 0, 0), packed(1)), "wrong-dtype"),
    "2 bits": (raw_png((WIDTH, HEIGHT, 2, 0, 0), packed(2)), "wrong-dtype"),
    "4 bits": (raw_png((WIDTH, HEIGHT, 4, 0, 0), packed(4)), "wrong-dtype"),
    "16 bits": (png_bytes(good_mask().astype(np.uint16)), "wrong-dtype"),
    "a transparent grey": (raw_png((WIDTH, HEIGHT, 8, 0, 0), ROWS, png_chunk(b"tRNS", b"\0\0")), "wrong-dtype"),
    "an alpha channel": (png_bytes(good_mask(), "LA"), "wrong-ndim"),
    "a palette": (png_bytes(good_mask(), "P"), "wrong-ndim"),
    "an animation": (
        raw_png((WIDTH, HEIGHT, 8, 0, 0), ROWS, png_chunk(b"acTL", b"\0\0\0\2\0\0\0\0")),
        "wrong-ndim",
    ),
    "bytes behind the end": (png_bytes(good_mask()) + b"more", "unreadable"),
    "no end": (png_bytes(good_mask())[:-12], "unreadable"),
    "a second header": (raw_png((WIDTH, HEIGHT, 8, 0, 0), ROWS, raw_png((1, 1, 8, 0, 0), b"")[8:33]), "unreadable"),
    "a wrong checksum": (png_bytes(good_mask())[:-5] + b"\0" + png_bytes(good_mask())[-4:], "unreadable"),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_that_are_none(name):
    content, rule = MASKS[name]
    assert rules(check_mask, content) == [rule]
