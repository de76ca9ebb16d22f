"""The balanced segmentation loss: closed forms, balance, and what it does to good images."""

import math

import pytest
import torch

from anoclip_anomalib.zeroshot.balanced_loss import (
    HARDEST,
    balanced_segmentation_loss,
    good_twins,
    peak_loss,
    peaks,
    ranking_loss,
    twin_heat_loss,
)


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


def test_the_peak_is_the_mean_of_the_three_highest_places() -> None:
    grid = torch.zeros(1, 3, 3)
    grid[0, 0], grid[0, 1, 1] = torch.tensor([6.0, 3.0, 9.0]), -4.0
    assert float(peaks(grid)) == pytest.approx(6.0)


def test_twins_are_neighbours_of_one_pair() -> None:
    assert good_twins(torch.tensor([-1, -1, 4, 4, 0, 0, 7])).tolist() == [2, 4]
    assert good_twins(torch.tensor([3])).tolist() == []


def test_heat_on_the_good_twin_counts_where_the_other_has_its_defect() -> None:
    mask = torch.zeros(6, 4, 4)
    mask[1, 0, :2] = mask[3, 2] = 1
    logits = torch.full((6, 4, 4), -3.0)
    logits[0, 0, 0] = 2.0
    logits[0, 3] = logits[1] = logits[4] = logits[5] = 9.0  # elsewhere, on the defect itself, and of a defect cropped away
    expected = ((softplus(2.0) + softplus(-3.0)) / 2 + softplus(-3.0)) / 2
    assert float(twin_heat_loss(logits, mask, torch.tensor([0, 2, 4]))) == pytest.approx(expected, rel=1e-5)
    assert float(twin_heat_loss(logits, mask, torch.tensor([], dtype=torch.long))) == 0


def test_the_defective_twin_shall_rank_higher() -> None:
    verdict = torch.tensor([1.0, 3.0, 0.0, -1.0])
    expected = (softplus(-2.0) + softplus(1.0)) / 2
    assert float(ranking_loss(verdict, torch.tensor([0, 2]))) == pytest.approx(expected, rel=1e-5)
    assert float(ranking_loss(verdict, torch.tensor([], dtype=torch.long))) == 0
