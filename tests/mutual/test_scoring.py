"""Mutual scoring against a plain double loop, and what must not change it."""

import pytest
import torch
import torch.nn.functional as F

from anoclip_anomalib.mutual.patches import Patches
from anoclip_anomalib.mutual.scoring import (
    counted,
    mean_of_lowest,
    mutual_distances,
    one_sided,
    pool_scores,
    rescored,
    two_groups,
)


def pool(images: int = 9, patches: int = 12, seed: int = 0) -> torch.Tensor:
    """With a patch that two images share, and one that lies within 0.01 of another."""
    generator = torch.Generator().manual_seed(seed)
    features = F.normalize(torch.randn(images, patches, 7, generator=generator), dim=-1)
    features[1, 3] = features[0, 5]
    features[2, 4] = F.normalize(features[0, 6] + 0.004, dim=0)
    return features


def plain(features: torch.Tensor, lowest: float = 0.3) -> torch.Tensor:
    """Word for word: for each patch the nearest patch of each other image, and the mean of the lowest of these."""
    features = features.double()
    scores = torch.zeros(features.shape[:2], dtype=torch.float64)
    for i, image in enumerate(features):
        for p, patch in enumerate(image):
            nearest = sorted(min(float((patch - q).norm()) for q in other) for j, other in enumerate(features) if j != i)
            count = max(1, int(lowest * len(nearest)))
            scores[i, p] = sum(nearest[:count]) / count
    return scores


def as_they_are(units: torch.Tensor) -> Patches:
    """Unit vectors (M, L, D) without a neighbourhood."""
    return Patches(units[None], units, units.new_ones(1, *units.shape[:2]), (1,), (1, units.shape[1]))


def scores(features: torch.Tensor, **options) -> torch.Tensor:
    return pool_scores(as_they_are(features).part, len(features), **options)[0]


@pytest.mark.parametrize("budget", [0, 1 << 30])
@pytest.mark.parametrize("images", [2, 3, 5, 9])
def test_a_plain_double_loop(images, budget):
    features = pool(images if images > 2 else 3)[:images]
    torch.testing.assert_close(scores(features, budget=budget), plain(features), atol=1e-5, rtol=0)


@pytest.mark.parametrize("block", [1, 2, 4, 100])
def test_blocks_change_nothing(block):
    features = pool()
    torch.testing.assert_close(scores(features, budget=0, block=block), plain(features), atol=1e-5, rtol=0)
    found = mutual_distances(as_they_are(features), block)[:, 0]
    torch.testing.assert_close(found, mutual_distances(as_they_are(features))[:, 0], atol=1e-5, rtol=0)
    assert found.diagonal(dim1=0, dim2=1).isinf().all()


def test_the_order_of_the_images_changes_nothing():
    features, order = pool(), torch.randperm(9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(scores(features[order]), scores(features)[order], atol=1e-5, rtol=0)


def test_which_distances_count():
    """Figures of the authors' `int(0.3 * (N - 1))`, and one where theirs is none."""
    assert [counted(n - 1) for n in (42, 167, 200, 3, 4, 5)] == [12, 49, 59, 1, 1, 1]
    assert mean_of_lowest(torch.tensor([[3.0], [1.0], [2.0], [torch.inf]]), 2).item() == 1.5


def test_one_sided_is_a_row_of_the_mutual_ones():
    features = as_they_are(pool())
    found = one_sided(features.part(0, 2), features.part(3, 9))
    torch.testing.assert_close(found, mutual_distances(features)[3:, :, :2], atol=1e-5, rtol=0)


def test_progress_is_told_of_every_image():
    for budget in (0, 1 << 30):
        done = []
        scores(pool(), budget=budget, block=4, step=done.append)
        assert sum(done) == 9


def test_rescoring_in_closed_form():
    values, tokens = torch.tensor([1.0, 3.0, 2.0]), torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 2.0]])
    own = torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(rescored(values, tokens, (1,)), own)
    two = torch.tensor([0.6 / 1.6, (1 + 0.8 * 0.5) / 1.8, (0.5 + 0.8) / 1.8], dtype=torch.float64)
    torch.testing.assert_close(rescored(values, tokens, (2,)), two)
    torch.testing.assert_close(rescored(values, tokens, (1, 2)), (own + two) / 2)
    torch.testing.assert_close(rescored(5 * values - 7, 3 * tokens, (1, 2)), (own + two) / 2)
    assert rescored(torch.ones(3), tokens).tolist() == [0.0, 0.0, 0.0]
    assert rescored(values, tokens, (99,)).isfinite().all()


def test_rescoring_against_a_pool_counts_the_image_itself_first():
    values, tokens = torch.tensor([1.0, 3.0]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    found = rescored(torch.tensor([2.0]), torch.tensor([[0.6, 0.8]]), (1, 2), (values, tokens))
    torch.testing.assert_close(found, torch.tensor([(0.5 + (0.5 + 0.8) / 1.8) / 2], dtype=torch.float64))


def test_two_groups():
    share, upper = two_groups(torch.tensor([0.0, 0.1, 0.2, 5.0, 5.1]))
    assert share > 0.99
    assert upper == 2
    generator = torch.Generator().manual_seed(0)
    assert two_groups(torch.randn(5000, generator=generator))[0] == pytest.approx(2 / torch.pi, abs=0.02)
    assert two_groups(torch.rand(5000, generator=generator))[0] == pytest.approx(0.75, abs=0.02)
    assert two_groups(torch.ones(5))[0] == 0.0
