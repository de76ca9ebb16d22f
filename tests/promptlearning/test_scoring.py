from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from anoclip_anomalib.promptlearning.methods import METHODS
from anoclip_anomalib.promptlearning.scoring import (
    anomaly_map,
    cluster_pooled,
    differences,
    image_score,
    score_pooled,
    smooth,
)

GRID, SIZE = (4, 5), (40, 60)


@pytest.fixture
def made():
    generator = torch.Generator().manual_seed(5)

    def unit(*shape):
        return F.normalize(torch.randn(*shape, generator=generator), dim=-1)

    return [unit(3, 20, 8) for _ in range(4)], unit(3, 8), unit(2, 8)


def logits(level, text, temperature):
    return torch.stack([level @ text[0], level @ text[1]], dim=1).unflatten(2, GRID) / temperature


def enlarged(maps, align_corners):
    return F.interpolate(maps, size=SIZE, mode="bilinear", align_corners=align_corners)


@pytest.mark.parametrize("name", METHODS)
def test_maps_keep_the_authors_order_of_upsampling_softmax_and_mean(name, made):
    levels, _, text = made
    method = METHODS[name]
    own = [logits(level, text, method.temperature) for level in levels]
    if name in ("anomalyclip", "crane"):
        expected = torch.stack([enlarged(one.softmax(dim=1), False) for one in own]).mean(dim=0)
    elif name == "april-gan":
        expected = torch.stack([enlarged(one, True).softmax(dim=1) for one in own]).mean(dim=0)
    else:
        expected = torch.stack([enlarged(one, name == "adaclip") for one in own]).mean(dim=0).softmax(dim=1)
    found = anomaly_map(method, levels, text, GRID, SIZE)
    torch.testing.assert_close(found, expected[:, 1:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", METHODS)
def test_one_tap_equals_the_average_of_four_equal_ones(name, made):
    levels, token, text = made
    one, four = levels[:1], levels[:1] * 4
    method = METHODS[name]
    torch.testing.assert_close(anomaly_map(method, one, text, GRID, SIZE), anomaly_map(method, four, text, GRID, SIZE))
    if name != "adaclip":  # the patches of all levels are clustered there
        torch.testing.assert_close(image_score(method, one, token, text), image_score(method, four, token, text))


def test_image_scores_are_softmaxes_of_cosines(made):
    levels, token, text = made
    for name in ("anomalyclip", "april-gan"):
        method = METHODS[name]
        expected = (token @ text.T / method.temperature).softmax(dim=-1)[:, 1]
        torch.testing.assert_close(image_score(method, levels, token, text), expected)


def test_score_based_pooling_weighs_patches_by_their_probability(made):
    levels, token, text = made
    mean = sum(levels) / 4
    weights = (mean @ text.T / 0.07).softmax(dim=-1)[..., 1]
    pooled = torch.stack([F.normalize((w[:, None] * f).sum(dim=0), dim=0) for w, f in zip(weights, mean, strict=True)])
    torch.testing.assert_close(score_pooled(levels, text, 0.07), pooled)
    feature = F.normalize(0.5 * pooled + 0.5 * token, dim=-1)
    expected = (feature @ text.T / 0.07).softmax(dim=-1)[:, 1]
    torch.testing.assert_close(image_score(METHODS["crane"], levels, token, text), expected)


def test_text_of_each_image_is_used_for_it(made):
    levels, token, text = made
    each = F.normalize(torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(1)), dim=-1)
    for index in range(3):
        own = [level[index : index + 1] for level in levels]
        alone = anomaly_map(METHODS["crane"], own, each[index], GRID, SIZE)
        torch.testing.assert_close(anomaly_map(METHODS["crane"], levels, each, GRID, SIZE)[index : index + 1], alone)
    torch.testing.assert_close(differences(token, text.expand(3, -1, -1)), differences(token, text))


def test_cluster_centres_are_averaged_with_equal_weight():
    """Two tight groups of anomalous patches, of different size: the mean of the two centres, not of the patches."""
    first, second, normal = F.normalize(torch.eye(8)[:3] + 0.01, dim=-1)
    text = F.normalize(torch.stack([normal, first + second]), dim=-1)
    level = torch.stack([first] * 7 + [second] * 3)[None]
    found = cluster_pooled([level, level], text, clusters=2)
    torch.testing.assert_close(found[0], F.normalize(first + second, dim=0), atol=1e-4, rtol=0)


def test_only_the_most_anomalous_patches_are_fused():
    generator = torch.Generator().manual_seed(0)
    text = F.normalize(torch.randn(2, 8, generator=generator), dim=-1)
    level = F.normalize(torch.randn(1, 60, 8, generator=generator), dim=-1)
    order = differences(level, text)[0].argsort(descending=True)
    changed = level.clone()
    changed[0, order[25:]] = F.normalize(text[0] - text[1], dim=0)
    assert torch.equal(cluster_pooled([level], text, clusters=5), cluster_pooled([changed], text, clusters=5))


def test_clustering_is_seeded_and_each_image_alone(made):
    levels, token, text = made
    method = replace(METHODS["adaclip"])
    both = image_score(method, levels, token, text)
    np.random.rand(3)
    torch.testing.assert_close(image_score(method, levels, token, text), both, rtol=0, atol=0)
    alone = image_score(method, [level[1:2] for level in levels], token[1:2], text)
    torch.testing.assert_close(alone, both[1:2], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("sigma", "side"), [(4.0, 40), (1.3, 7), (6.0, 9), (0.0, 5), (0.7, 6)])
def test_smoothing_is_scipys(sigma, side):
    maps = torch.rand(2, 1, side, side + 3, generator=torch.Generator().manual_seed(3))
    expected = (
        maps if sigma == 0 else torch.stack([torch.from_numpy(gaussian_filter(one.numpy(), sigma)) for one in maps[:, 0]])
    )
    torch.testing.assert_close(smooth(maps, sigma), expected.view_as(maps), atol=1e-6, rtol=0)


def test_adaclips_image_feature_is_a_fifth_of_the_clusters(made):
    levels, token, text = made
    feature = F.normalize(0.2 * cluster_pooled(levels, text) + 0.8 * token, dim=-1)
    expected = (feature @ text.T / 0.01).softmax(dim=-1)[:, 1]
    torch.testing.assert_close(image_score(METHODS["adaclip"], levels, token, text), expected, atol=1e-5, rtol=0)
