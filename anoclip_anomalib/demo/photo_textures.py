"""Photographed surfaces and grounds for the training images, from free game and wallpaper packages of Debian.

The packages are fetched by name when a training asks for them and stay in a cache folder; nothing of them is part of this
package. What was taken, in which version and under which licences goes into the header of what was trained.
"""

import json
import re
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from anoclip_anomalib.demo.noise import Image, Rng
from anoclip_anomalib.files import atomic_write

PACKAGES: dict[str, str] = {
    "mate-backgrounds": r"backgrounds/mate/nature/.*\.jpg",
    "ufoai-textures": (
        r"textures/tex_(nature|material|base|buildings|streets|mattn|trak|ctp1|furniture|terrain)/"
        r"(?!.*_(nm|sm|gm|rm)\.)[^/]*\.(jpg|png)"
    ),
}
"""Debian package -> pattern of the pictures taken from it (paths in the package, or in a game archive in it)."""
SIDE = 320
"""Side of the square tiles that are kept, in pixels."""
_MOST_TILES = 6  # tiles taken from one large picture
_EVEN = 0.35  # largest spread of block statistics, relative to the spread of pixels, of a surface that is called even


@dataclass(frozen=True)
class PhotoTextures:
    """Square tiles cut from photographs.

    Attributes:
        tiles: (N, SIDE, SIDE, 3) uint8, RGB.
        even: (N,) bool: the tile looks alike everywhere, so that a part made of it has no mark that could pass for a defect.
        facts: Package -> version and licences, for the header of what is trained on the tiles.
    """

    tiles: np.ndarray
    even: np.ndarray
    facts: dict[str, dict[str, str]]

    def draw(self, rng: Rng, size: int, *, even: bool = True) -> Image:
        """A random window of a random tile, turned and recoloured a little: (size, size, 3) float32, about 0 to 1.

        Args:
            rng: Random numbers.
            size: Side of the window in pixels.
            even: Draw from the even tiles alone (surfaces); otherwise from all (grounds).
        """
        choice = np.flatnonzero(self.even) if even else np.arange(len(self.tiles))
        tile = self.tiles[int(choice[rng.integers(len(choice))])]
        side = int(rng.uniform(0.35, 1.0) * SIDE)
        row, column = rng.integers(0, SIDE - side + 1, 2)
        window = np.rot90(tile[row : row + side, column : column + side], int(rng.integers(4)))
        how = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
        image = cv2.resize(np.ascontiguousarray(window), (size, size), interpolation=how).astype(np.float32) / 255
        if rng.random() < 0.3:
            image = image[..., rng.permutation(3)]
        mean = image.mean((0, 1))
        grey = np.float32(rng.uniform(0.25, 0.85)) / max(float(mean.mean()), 0.05)
        gain = np.float32(min(grey, 2.5) ** rng.uniform(0, 1))
        return np.clip((image - mean) * np.float32(rng.uniform(0.5, 1.2)) + mean, 0, 1) * gain


def photo_textures(cache: Path) -> PhotoTextures:
    """The tiles of :data:`PACKAGES`; fetched with ``apt-get download`` into ``cache`` when they are not there.

    Args:
        cache: Folder that keeps ``photo_textures.npz``.

    Raises:
        RuntimeError: A package cannot be fetched or unpacked; says what failed and what to do.
    """
    file = cache / "photo_textures.npz"
    if not file.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        tiles, facts = [], {}
        for package, pattern in PACKAGES.items():
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                facts[package] = _fetch(package, Path(folder))
                tiles += [tile for picture in _pictures(Path(folder), pattern) for tile in cut_tiles(picture)]
        even = np.array([is_even(tile) for tile in tiles])
        with atomic_write(file) as temporary, temporary.open("wb") as stream:
            np.savez(stream, tiles=np.stack(tiles), even=even, facts=np.array(json.dumps(facts)))
    with np.load(file, allow_pickle=False) as content:
        return PhotoTextures(content["tiles"], content["even"], json.loads(str(content["facts"])))


def _fetch(package: str, folder: Path) -> dict[str, str]:
    """Unpack a Debian package into ``folder``; its version and the short names of its licences."""
    try:
        _run(["apt-get", "download", package], folder)
        (archive,) = folder.glob("*.deb")
        _run(["dpkg", "-x", str(archive), str(folder)], folder)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        reason = getattr(error, "stderr", "") or str(error)
        raise RuntimeError(
            f"The Debian package {package} with photographed textures could not be fetched ({reason.strip()}); run "
            "`apt-get update` on a Debian system, or train without photographs"
        ) from error
    version = archive.name.removesuffix(".deb").split("_")[1].replace("%3a", ":")
    archive.unlink()
    text = (folder / "usr/share/doc" / package / "copyright").read_text(encoding="utf-8", errors="replace")
    licences = sorted(set(re.findall(r"^License: *([^\s].*?) *$", text, re.MULTILINE)))
    return {"version": version, "licences": ", ".join(licences)}


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)


def _pictures(folder: Path, pattern: str) -> Iterator[np.ndarray]:
    """Pictures (H, W, 3) uint8 RGB whose path matches, in the order of their paths, also from zip archives (.pk3)."""
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        if path.suffix == ".pk3":
            with zipfile.ZipFile(path) as archive:
                for name in sorted(archive.namelist()):
                    if re.search(pattern, name):
                        yield from _decode(archive.read(name))
        elif re.search(pattern, path.as_posix()):
            yield from _decode(path.read_bytes())


def _decode(data: bytes) -> Iterator[np.ndarray]:
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None or picture.ndim != 3 or picture.dtype != np.uint8:
        return
    if picture.shape[2] == 4 and picture[..., 3].min() < 250:
        return  # cut out: what is see-through has no colour of its own
    yield np.ascontiguousarray(picture[..., 2::-1])


def cut_tiles(picture: np.ndarray) -> list[np.ndarray]:
    """Square tiles of a picture (H, W, 3), reduced to :data:`SIDE` pixels; none of small or flat pictures."""
    short = min(picture.shape[:2])
    if short < 192:
        return []
    if short > 2 * SIDE:
        picture = cv2.resize(picture, None, fx=2 * SIDE / short, fy=2 * SIDE / short, interpolation=cv2.INTER_AREA)
    rows, columns = (max(1, length // SIDE) for length in picture.shape[:2])
    height, width = picture.shape[0] // rows, picture.shape[1] // columns
    side = min(height, width)
    tiles = []
    for index in range(min(rows * columns, _MOST_TILES)):
        row, column = (index // columns) * height, (index % columns) * width
        tile = picture[row : row + side, column : column + side]
        tile = cv2.resize(tile, (SIDE, SIDE), interpolation=cv2.INTER_AREA if side > SIDE else cv2.INTER_CUBIC)
        if tile.std((0, 1)).mean() > 4 and 15 < tile.mean() < 245:
            tiles.append(tile)
    return tiles


def is_even(tile: np.ndarray) -> bool:
    """Whether mean and spread of grey in an 8 x 8 grid of blocks vary little, compared with the pixels' own spread."""
    grey: np.ndarray = cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY).astype(np.float32)
    side = len(grey) // 8
    blocks = grey[: 8 * side, : 8 * side].reshape(8, side, 8, side).transpose(0, 2, 1, 3).reshape(64, -1)
    spread = max(float(grey.std()), 1.0)
    outlier = np.abs(blocks.mean(1) - np.median(blocks.mean(1))).max() / spread
    return bool(blocks.mean(1).std() / spread < _EVEN and outlier < 1.0 and blocks.std(1).std() / spread < _EVEN)
