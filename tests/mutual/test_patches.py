"""One product for all neighbourhoods against a product for each."""

import pytest
import torch

from anoclip_anomalib.mutual import scoring
from anoclip_anomalib.mutual.patches import Patches, groups_of_sizes, summed_over_neighbourhoods
from anoclip_anomalib.mutual.scoring import mutual_distances, one_sided, pool_scores
from anoclip_anomalib.zeroshot.neighbourhoods import feature_sets
from tests.mutual.test_scoring import plain

GRID, SIZES = (3, 4), (1, 3, 5)


def levels(images: int = 6, tiles: int = 2, width: int = 24) -> torch.Tensor:
    """Two images share a tile, but for what their joint normalisation makes of it."""
    tokens = 2 + torch.randn(images, tiles, 12, width, generator=torch.Generator().manual_seed(0))
    tokens[3] = tokens[1]
    return tokens


def test_units_are_the_feature_sets():
    found = Patches.of(levels(), GRID, SIZES)
    expected = feature_sets(levels().flatten(0, 1)[None], GRID, SIZES)
    torch.testing.assert_close(found.units.unflatten(2, (2, 12)).flatten(1, 2), expected)
    assert found.part(1, 3).units.shape == (3, 2, 24, 24)


@pytest.mark.parametrize("sizes", [SIZES, (3,), (5, 1)])
def test_cosines_are_those_of_the_units(sizes):
    pool = Patches.of(levels(), GRID, sizes)
    for cosine, units in zip(pool.cosines(pool.part(2, 3)), pool.units, strict=True):
        torch.testing.assert_close(cosine, units @ units[2].T, atol=1e-6, rtol=0)


def test_the_sum_stays_within_a_tile_and_leaves_the_product_alone():
    product = torch.ones(1, 24, 24)
    found = summed_over_neighbourhoods(product, GRID, 3)
    reach = torch.tensor([min(r + 1, 2) - max(r - 1, 0) + 1 for r in range(3)])[:, None] * torch.tensor([2, 3, 3, 2])
    counted = reach.flatten().repeat(2).float()
    assert torch.equal(found[0], counted[:, None] * counted)
    assert torch.equal(product, torch.ones(1, 24, 24))
    assert torch.equal(summed_over_neighbourhoods(product, GRID, 1), product)


@pytest.mark.parametrize("budget", [0, 1 << 30])
def test_a_plain_double_loop_over_every_neighbourhood(budget):
    pool = Patches.of(levels(), GRID, SIZES)
    found = pool_scores(pool.part, 6, budget=budget, block=4)
    expected = torch.stack([plain(units) for units in pool.units])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("at_once", [1, 3, 99])
def test_one_sided_with_several_neighbourhoods(monkeypatch, at_once):
    monkeypatch.setattr(scoring, "_CACHED", at_once * 24**2)
    pool = Patches.of(levels(), GRID, SIZES)
    found = one_sided(pool.part(0, 2), pool.part(2, 6))
    torch.testing.assert_close(found, mutual_distances(pool)[2:, :, :2], atol=1e-5, rtol=0)


def test_products_are_shared_where_that_is_faster():
    assert groups_of_sizes([1, 3], 896, "cpu") == [(1, 3)]
    assert groups_of_sizes([1, 3], 96, "cpu") == [(1,), (3,)]
    assert groups_of_sizes([1, 3], 896, "cuda:0") == [(1,), (3,)]
