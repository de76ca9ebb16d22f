import numpy as np
import pytest

from anoclip_anomalib.inspection.decision import Decision
from anoclip_anomalib.inspection.inspection import Inspection
from anoclip_anomalib.inspection.pictures import composite, heat_colours, heated

CYAN = (0, 255, 255)


def result(size=(200, 300), *, score=3.0, decision=Decision(2.0, 5.0, "rule"), hot=8.0, low=0.0, **arguments) -> Inspection:  # noqa: B008
    """A photograph of one grey whose map has a hot square in the upper left quarter."""
    anomaly_map = np.full((40, 60), low, np.float32)
    anomaly_map[10:16, 12:22] = hot
    grey = np.full((*size, 3), 90, np.uint8)
    return Inspection(None, score, anomaly_map, decision=decision, contrast=(1.0, 9.0), photograph=grey, **arguments)


def test_colours_follow_the_contrast():
    colours = heat_colours(np.array([[-5.0, 1.0, 5.0, 9.0, 50.0]]), (1.0, 9.0))[0]
    assert colours[0, 3] == colours[1, 3] == 0, "what is ordinary is not tinted"
    assert tuple(colours[3]) == tuple(colours[4])
    assert 0 < colours[2, 3] < colours[3, 3] < 255, "the photograph stays visible"
    bright = heat_colours(np.linspace(1, 9, 50)[None], (1.0, 9.0))[0].astype(int) @ [299, 587, 114, 0]
    assert (np.diff(bright) <= 0).all(), "the order is seen without colours"


def test_the_same_value_has_the_same_colour_in_every_picture_of_a_run():
    one, other = (heated(result(hot=hot), (1.0, 9.0)) for hot in (8.0, 80.0))
    own = heated(result(hot=8.0), (1.0, 80.0))
    assert (one[150, 250] == other[150, 250]).all()
    assert (one[65, 85] != other[65, 85]).any()
    assert (one[65, 85] != own[65, 85]).any()


def test_heat_is_laid_over_the_photograph_as_its_colours_say():
    random = np.random.default_rng(0)
    photograph = random.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    anomaly_map = random.uniform(-3, 12, (40, 60)).astype(np.float32)
    shown = heated(Inspection(None, 0.0, anomaly_map, contrast=(1.0, 9.0), photograph=photograph))
    colours = heat_colours(anomaly_map, (1.0, 9.0)).astype(float)
    share = colours[..., 3:] / 255
    assert shown.dtype == np.uint8
    assert np.abs(shown - (photograph * (1 - share) + colours[..., :3] * share)).max() <= 1.5
    assert (shown[anomaly_map <= 1] == photograph[anomaly_map <= 1]).all()


@pytest.mark.parametrize("size", [(40, 60), (200, 300), (1200, 1800)])
def test_heat_has_the_photographs_size_and_an_outline_around_what_is_hot(size):
    shown = heated(result(size))
    assert shown.shape == (*size, 3)
    rows, columns = np.nonzero((shown == CYAN).all(axis=2))
    scale = size[0] / 40
    margin = scale + size[1] / 100
    assert abs(rows.min() - 10 * scale) <= margin
    assert abs(rows.max() - 16 * scale) <= margin
    assert abs(columns.min() - 12 * scale) <= margin
    assert abs(columns.max() - 22 * scale) <= margin


@pytest.mark.parametrize("arguments", [{"score": 1.0}, {"decision": None}])
def test_nothing_is_outlined_on_what_is_good_or_not_judged(arguments):
    shown = heated(result(**arguments))
    assert not (shown == CYAN).all(axis=2).any()
    assert (shown[65, 85] != 90).any(), "heat there is all the same"


@pytest.mark.parametrize("size", [(150, 200), (200, 150), (300, 900), (1600, 1200)])
def test_the_picture_shows_the_photograph_as_it_is_and_its_heat_beside_it(size):
    height, width = size
    picture = np.asarray(composite(result(size)))
    assert (picture[:height, :width] == 90).all()
    top, left = (height, 0) if width > 2 * height else (0, width)
    gap = next(
        offset for offset in range(1, 60) if (picture[top + offset * (top > 0), left + offset * (left > 0)] != 255).any()
    )
    panel = picture[top + gap * (top > 0) :, left + gap * (left > 0) :][:height, :width].astype(int)
    assert (panel[-1, -1] == 90).all()
    inside = panel[round(height * 0.32), round(width * 0.28)]
    assert inside[0] > inside[1], "red where it is hot"
    assert picture.shape[0] > top + height, "room for words"
    assert (picture[-5:] != 255).sum() < picture[-5:].size * 0.5


def test_words_and_scale_grow_with_the_photograph():
    def text_height(size: tuple[int, int]) -> int:
        picture = np.asarray(composite(result(size, score=1.0)))
        rows = np.nonzero((picture[size[0] + 2 :, : size[1]] != 255).any(axis=(1, 2)))[0]
        return int(rows.max() - rows.min() + 1)

    small, large = text_height((150, 200)), text_height((1500, 2000))
    assert small >= 8
    assert large == pytest.approx(50, rel=0.4)


def test_a_narrow_photograph_has_room_for_its_words():
    picture = composite(result((300, 20)), caption="rank 3 of 212 photographs")
    assert picture.width > 100


def test_verdict_score_and_caption_change_the_words():
    def words(inspection: Inspection, caption: str | None = None) -> bytes:
        picture = composite(inspection, caption=caption)
        return picture.crop((0, 200, picture.width, picture.height)).tobytes()

    said = [
        words(result(hot=0.0)),
        words(result(score=1.0, hot=0.0)),
        words(result(score=1.5, hot=0.0)),
        words(result(decision=None)),
        words(result(decision=None), "rank 1 of 3"),
    ]
    assert len(set(said)) == len(said)
    words(result(), "line 1\nline 2 \x07 \u2028 \udcff")


def test_the_scale_has_the_colours_and_the_threshold():
    picture = np.asarray(composite(result()))
    scale = picture[:200, -80:]
    assert (scale == CYAN).all(axis=2).any()
    low = np.asarray(composite(result(), (1.0, 7.0)))[:200, -80:]
    marked = np.nonzero((low == CYAN).all(axis=2).any(axis=1))[0]
    assert marked.mean() == pytest.approx(200 / 3, abs=8), "5 is a third of the way from 7 down to 1"
    assert not (np.asarray(composite(result(score=1.0)))[:200, -80:] == CYAN).all(axis=2).any()


def test_a_map_that_is_flat_can_be_drawn():
    flat = Inspection(None, 1.0, np.ones((4, 4), np.float32), photograph=np.zeros((30, 30, 3), np.uint8))
    assert composite(flat).width > 60


def test_a_hole_in_what_is_hot_is_outlined_too():
    anomaly_map = np.zeros((200, 300), np.float32)
    anomaly_map[40:160, 60:240] = 8
    anomaly_map[80:120, 120:180] = 0
    grey = np.full((200, 300, 3), 90, np.uint8)
    shown = heated(
        Inspection(None, 3.0, anomaly_map, decision=Decision(2.0, 5.0, "rule"), contrast=(1.0, 9.0), photograph=grey)
    )
    assert (shown[75:125, 115:185] == CYAN).all(axis=2).any()
