import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2.functional import gaussian_blur

from anoclip_anomalib.aaclip.scoring import blur, level_difference, rescale, segmentation_probability


def test_the_difference_is_the_mean_over_the_levels():
    levels = [F.normalize(torch.randn(2, 6, 8), dim=-1) for _ in range(3)]
    anchors = F.normalize(torch.randn(2, 8), dim=-1)
    expected = sum(level @ anchors[1] - level @ anchors[0] for level in levels) / 3
    torch.testing.assert_close(level_difference(levels, anchors), expected)
    own = torch.stack([anchors, anchors.flip(0)])
    torch.testing.assert_close(level_difference(levels, own)[1], -expected[1])


def test_probabilities_are_a_softmax_behind_upsampled_logits():
    level, anchors = F.normalize(torch.randn(2, 6, 8), dim=-1), F.normalize(torch.randn(2, 2, 8), dim=-1)
    logits = torch.stack([100 * torch.einsum("le,ke->kl", level[b], anchors[b]).view(2, 2, 3) for b in range(2)])
    expected = F.interpolate(logits, size=(5, 7), mode="bilinear", align_corners=True).softmax(dim=1)
    torch.testing.assert_close(segmentation_probability(level, anchors, (2, 3), (5, 7)), expected)


@pytest.mark.parametrize(("kernel", "sigma"), [(7, 1.0), (9, 1.5), (3, 0.8)])
def test_the_blur_is_torchvisions(kernel, sigma):
    maps = torch.randn(2, 1, 11, 13)
    torch.testing.assert_close(blur(maps, kernel, sigma), gaussian_blur(maps, [kernel, kernel], [sigma, sigma]))


def test_small_grids_and_no_blur():
    maps = torch.randn(1, 1, 2, 3)
    assert torch.equal(blur(maps, 1), maps)
    torch.testing.assert_close(blur(torch.full((1, 1, 2, 3), 0.7)), torch.full((1, 1, 2, 3), 0.7))


def test_rescaling_an_empty_range_gives_zeros():
    values = torch.tensor([1.0, 2.0, 5.0])
    torch.testing.assert_close(rescale(values, values.min(), values.max()), torch.tensor([0.0, 0.25, 1.0]))
    assert torch.equal(rescale(values, 3.0, 3.0), torch.zeros(3))


@pytest.mark.parametrize("grid", [(2, 8), (8, 3), (3, 3)])
def test_a_grid_with_one_short_side_is_blurred(grid):
    torch.testing.assert_close(blur(torch.full((1, 1, *grid), 0.7)), torch.full((1, 1, *grid), 0.7))
