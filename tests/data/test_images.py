import io
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from anoclip_anomalib.data import images, read_image
from anoclip_anomalib.data.images import shrink


def gradient(height: int = 20, width: int = 30) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 255 // height, columns * 255 // width, (rows + columns) * 255 // (height + width)], axis=-1).astype(
        np.uint8
    )


RGB = gradient()
EXPECTED = torch.from_numpy(RGB).permute(2, 0, 1) / 255


def test_colour_is_read_as_it_is(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png")
    assert read.dtype == torch.float32
    assert read.is_contiguous()
    torch.testing.assert_close(read, EXPECTED)


def test_grey_becomes_three_equal_channels(tmp_path):
    Image.fromarray(RGB[..., 0]).save(tmp_path / "a.png")
    torch.testing.assert_close(read_image(tmp_path / "a.png"), EXPECTED[:1].expand(3, -1, -1))


def test_black_and_white(tmp_path):
    Image.fromarray(RGB[..., 0] > 128).save(tmp_path / "a.png")
    torch.testing.assert_close(read_image(tmp_path / "a.png")[0], torch.from_numpy(RGB[..., 0] > 128).float())


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("peak", [65535, 4095, 200, 1])
def test_sixteen_bits_keep_their_range(tmp_path, suffix, peak):
    """Pillow's own conversion makes all that is above 255 white. How bright a pixel is does not depend on the others."""
    values = np.linspace(0, peak, 600).reshape(20, 30).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    read = read_image(tmp_path / f"a.{suffix}")
    assert read.shape == (3, 20, 30)
    torch.testing.assert_close(read[1], torch.from_numpy(values / 65535.0).float())


@pytest.mark.parametrize("scale", [1.0, 255.0, 65535.0])
def test_floats_are_brought_to_one(tmp_path, scale):
    values = np.linspace(0, scale, 600, dtype=np.float32).reshape(20, 30)
    Image.fromarray(values).save(tmp_path / "a.tif")
    torch.testing.assert_close(read_image(tmp_path / "a.tif")[2], torch.from_numpy(values / scale))


def test_floats_that_are_no_numbers_are_refused(tmp_path):
    values = np.zeros((4, 4), dtype=np.float32)
    values[1, 1] = np.nan
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(OSError, match=r"a\.tif.*not finite"):
        read_image(tmp_path / "a.tif")


def test_palette(tmp_path):
    image = Image.fromarray(RGB).quantize(16)
    image.save(tmp_path / "a.gif")
    image.save(tmp_path / "a.png")
    expected = torch.from_numpy(np.asarray(image.convert("RGB"))).permute(2, 0, 1) / 255
    torch.testing.assert_close(read_image(tmp_path / "a.png"), expected)
    torch.testing.assert_close(read_image(tmp_path / "a.gif"), expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(tmp_path, mode):
    alpha = np.linspace(0, 255, 600).reshape(20, 30).astype(np.uint8)
    image = Image.fromarray(RGB).convert(mode[:-1])
    colours = np.atleast_3d(np.asarray(image)).astype(float)
    image.putalpha(Image.fromarray(alpha))
    image.save(tmp_path / "a.png")
    share = alpha[..., None] / 255
    expected = np.broadcast_to((colours * share + 255 * (1 - share)) / 255, (20, 30, 3))
    torch.testing.assert_close(
        read_image(tmp_path / "a.png"), torch.from_numpy(expected.copy()).permute(2, 0, 1).float(), atol=1 / 255, rtol=0
    )


def test_a_transparent_palette_entry_is_white(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), mode="P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.save(tmp_path / "a.png", transparency=0)
    assert (read_image(tmp_path / "a.png")[:, 0] * 255).round().T.tolist() == [[255, 255, 255], [200, 100, 50]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_cameras_rotation_is_applied(tmp_path, orientation):
    upright = Image.fromarray(RGB)
    stored = {
        1: lambda i: i,
        2: ImageOps.mirror,
        3: lambda i: i.rotate(180),
        4: ImageOps.flip,
        5: lambda i: i.transpose(Image.Transpose.TRANSPOSE),
        6: lambda i: i.transpose(Image.Transpose.ROTATE_90),
        7: lambda i: i.transpose(Image.Transpose.TRANSVERSE),
        8: lambda i: i.transpose(Image.Transpose.ROTATE_270),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    torch.testing.assert_close(read_image(tmp_path / "a.png"), EXPECTED)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (3, 10000)])
def test_extreme_sizes(tmp_path, size):
    Image.fromarray(gradient(*size)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (3, *size)


def encoded(format_: str) -> bytes:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8))
    noise.save(buffer, format_, **({"exif": exif} if format_ in ("JPEG", "PNG", "WEBP") else {}))
    return buffer.getvalue()


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"])
def test_whatever_is_cut_off_or_flipped_the_error_is_one(tmp_path, format_):
    """A damaged image is either read (where the damage is in its pixels) or answered with an OSError that names it."""
    content, path = encoded(format_), tmp_path / f"image.{format_.lower()}"
    random = np.random.default_rng(1)
    damaged = [content[: int(len(content) * share)] for share in np.linspace(0, 0.97, 25)]
    for _ in range(60):
        flipped = bytearray(content)
        for place in random.integers(0, min(400, len(content)), 4):
            flipped[place] = random.integers(0, 256)
        damaged.append(bytes(flipped))
    refused = 0
    for version in damaged:
        path.write_bytes(version)
        try:
            assert read_image(path).ndim == 3
        except OSError as error:
            refused += 1
            assert str(path) in str(error)  # noqa: PT017
    assert refused > 20


def test_a_broken_exif_block_does_not_lose_the_picture(tmp_path):
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00" + struct.pack("<HHHII", 1, 0x0112, 3, 1, 9999)
    Image.fromarray(RGB).save(tmp_path / "a.jpg", exif=exif, quality=95)
    assert read_image(tmp_path / "a.jpg").shape == EXPECTED.shape


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "I;16", "F"])
def test_a_large_image_is_averaged_over_blocks(tmp_path, monkeypatch, mode):
    """The same as reading it whole and averaging; edges that fill no block are averaged over what is there."""
    smooth = Image.fromarray(gradient(131, 203)).resize((203, 131))
    image = {
        "RGBA": lambda: smooth.convert("RGBA"),
        "L": lambda: smooth.convert("L"),
        "P": lambda: smooth.quantize(32),
        "I;16": lambda: Image.fromarray(np.asarray(smooth.convert("L")).astype(np.uint16) * 250),
        "F": lambda: smooth.convert("F"),
        "RGB": lambda: smooth,
    }[mode]()
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / ("a.tif" if mode == "F" else "a.png")
    image.save(path, **({} if mode == "F" else {"exif": exif}))
    whole = read_image(path)
    monkeypatch.setattr(images, "WHOLE_PIXELS", 131 * 203)
    torch.testing.assert_close(read_image(path), whole, atol=0, rtol=0)
    monkeypatch.setattr(images, "WHOLE_PIXELS", 131 * 203 - 1)
    monkeypatch.setattr(images, "REDUCED_PIXELS", 131 * 203 // 9 + 1)  # a third of the side
    monkeypatch.setattr(images, "_BLOCK", 50)
    reduced = read_image(path)
    upright = whole if mode == "F" else whole.rot90(1, (-2, -1))  # blocks begin where the file begins
    expected = torch.nn.functional.avg_pool2d(upright, 3, ceil_mode=True)
    torch.testing.assert_close(reduced, expected if mode == "F" else expected.rot90(-1, (-2, -1)))


def test_a_large_image_stays_within_the_budget(tmp_path):
    """64 million pixels, of which all three channels in float32 would be 768 MB."""
    Image.new("L", (8000, 8000), 77).save(tmp_path / "a.png")
    code = (
        "import resource, sys\nfrom anoclip_anomalib.data import read_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\nimage = read_image(sys.argv[1])\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "print(*image.shape, image.sub(77 / 255).abs().max().item() < 1e-6, peak)"
    )
    command = [sys.executable, "-W", "error::Warning:PIL", "-c", code, str(tmp_path / "a.png")]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert output[:4] == ["3", "4000", "4000", "True"]
    assert int(output[4]) < 450_000  # kB


@pytest.mark.parametrize("make", ["dangling", "loop", "pipe", "folder"])
def test_what_is_no_file_is_refused_at_once(tmp_path, make):
    path = tmp_path / "a.png"
    {
        "dangling": lambda: path.symlink_to("nowhere"),
        "loop": lambda: path.symlink_to("a.png"),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }[make]()
    with pytest.raises(OSError, match=f"Cannot read image {path}: "):
        read_image(path)


def test_an_image_beyond_pillows_limit_is_refused(tmp_path, monkeypatch):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 299)
    with pytest.raises(OSError, match=r"a\.png: it has more than 179 million pixels; scale it down"):
        read_image(tmp_path / "a.png")


def test_reducing_keeps_the_shape_and_enlarges_nothing():
    assert shrink(np.zeros((300, 600), np.float32), 96).shape == (48, 96)
    assert shrink(np.zeros((300, 600, 3), np.uint8), 96).shape == (48, 96, 3)
    assert shrink(np.zeros((1000, 1), np.uint8), 96).shape == (96, 1)
    for size in ((20, 10), (60, 95), (96, 40)):
        assert shrink(np.zeros(size, np.uint8), 96).shape == size
    assert (shrink(np.kron([[0, 200], [100, 40]], np.ones((8, 8))), 2) == [[0, 200], [100, 40]]).all()
