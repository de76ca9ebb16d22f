import numpy as np
import pytest
import torch
from PIL import Image

from anoclip_anomalib.data import read_image
from anoclip_anomalib.inspection.photographs import as_tensor, to_bytes
from tests.inspection.conftest import part


def test_every_form_of_a_photograph_is_what_its_file_is(photos):
    path = photos / "line1/001.png"
    wanted = read_image(path)
    pixels = np.asarray(Image.open(path))
    for form in (
        path,
        str(path),
        Image.open(path),
        pixels,
        pixels[::-1][::-1],  # negative strides
        torch.from_numpy(pixels.copy()).permute(2, 0, 1),
        pixels.astype(np.float32) / 255,
        torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255,
    ):
        assert torch.equal(as_tensor(form), wanted)
    assert torch.allclose(as_tensor(pixels.astype(np.float64) / 255), wanted, atol=1e-7)
    assert torch.equal(as_tensor(pixels.astype(np.uint16) * 257), torch.from_numpy(pixels / 255).permute(2, 0, 1).float())


@pytest.mark.parametrize("name", ["turned.jpg", "grey.png", "deep.png", "clear.png", "blot large.jpg"])
def test_opened_images_are_read_as_their_files_are(photos, name):
    assert torch.equal(as_tensor(Image.open(photos / name)), read_image(photos / name))


def test_arrays_of_grey_deep_and_transparent_photographs_are_read_as_their_files_are(photos):
    for name in ("grey.png", "deep.png", "clear.png"):
        image = Image.open(photos / name)
        values = np.asarray(image).astype(np.uint16) if image.mode.startswith("I") else np.asarray(image)
        assert torch.equal(as_tensor(values), read_image(photos / name)), name
        if values.ndim == 2:
            assert torch.equal(as_tensor(values[..., None]), read_image(photos / name))
    clear = np.asarray(Image.open(photos / "clear.png")) / np.float32(255)
    assert torch.allclose(as_tensor(clear), read_image(photos / "clear.png"), atol=0.5 / 255 + 1e-6)


def test_a_white_and_a_black_float_photograph_pass_and_rounding_is_forgiven():
    assert as_tensor(np.ones((4, 5, 3), np.float32)).min() == 1
    assert as_tensor(np.zeros((4, 5), np.float16)).max() == 0
    assert as_tensor(np.full((4, 5, 3), 1.0005)).max() == 1
    assert as_tensor(torch.full((1, 4, 5), 0.5, dtype=torch.bfloat16)).unique().tolist() == [0.5]
    assert as_tensor(np.ones((4, 5), bool)).min() == 1


@pytest.mark.parametrize(
    ("photo", "said"),
    [
        (np.full((4, 5, 3), 255.0), "Divide by 255"),
        (np.full((4, 5, 3), 1.01), "must lie in"),
        (np.full((4, 5, 3), 40000.0), "Divide by 65535"),
        (np.full((4, 5, 3), -0.5), "looks normalised"),
        (torch.randn(3, 8, 9), "looks normalised"),
        (np.full((4, 5, 3), np.nan), "60 values that are not finite"),
        (np.array([[0.5, np.inf]]), "1 values that are not finite"),
        (np.zeros((4, 5, 3), np.int64), "int64"),
        (np.zeros((4, 5, 3), complex), "complex"),
        (np.zeros((3, 40, 50), np.uint8), r"transpose\(1, 2, 0\)"),
        (torch.zeros(40, 50, 3), r"permute\(2, 0, 1\)"),
        (np.zeros((2, 40, 50, 3), np.uint8), "as a list"),
        (torch.zeros(2, 3, 40, 50), "as a list"),
        (np.zeros((0, 5, 3), np.uint8), "empty"),
        (np.zeros(5), r"\(5,\)"),
        (np.zeros((4, 5, 2)), r"\(4, 5, 2\)"),
    ],
)
def test_a_wrong_range_or_shape_is_one_clear_error(photo, said):
    with pytest.raises(ValueError, match=said):
        as_tensor(photo)


def test_other_things_and_folders_are_named(tmp_path):
    with pytest.raises(TypeError, match="got int"):
        as_tensor(3)
    with pytest.raises(ValueError, match="is a folder"):
        as_tensor(tmp_path)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(OSError, match="text.png"):
        as_tensor(tmp_path / "text.png")


def test_bytes_are_those_of_the_photograph():
    pixels = part(1)
    assert np.array_equal(to_bytes(as_tensor(pixels)), pixels)
    assert to_bytes(as_tensor(pixels)).flags["C_CONTIGUOUS"]
