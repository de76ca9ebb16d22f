import pytest
import torch
import torch.nn.functional as F

from anoclip_anomalib.zeroshot.neighbourhoods import (
    check_neighbourhoods,
    distance_of_cosine,
    exact_where_near,
    feature_sets,
    quarter_depths,
)


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return 3 + 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [1, 3, 5])
def test_neighbourhoods_as_a_plain_loop(size):
    x, (h, w) = tokens(2, 20, 6), (4, 5)
    found = feature_sets(x[None], (h, w), [size])[0]
    for image, result in zip(x, found, strict=True):
        normed = ((image - image.mean()) / (image.var(correction=0) + 1e-5).sqrt()).view(h, w, 6)
        for row in range(h):
            for column in range(w):
                total, reach = torch.zeros(6), size // 2
                for r in range(max(0, row - reach), min(h, row + reach + 1)):
                    for c in range(max(0, column - reach), min(w, column + reach + 1)):
                        total += normed[r, c] / size**2
                torch.testing.assert_close(result[row * w + column], F.normalize(total, dim=0), atol=1e-5, rtol=0)


def test_an_image_does_not_depend_on_the_batch_and_sets_are_in_order():
    levels = tokens(2, 3, 1, 20, 6)
    sets = feature_sets(levels, (4, 5), (1, 3))
    assert sets.shape == (4, 3, 1, 20, 6)
    for place, (depth, size) in enumerate([(0, 1), (0, 3), (1, 1), (1, 3)]):
        for image in range(3):
            expected = feature_sets(levels[depth : depth + 1, image], (4, 5), [size])[0]
            torch.testing.assert_close(sets[place, image], expected)


@pytest.mark.parametrize("sizes", [[0], [2], [1, 4], [-1], []])
def test_bad_neighbourhoods(sizes):
    with pytest.raises(ValueError, match="odd number of patches|At least one"):
        check_neighbourhoods(sizes)


def test_quarters():
    assert quarter_depths(12) == (3, 6, 9, 12)
    assert quarter_depths(24) == (6, 12, 18, 24)
    assert quarter_depths(2) == (1, 2)
    assert quarter_depths(1) == (1,)


def test_near_distances_are_made_exact_and_others_left():
    base = F.normalize(tokens(30, 8), dim=-1)
    queries = F.normalize(torch.cat([base[:5], base[5:10] + 1e-3, tokens(5, 8, seed=1)]), dim=-1)
    sets = torch.stack([base, F.normalize(tokens(30, 8, seed=2), dim=-1)])
    cosine = torch.stack([(queries @ references.T).amax(dim=1) for references in sets])
    found = exact_where_near(distance_of_cosine(cosine), queries, sets)
    expected = torch.cdist(queries.double(), sets.double()).amin(dim=-1)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)
    assert found[0, :5].max() < 1e-6
