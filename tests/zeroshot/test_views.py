from math import cos, pi, sin

import pytest
import torch

from anoclip_anomalib.zeroshot.views import grey, grouped, mirror, rotate, translate, views


def images(height: int = 24, width: int = 24, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_the_authors_number_of_views():
    assert views(1) == ()
    assert len(views(22)) == 21  # and the image itself
    sampled = [view(images(32, 32)) for view in views(22)]
    assert all(view.shape == (2, 3, 32, 32) for view in sampled)
    for index, one in enumerate(sampled):  # no view is there twice, and none is the image itself
        assert all((one - other).abs().max() > 1e-3 for other in [images(32, 32), *sampled[:index]])


@pytest.mark.parametrize("count", [0, 2, 21, 23, -1])
def test_other_numbers_are_refused(count):
    with pytest.raises(ValueError, match=rf"views={count} is not available; choose 1 .* or 22"):
        views(count)


@pytest.mark.parametrize("size", [24, 25])
def test_quarter_turns_of_a_square_are_exact(size):
    square = images(size, size)
    turned = [rotate(square, turns * pi / 2) for turns in (1, 2, 3)]
    directions = {
        sign
        for sign in (1, -1)
        if all(torch.allclose(turned[n - 1], torch.rot90(square, sign * n, (-2, -1)), atol=1e-5) for n in (1, 2, 3))
    }
    assert len(directions) == 1  # one sense of rotation for all three
    assert any(torch.allclose(turned[1], view(square), atol=1e-5) for view in views(22)[-3:])


def test_a_quarter_turn_of_a_wide_image_turns_its_middle_exactly_counter_clockwise():
    picture = images(41, 81)
    middle = (..., slice(20, 61))
    torch.testing.assert_close(rotate(picture, pi / 2)[middle], torch.rot90(picture[middle], 1, (-2, -1)), atol=1e-4, rtol=0)


def test_no_rotation_and_no_translation_is_the_image():
    picture = images(20, 30)
    torch.testing.assert_close(rotate(picture, 0.0), picture, atol=1e-4, rtol=0)
    torch.testing.assert_close(rotate(picture, 2 * pi), picture, atol=1e-4, rtol=0)
    torch.testing.assert_close(translate(picture, 0.0, 0.0), picture, atol=1e-4, rtol=0)


@pytest.mark.parametrize("angle", [pi / 16, pi / 4, pi / 2])
def test_a_rotation_keeps_shapes_in_a_non_square_image(angle):
    """A disc in the middle of a wide image stays a disc, and an ellipse turns without changing its axes."""
    rows, columns = torch.meshgrid(torch.arange(41.0) - 20, torch.arange(81.0) - 40, indexing="ij")
    inner = (..., (rows**2 + columns**2).sqrt() < 19)  # outside, reflections of the border appear
    disc = torch.sigmoid(12 - (rows**2 + columns**2).sqrt()).expand(1, 3, -1, -1)
    torch.testing.assert_close(rotate(disc, angle)[inner], disc[inner], atol=0.1, rtol=0)
    for direction in (1, -1):
        turned_rows = rows * cos(angle) + direction * columns * sin(angle)
        turned_columns = columns * cos(angle) - direction * rows * sin(angle)
        expected = torch.sigmoid(2 * (8 - (turned_rows**2 + (2 * turned_columns) ** 2).sqrt()))
        ellipse = torch.sigmoid(2 * (8 - (rows**2 + (2 * columns) ** 2).sqrt())).expand(1, 3, -1, -1)
        error = (rotate(ellipse, angle)[0, 0] - expected)[inner].abs().max()
        if error < 0.2:
            return
    raise AssertionError(error)


@pytest.mark.parametrize(("x", "y", "columns", "rows"), [(0.2, 0.0, 8, 0), (0.0, -0.2, 0, -4), (0.1, 0.1, 4, 2)])
def test_translations_are_fractions_of_half_the_size(x, y, columns, rows):
    picture = images(41, 81)  # 40 and 80 steps from centre of the first to that of the last pixel
    shifted = translate(picture, x, y)
    inner = (slice(None), slice(None), slice(10, 31), slice(10, 71))
    expected = picture.roll((-rows, -columns), dims=(-2, -1))
    torch.testing.assert_close(shifted[inner], expected[inner], atol=1e-4, rtol=0)


def test_beyond_the_border_the_image_is_reflected():
    picture = images(41, 41)
    shifted = translate(picture, 0.2, 0.0)  # four pixels to the left
    for beyond in range(1, 5):
        torch.testing.assert_close(shifted[..., 36 + beyond], picture[..., 40 - beyond], atol=1e-4, rtol=0)


def test_mirror_and_grey():
    picture = images()
    assert torch.equal(mirror(picture)[..., 0], picture[..., -1])
    assert torch.equal(mirror(mirror(picture)), picture)
    flat = grey(picture)
    assert torch.equal(flat[:, 0], flat[:, 2])
    torch.testing.assert_close(flat[:, 1], 0.299 * picture[:, 0] + 0.587 * picture[:, 1] + 0.114 * picture[:, 2])


@pytest.mark.parametrize("limit", [1, 4, 7, 64, None])
def test_groups_hold_every_view_in_order(limit):
    picture = images()
    groups = list(grouped(views(22), picture, limit))
    torch.testing.assert_close(torch.cat([group for _, group in groups]), torch.cat([view(picture) for view in views(22)]))
    assert all(len(group) == 2 * count <= max(limit or 42, 2) for count, group in groups)
    assert list(grouped((), picture, limit)) == []
