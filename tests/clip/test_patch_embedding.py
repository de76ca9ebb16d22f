import pytest
import torch
import torch.nn.functional as F

from anoclip_anomalib.clip import Tap, walk_image
from anoclip_anomalib.clip.patch_embedding import check_image_size, embed_images, interpolate_position

KINDS = {
    "bicubic-antialias": {"mode": "bicubic", "antialias": True},
    "bicubic": {"mode": "bicubic"},
    "bilinear": {"mode": "bilinear"},
}


def embedding(rows: int, columns: int, width: int = 5) -> torch.Tensor:
    return torch.randn(1 + rows * columns, width, generator=torch.Generator().manual_seed(0))


def test_position_embedding_of_a_rectangular_grid_is_interpolated_along_the_right_axes():
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(6.0), indexing="ij")
    plain = torch.cat([torch.tensor([[9.0, 9.0]]), torch.stack([rows.flatten(), columns.flatten()], dim=1)])
    resized = interpolate_position(plain, (4, 6), (8, 3))
    assert resized.shape == (1 + 24, 2)
    assert torch.equal(resized[0], plain[0])
    grid = resized[1:].unflatten(0, (8, 3))
    assert (grid[1:, :, 0] > grid[:-1, :, 0]).all()  # rows grow downwards
    assert (grid[:, 1:, 1] > grid[:, :-1, 1]).all()  # columns grow to the right
    assert (grid[..., 0] - grid[:, :1, 0]).abs().max() < 1e-5
    assert interpolate_position(plain, (4, 6), (4, 6)) is plain


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", [(37, 37), (3, 5)])
def test_the_kinds_are_torchs_own(kind, grid):
    native = (6, 6)
    plain = embedding(*native)
    image = plain[1:].reshape(1, *native, -1).permute(0, 3, 1, 2)
    expected = F.interpolate(image, size=grid, align_corners=False, **KINDS[kind])
    resized = interpolate_position(plain, native, grid, kind)
    torch.testing.assert_close(resized[1:], expected[0].permute(1, 2, 0).flatten(0, 1))
    assert torch.equal(resized[0], plain[0])
    others = [interpolate_position(plain, native, grid, other) for other in KINDS if other != kind]
    assert all((resized - other).abs().max() > 0.01 for other in others)


def test_the_offset_kind_takes_its_scale_from_a_grid_a_tenth_larger():
    plain = embedding(24, 24)
    rows, columns = (((torch.arange(n) + 0.5) * 2 / (n + 0.1) - 1) for n in (37, 30))
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], dim=-1)[None]
    image = plain[1:].reshape(1, 24, 24, -1).permute(0, 3, 1, 2)
    expected = F.grid_sample(image, places, mode="bicubic", padding_mode="border", align_corners=False)
    resized = interpolate_position(plain, (24, 24), (37, 30), "bicubic-offset")
    torch.testing.assert_close(resized[1:], expected[0].permute(1, 2, 0).flatten(0, 1), atol=1e-4, rtol=0)
    assert (resized - interpolate_position(plain, (24, 24), (37, 30), "bicubic")).abs().max() > 0.01


@pytest.mark.parametrize("size", [(64, 64), (32, 48), (96, 64)])
@torch.no_grad()
def test_the_first_blocks_tokens_step_by_step(tiny_clip, size):
    visual = tiny_clip().model.visual
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    patches = F.conv2d(images, visual.conv1.weight, stride=16).flatten(2).mT
    position = interpolate_position(visual.positional_embedding, (4, 4), (size[0] // 16, size[1] // 16), "bicubic-antialias")
    tokens = torch.cat([visual.class_embedding.expand(2, 1, -1), patches], dim=1) + position
    x, grid = embed_images(visual, images)
    torch.testing.assert_close(x, F.layer_norm(tokens, (64,), visual.ln_pre.weight, visual.ln_pre.bias), atol=1e-5, rtol=1e-5)
    assert grid == (size[0] // 16, size[1] // 16)


def test_antialiasing_is_the_default():
    plain = embedding(6, 6)
    assert torch.equal(
        interpolate_position(plain, (6, 6), (3, 5)), interpolate_position(plain, (6, 6), (3, 5), "bicubic-antialias")
    )


@pytest.mark.parametrize(
    ("size", "near"), [((60, 63), (64, 64)), ((8, 17), (16, 16)), ((0, 64), (16, 64)), ((-16, 16), (16, 16))]
)
def test_the_nearest_size_that_fits_is_named(tiny_clip, size, near):
    with pytest.raises(ValueError, match=rf"{size[0]} x {size[1]} is not .* the nearest that is: {near[0]} x {near[1]}$"):
        check_image_size(tiny_clip().model.visual, *size)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"'nearest'; choose one of 'bicubic-antialias', 'bicubic'"):
        interpolate_position(embedding(2, 2), (2, 2), (2, 2), "nearest")


@torch.no_grad()
def test_the_walk_uses_the_kind_that_is_asked_for(tiny_clip):
    visual = tiny_clip().model.visual
    images = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    taps = [Tap(block=1, norm=False, project=False)]
    default = walk_image(visual, images, taps)[0][0]
    by_kind = {kind: walk_image(visual, images, taps, position=kind)[0][0] for kind in KINDS}
    assert torch.equal(by_kind["bicubic-antialias"], default)
    assert (by_kind["bilinear"] - default).abs().max() > 1e-3
    assert (by_kind["bicubic"] - by_kind["bilinear"]).abs().max() > 1e-3
