"""Photographs of a plain part, with and without a blot, and inspectors on a tiny CLIP."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anoclip_anomalib import Inspector


def part(seed: int, size: tuple[int, int] = (70, 90), *, blot: bool = False) -> np.ndarray:
    """(H, W, 3) uint8: a soft gradient with noise; with a blot in the middle."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(90, 150, size[1])[None, :, None] + rng.normal(0, 4, (*size, 3))
    if blot:
        ramp[size[0] // 2 - 8 : size[0] // 2 + 8, size[1] // 2 - 8 : size[1] // 2 + 8] = (250, 20, 20)
    return ramp.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def good(tmp_path_factory) -> Path:
    """A folder with six good parts."""
    folder = tmp_path_factory.mktemp("parts") / "good ones"
    folder.mkdir()
    for index in range(6):
        Image.fromarray(part(index)).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """A folder with photographs of many kinds; those that hold "blot" in their names are defective."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "line1").mkdir()
    (folder / "line2").mkdir()
    Image.fromarray(part(100)).save(folder / "line1/001.png")
    Image.fromarray(part(101, blot=True)).save(folder / "line2/001.png")
    Image.fromarray(part(102, (200, 131), blot=True)).save(folder / "blot large.jpg", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(part(103)).save(folder / "turned.jpg", exif=exif)
    Image.fromarray(part(104)[..., 0]).save(folder / "grey.png")
    Image.fromarray(part(105)[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    Image.fromarray(np.dstack([part(106), np.full((70, 90), 128, np.uint8)])).save(folder / "clear.png")
    return folder


@pytest.fixture
def make(weight_file) -> Callable[..., Inspector]:
    """Arguments -> an inspector of bottles on the tiny CLIP."""

    def build(product: str | None = "bottle", **arguments: object) -> Inspector:
        return Inspector(product, **{"backbone": "tiny", "weights": weight_file("tiny"), **arguments})

    return build
