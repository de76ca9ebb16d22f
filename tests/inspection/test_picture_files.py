"""The files of one result: each shows what it is to show, in its colours."""

import numpy as np
import pytest
from PIL import Image

from anoclip_anomalib.inspection.decision import Decision
from anoclip_anomalib.inspection.inspection import Inspection
from anoclip_anomalib.inspection.picture_files import PAGE_SIDE, add_line, write_pictures
from anoclip_anomalib.inspection.pictures import composite, heated

CONTRAST = (1.0, 9.0)


def result(height: int, width: int) -> Inspection:
    """A photograph that runs from red to blue, with heat on its left half."""
    share = np.linspace(0, 1, width)[None, :, None]
    photograph = np.broadcast_to((1 - share) * (200, 60, 20) + share * (20, 60, 200), (height, width, 3)).astype(np.uint8)
    anomaly_map = np.zeros((20, 30), np.float32)
    anomaly_map[2:17, 3:20] = 8.0
    return Inspection(None, 3.0, anomaly_map, decision=Decision(2.0, 5.0, "rule"), contrast=CONTRAST, photograph=photograph)


def differs(path, expected: np.ndarray) -> float:
    """Mean difference to a JPEG, 0..255."""
    shown = np.asarray(Image.open(path)).astype(float)
    assert shown.shape == expected.shape
    return float(np.abs(shown - expected).mean())


def test_each_file_shows_its_own_in_its_colours(tmp_path):
    own = result(160, 240)
    picture, page = tmp_path / "pictures/a/1.jpg", tmp_path / "page/a/1"
    write_pictures(own, CONTRAST, picture, page)
    assert {path.name for path in tmp_path.rglob("*.*")} == {"1.jpg", "1.photo.jpg", "1.heat.jpg"}
    hot = heated(own, CONTRAST)
    assert differs(page.with_name("1.photo.jpg"), own.photograph) < 2
    assert differs(page.with_name("1.heat.jpg"), hot) < 4
    assert differs(page.with_name("1.heat.jpg"), own.photograph) > 10, "the heat is seen"
    assert differs(picture, np.asarray(composite(own, CONTRAST))) < 3


@pytest.mark.parametrize(("height", "width"), [(100, 2 * PAGE_SIDE), (2 * PAGE_SIDE, 90)])
def test_the_page_has_large_ones_smaller_and_the_picture_as_they_are(tmp_path, height, width):
    write_pictures(result(height, width), CONTRAST, tmp_path / "1.jpg", tmp_path / "page" / "1")
    for name in ("photo", "heat"):
        assert Image.open(tmp_path / "page" / f"1.{name}.jpg").size == (width // 2, height // 2)
    assert max(Image.open(tmp_path / "1.jpg").size) >= 2 * PAGE_SIDE


def test_a_line_is_added_below_and_the_rest_stays(tmp_path):
    picture = tmp_path / "1.jpg"
    write_pictures(result(160, 240), CONTRAST, picture, tmp_path / "page" / "1")
    before = np.asarray(Image.open(picture)).astype(float)
    add_line(picture, "rank 1 of 3")
    after = np.asarray(Image.open(picture)).astype(float)
    assert after.shape[0] > before.shape[0] + 10
    assert np.abs(after[: len(before)] - before).mean() < 3
    assert after[len(before) :].min() < 128


def test_a_line_is_written_once_and_a_wrong_one_anew(tmp_path):
    """A run that was killed between the ranks goes on: docs/inspect.md promises the same to the last byte."""
    picture, other = tmp_path / "1.jpg", tmp_path / "2.jpg"
    for path in (picture, other):
        write_pictures(result(160, 240), CONTRAST, path, tmp_path / "page" / path.stem)
    add_line(picture, "rank 1 of 3")
    once = picture.read_bytes()
    add_line(picture, "rank 1 of 3")
    assert picture.read_bytes() == once
    picture.with_name(".rank.draft").write_bytes(b"half")  # as kill -9 leaves it
    add_line(picture, "rank 2 of 4")
    assert {path.name for path in tmp_path.iterdir()} == {"1.jpg", "2.jpg", "page"}
    add_line(other, "rank 2 of 4")
    assert Image.open(picture).size == Image.open(other).size == Image.open(tmp_path / "1.jpg").size
    changed, drawn = (np.asarray(Image.open(path)).astype(float) for path in (picture, other))
    assert np.abs(changed - drawn).mean() < 1  # one more JPEG between them
