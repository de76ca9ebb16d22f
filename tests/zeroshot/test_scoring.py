import pytest
import torch
import torch.nn.functional as F

from anoclip_anomalib.zeroshot.scoring import (
    abnormal_probability,
    cosine_difference,
    differences,
    gaussian,
    mean_filter,
    upsample,
)


def text() -> torch.Tensor:
    return F.normalize(torch.randn(2, 16, generator=torch.Generator().manual_seed(2)), dim=-1)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_scores_are_the_softmax_of_the_two_cosines_without_temperature(scale):
    embeddings = scale * torch.randn(4, 5, 16)
    cosines = torch.stack([F.cosine_similarity(embeddings, t, dim=-1) for t in text()], dim=-1)
    torch.testing.assert_close(
        abnormal_probability(cosine_difference(embeddings, text())), cosines.softmax(-1)[..., 1], atol=1e-6, rtol=0
    )


def test_scores_of_half_precision_embeddings_are_computed_in_float32():
    embeddings = torch.randn(50, 16).bfloat16()
    difference = cosine_difference(embeddings, text())
    assert difference.dtype == torch.float32
    assert torch.equal(difference, cosine_difference(embeddings.float(), text()))


def test_a_zero_embedding_is_undecided():
    assert abnormal_probability(cosine_difference(torch.zeros(1, 16), text())).item() == 0.5


def test_the_mean_filter_repeats_the_border():
    maps = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    # Around the upper left patch: 1 four times, 2 and 3 twice, 4 once.
    assert mean_filter(maps, 3)[0, 0, 0].item() == pytest.approx((4 * 1 + 2 * 2 + 2 * 3 + 4) / 9)
    assert torch.equal(mean_filter(maps, 1), maps)
    torch.testing.assert_close(mean_filter(torch.full((2, 5, 7), 0.3), 5), torch.full((2, 5, 7), 0.3))


def test_upsampling_keeps_the_corners():
    maps = torch.randn(2, 1, 3, 4)
    large = upsample(maps, (9, 10))
    assert large.shape == (2, 1, 9, 10)
    assert torch.equal(large[..., [0, 0, -1, -1], [0, -1, 0, -1]], maps[..., [0, 0, -1, -1], [0, -1, 0, -1]])
    torch.testing.assert_close(large[..., 4, 3], maps[..., 1, 1])


@pytest.mark.parametrize("temperature", [1.0, 0.07, 0.01])
def test_temperature_divides_the_cosines(temperature):
    embeddings = torch.randn(4, 5, 16, generator=torch.Generator().manual_seed(0))
    cosines = torch.stack([F.cosine_similarity(embeddings, t, dim=-1) for t in text()], dim=-1)
    expected = (cosines / temperature).softmax(-1)[..., 1]
    actual = abnormal_probability(cosine_difference(embeddings, text()), temperature)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("read", [cosine_difference, differences])
@pytest.mark.parametrize("shape", [(6, 16), (6, 5, 16), (6, 2, 5, 16)])
def test_several_classes_in_a_batch_are_each_image_alone(read, shape):
    embeddings = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    texts = F.normalize(torch.randn(3, 2, 16, generator=torch.Generator().manual_seed(2)), dim=-1)
    index = torch.tensor([2, 0, 1, 1, 0, 1])
    together = read(embeddings, texts, index)
    alone = torch.stack([read(one, texts[c]) for one, c in zip(embeddings, index, strict=True)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)
    assert torch.equal(together, read(embeddings, texts[index]))
    assert together.shape == shape[:-1]


def test_a_class_index_needs_classes():
    with pytest.raises(ValueError, match=r"\(2, 16\) take no class index"):
        cosine_difference(torch.zeros(2, 16), text(), torch.zeros(2, dtype=torch.long))


def test_upsampling_without_aligned_corners_is_torchs():
    maps = torch.rand(1, 1, 3, 4)
    expected = F.interpolate(maps, size=(9, 8), mode="bilinear", align_corners=False)
    assert torch.equal(upsample(maps, (9, 8), align_corners=False), expected)
    assert not torch.allclose(upsample(maps, (9, 8)), expected)


def test_a_gaussian_of_one_bright_place_is_its_own_shape():
    maps = torch.zeros(1, 1, 9, 9)
    maps[..., 4, 4] = 1
    found = gaussian(maps, 3, 1.5)
    assert found.shape == (1, 1, 3, 3)
    offsets = torch.arange(-3.0, 4)
    weights = torch.exp(-(offsets**2) / 4.5) / torch.exp(-(offsets**2) / 4.5).sum()
    torch.testing.assert_close(found[0, 0], torch.outer(weights[2:5], weights[2:5]))
