import pytest
import torch

from anoclip_anomalib.zeroshot.tiling import plan_tiles

SIZES = [(24, 24), (24, 32), (32, 24), (24, 48), (24, 49), (48, 24), (24, 300), (300, 24), (1, 7), (24, 25)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tiling", ["none", "square"])
def test_what_is_split_is_stitched_to_the_same(size, tiling):
    images = torch.randn(3, 2, *size)
    layout = plan_tiles(*size, tiling)
    tiles = layout.split(images)
    assert tiles.shape == (3 * len(layout), 2, *layout.tile)
    torch.testing.assert_close(layout.stitch(tiles), images)


@pytest.mark.parametrize("size", SIZES)
def test_square_tiles_are_few_and_cover_everything(size):
    layout = plan_tiles(*size, "square")
    side, length = min(size), max(size)
    assert layout.tile == (side, side)
    assert len(layout) == -(-length // side)
    covered = torch.zeros(size)
    for top, left in layout.offsets:
        assert 0 <= top <= size[0] - side
        assert 0 <= left <= size[1] - side
        covered[top : top + side, left : left + side] += 1
    assert covered.min() >= 1
    starts = [max(offset) for offset in layout.offsets]
    assert starts == sorted(starts)
    gaps = {b - a for a, b in zip(starts, starts[1:], strict=False)}
    assert not gaps or max(gaps) - min(gaps) <= 1  # evenly spaced


@pytest.mark.parametrize("width", [241, 320, 480])
def test_a_landscape_image_has_the_authors_two_tiles(width):
    assert plan_tiles(240, width, "square").offsets == ((0, 0), (0, width - 240))
    assert plan_tiles(width, 240, "square").offsets == ((0, 0), (width - 240, 0))


def test_three_and_more_tiles_stand_at_the_nearest_pixels_of_even_steps():
    assert [left for _, left in plan_tiles(10, 35, "square").offsets] == [0, 8, 17, 25]
    assert [top for top, _ in plan_tiles(29, 10, "square").offsets] == [0, 10, 19]


def test_the_tiles_of_an_image_stay_together():
    images = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 1, 4, 10)
    tiles = plan_tiles(4, 10, "square").split(images)
    assert tiles[:, 0, 0, 0].tolist() == [0, 0, 0, 1, 1, 1]


def test_overlaps_are_averaged():
    layout = plan_tiles(4, 6, "square")
    tiles = torch.stack([torch.full((1, 4, 4), 1.0), torch.full((1, 4, 4), 3.0)])
    assert layout.stitch(tiles)[0, 0, 0].tolist() == [1, 1, 2, 2, 3, 3]


def test_an_unknown_tiling_is_refused():
    with pytest.raises(ValueError, match="'landscape_pair'; choose 'none' or 'square'"):
        plan_tiles(10, 10, "landscape_pair")
