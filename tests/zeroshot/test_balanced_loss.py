"""The balanced segmentation loss: closed forms, balance, and what it does to good images."""

import math

import pytest
import torch

from anoclip_anomalib.zeroshot.balanced_loss import HARDEST, balanced_segmentation_loss, peak_loss


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


def test_closed_form_on_constant_logits() -> None:
    logits = torch.full((2, 10, 10), 0.7)
    mask = torch.zeros(2, 10, 10)
    mask[0, :2, :5] = 1
    p = 1 / (1 + math.exp(-0.7))
    dice = 1 - (2 * p * 10 + 1) / (p * 200 + 10 + 1)
    expected = softplus(-0.7) + (softplus(0.7) * 190 / 200 + softplus(0.7)) / 2 + dice
    assert float(balanced_segmentation_loss(logits, mask)) == pytest.approx(expected, rel=1e-5)


def test_defective_images_weigh_alike_however_small_their_defect() -> None:
    mask = torch.zeros(2, 20, 20)
    mask[0, 0, 0] = 1
    mask[1, :10] = 1
    gradients = []
    for missed in range(2):
        logits = torch.zeros(2, 20, 20, requires_grad=True)
        (gradient,) = torch.autograd.grad(balanced_segmentation_loss(logits, mask), logits)
        gradients.append(float(gradient[missed][mask[missed] > 0].sum()))
    assert gradients[0] == pytest.approx(-0.25, abs=0.01)
    assert gradients[1] == pytest.approx(-0.25, abs=0.15)


def test_one_hot_spot_on_a_good_image_costs_more_than_the_same_heat_spread_out() -> None:
    mask = torch.zeros(1, 40, 40)
    spot, spread = torch.full((1, 40, 40), -4.0), torch.full((1, 40, 40), -4.0)
    spot[0, :4, :20] = 4.0
    assert spot[0, :4, :20].numel() == 40 * 40 // HARDEST
    spread += (spot - spread).mean()
    assert balanced_segmentation_loss(spot, mask) > 1.5 * balanced_segmentation_loss(spread, mask)


def test_a_batch_of_good_images_has_a_finite_loss_that_falls_with_the_logits() -> None:
    mask = torch.zeros(2, 8, 8)
    losses = [float(balanced_segmentation_loss(torch.full((2, 8, 8), level), mask)) for level in (1.0, -1.0, -9.0)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.1


def test_the_peak_decides_on_the_image() -> None:
    grid = torch.full((2, 6, 6), -5.0)
    grid[0, 2, 2:5] = 3.0
    expected = (softplus(-3.0) + softplus(-5.0)) / 2
    assert float(peak_loss(grid, torch.tensor([1, 0]))) == pytest.approx(expected, rel=1e-5)
    assert peak_loss(grid, torch.tensor([0, 1])) > 3
    assert torch.isfinite(peak_loss(torch.zeros(1, 1, 1), torch.tensor([1])))
