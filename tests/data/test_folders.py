import io
import struct

import numpy as np
import pytest
import torch
from anomalib.data import MVTecAD
from PIL import Image, ImageOps

from anoclip_anomalib.data import FolderImages, check_masks, read_image
from tests.mvtec_files import image as picture
from tests.mvtec_files import write_mvtec


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


# Folders


def test_a_folder_with_an_unreadable_image_goes_on_without_it(tmp_path, caplog):
    for index in range(3):
        (tmp_path / "part").mkdir(exist_ok=True)
        picture(index)[0].save(tmp_path / "part" / f"{index}.png")
    content = (tmp_path / "part/1.png").read_bytes()
    (tmp_path / "part/1.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "0.jpg").write_text("no image")
    (tmp_path / "notes.txt").write_text("not even named like one")
    images = FolderImages(tmp_path)
    assert [path.name for path in images.image_filenames] == ["0.png", "2.png"]
    for name in ("part/1.png", "0.jpg"):
        assert f"Cannot read image {tmp_path / name}" in caplog.text
    assert "notes.txt" not in caplog.text
    batch = images.collate_fn([images[0], images[1]])
    assert batch.image.shape == (2, 3, 64, 64)
    assert batch.image_path == [str(path) for path in images.image_filenames]


def test_a_single_image(tmp_path):
    picture(1)[0].save(tmp_path / "a.png")
    images = FolderImages(tmp_path / "a.png", transform=lambda image: image * 0)
    assert len(images) == 1
    assert images[0].image.abs().max() == 0


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda path: path.mkdir(), ValueError, r"No images in .*here.*\.jpg, \.png"),
        (lambda path: None, FileNotFoundError, "No such image or folder: .*here"),
        (lambda path: (path.mkdir(), (path / "a.png").write_text("x")), ValueError, r"None of the 1 image\(s\) in .*here"),
        (lambda path: path.write_text("x"), ValueError, "here.* is no image"),
    ],
    ids=["empty", "missing", "nothing readable", "not an image"],
)
def test_a_folder_without_images_is_refused(tmp_path, make, error, said):
    make(tmp_path / "here")
    with pytest.raises(error, match=said):
        FolderImages(tmp_path / "here")


def test_a_category_without_masks_is_refused_with_the_way_out(tmp_path):
    complete = write_mvtec(tmp_path / "complete")
    check_masks(MVTecAD(root=complete, category="bottle"))
    check_masks(object())
    check_masks(None)
    check_masks(MVTecAD(root=write_mvtec(tmp_path / "flawless", defects=0), category="bottle"))
    root = write_mvtec(tmp_path / "bare", masks=False)
    with pytest.raises(ValueError, match=r"test/spot has 3 images, but .*ground_truth/spot has 0 masks.*--data Folder"):
        check_masks(MVTecAD(root=root, category="bottle"))
    (complete / "bottle/ground_truth/spot/000_mask.png").unlink()
    with pytest.raises(ValueError, match="has 3 images, but .* has 2 masks"):
        check_masks(MVTecAD(root=complete, category="bottle"))
