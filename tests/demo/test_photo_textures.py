"""Photographed textures: what is kept of a picture, and how a package gets into the cache."""

import subprocess
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from anoclip_anomalib.demo import photo_textures as module
from anoclip_anomalib.demo.photo_textures import SIDE, PhotoTextures, cut_tiles, is_even, photo_textures


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 200, (height, width, 3)).astype(np.uint8)


def test_large_pictures_give_several_tiles_and_small_or_flat_ones_none() -> None:
    tiles = cut_tiles(noise(SIDE, 2 * SIDE))
    assert [tile.shape for tile in tiles] == [(SIDE, SIDE, 3)] * 2
    np.testing.assert_array_equal(tiles[1], noise(SIDE, 2 * SIDE)[:, SIDE:])
    assert cut_tiles(noise(100, 600)) == []
    assert cut_tiles(np.full((SIDE, SIDE, 3), 128, np.uint8)) == []


def test_a_surface_with_one_mark_or_a_slope_is_not_even() -> None:
    plain = noise(SIDE, SIDE)
    marked, sloped = plain.copy(), plain.copy()
    marked[100:150, 100:150] //= 4
    sloped[:, : SIDE // 2] //= 2
    assert is_even(plain)
    assert not is_even(marked)
    assert not is_even(sloped)


def test_surfaces_are_drawn_from_even_tiles_and_follow_their_seed() -> None:
    tiles = np.stack([np.full((SIDE, SIDE, 3), 40, np.uint8), noise(SIDE, SIDE)])
    photos = PhotoTextures(tiles, np.array([False, True]), {})
    for seed in range(5):
        first, again = (photos.draw(np.random.default_rng(seed), 64) for _ in range(2))
        assert first.shape == (64, 64, 3)
        assert first.dtype == np.float32
        assert first.std() > 0.01
        np.testing.assert_array_equal(first, again)
    drawn = [photos.draw(np.random.default_rng(seed), 64, even=False).std() for seed in range(20)]
    assert min(drawn) < 1e-3 < max(drawn)


def packed(folder: Path, package: str) -> None:
    """What ``dpkg -x`` would leave behind for a package of pictures, one of them in a game archive."""
    (folder / "usr/share/doc" / package).mkdir(parents=True)
    (folder / "usr/share/doc" / package / "copyright").write_text("Files: *\nLicense: CC-BY-3.0\n\nLicense: GPL-2+\n text\n")
    png = cv2.imencode(".png", noise(SIDE, SIDE))[1].tobytes()
    cut_out = np.dstack([noise(SIDE, SIDE), np.zeros((SIDE, SIDE), np.uint8)])
    with zipfile.ZipFile(folder / "game.pk3", "w") as archive:
        archive.writestr("textures/wall.png", png)
        archive.writestr("textures/wall_nm.png", png)
        archive.writestr("textures/leaf.png", cv2.imencode(".png", cut_out)[1].tobytes())
        archive.writestr("sounds/wall.png", png)


def test_packages_are_fetched_once_and_their_facts_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []

    def run(command: list[str], folder: Path) -> None:
        commands.append(command[0])
        if command[0] == "apt-get":
            (folder / "walls_1%3a2.5-2_all.deb").write_bytes(b"")
        else:
            packed(folder, "walls")

    monkeypatch.setattr(module, "PACKAGES", {"walls": r"textures/(?!.*_nm\.)[^/]*\.png"})
    monkeypatch.setattr(module, "_run", run)
    photos = photo_textures(tmp_path / "cache")
    assert photos.tiles.shape == (1, SIDE, SIDE, 3)
    np.testing.assert_array_equal(photos.tiles[0][..., ::-1], noise(SIDE, SIDE))
    assert photos.even.tolist() == [True]
    assert photos.facts == {"walls": {"version": "1:2.5-2", "licences": "CC-BY-3.0, GPL-2+"}}
    np.testing.assert_array_equal(photo_textures(tmp_path / "cache").tiles, photos.tiles)
    assert commands == ["apt-get", "dpkg"]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["photo_textures.npz"]


def test_a_package_that_cannot_be_fetched_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], folder: Path) -> None:
        raise subprocess.CalledProcessError(100, command, stderr="E: Unable to locate package\n")

    monkeypatch.setattr(module, "_run", run)
    with pytest.raises(RuntimeError, match="Unable to locate package.*apt-get update.*train without photographs"):
        photo_textures(tmp_path)
    assert list(tmp_path.iterdir()) == []
