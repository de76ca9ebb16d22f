import copy

import pytest
import torch
import torch.nn.functional as F

from anoclip_anomalib.aaclip.adapters import (
    ImageAdapters,
    ResidualAdapters,
    adapt_tokens,
    default_taps,
    new_image_adapters,
    new_text_adapters,
)
from anoclip_anomalib.clip import Tap, TextEncoder, walk_image


def test_adapted_tokens_in_closed_form():
    x = torch.tensor([[3.0, -4.0]])
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    adapted = torch.tensor([[3.0, -0.04]])  # LeakyReLU with slope 0.01
    expected = 0.25 * adapted * 5 / adapted.norm() + 0.75 * x
    torch.testing.assert_close(adapt_tokens(x, weight, 0.25), expected)


def test_adapter_output_has_the_length_of_its_token():
    x, weight = torch.randn(2, 5, 8), torch.randn(8, 8)
    torch.testing.assert_close(adapt_tokens(x, weight, 1.0).norm(dim=-1), x.norm(dim=-1))


def test_tokens_that_are_zero_stay_finite():
    assert torch.equal(adapt_tokens(torch.zeros(1, 4), torch.randn(4, 4)), torch.zeros(1, 4))


def test_only_the_first_blocks_are_adapted():
    hook, x = ResidualAdapters(2, 4, 0.5), torch.randn(1, 3, 4)
    assert torch.equal(hook(3, x), x)
    torch.testing.assert_close(hook(2, x), adapt_tokens(x, hook.weights[1], 0.5))
    assert not torch.equal(hook(1, x), hook(2, x))


def test_zero_mixing_is_plain_clip_in_both_towers(tiny_clip, tmp_path):
    clip = tiny_clip()
    images, sentences = torch.randn(2, 3, 64, 64), ["a photo of a bottle.", "a broken bottle."]
    image = new_image_adapters(clip, reference=True, mixing=0.0)
    (patches, token), _ = walk_image(
        clip.model.visual, images, [Tap(block=12, project=False), Tap(tokens="class")], after_block=image.adapters
    )
    torch.testing.assert_close(token, clip.model.encode_image(images), atol=1e-5, rtol=1e-4)
    plain, _ = walk_image(clip.model.visual, images, [Tap(block=12, project=False)])
    torch.testing.assert_close(patches, plain[0])
    text = new_text_adapters(clip, reference=False, mixing=0.0)
    encoder = TextEncoder(clip, cache_dir=tmp_path, after_block=text.adapters, project=False, variant="zero")
    projected = text.project(encoder.encode(sentences)).detach()
    torch.testing.assert_close(projected, clip.model.encode_text(clip.tokenize(sentences)), atol=1e-5, rtol=1e-4)


def test_projections_begin_at_clips_own_unless_reference(tiny_clip):
    clip = tiny_clip()
    clean = new_image_adapters(clip, reference=False)
    assert all(torch.equal(own.weight, clip.model.visual.proj.T) for own in (*clean.segmentation, clean.detection))
    reference = new_image_adapters(clip, reference=True)
    bound = (6 / (64 + 32)) ** 0.5  # xavier, uniform
    for linear in (*reference.segmentation, reference.detection):
        assert not torch.equal(linear.weight, clip.model.visual.proj.T)
        assert 0.8 * bound < linear.weight.abs().max() <= bound
    assert max(weight.abs().max() for weight in clean.adapters.weights) <= (6 / 128) ** 0.5


def test_the_authors_numbers_for_their_tower_and_ours_for_others(tiny_clip):
    assert default_taps(24) == (6, 12, 18, 24)
    assert default_taps(12) == (3, 6, 9, 12)
    assert default_taps(3) == (1, 2, 3)
    assert len(new_image_adapters(tiny_clip(), reference=True).adapters.weights) == 6
    assert len(new_text_adapters(tiny_clip(), reference=True).adapters.weights) == 1  # of 2 blocks


@pytest.mark.parametrize("arguments", [{"count": 13}, {"taps": (6, 13)}])
def test_more_than_the_tower_has_is_refused(tiny_clip, arguments):
    with pytest.raises(ValueError, match="12 blocks"):
        new_image_adapters(tiny_clip(), reference=True, **arguments)


def test_levels_are_unit_vectors_and_the_detection_vector_is_their_mean():
    half = ImageAdapters(1, 8, 4, (1, 2))
    tapped = [torch.randn(2, 5, 8), torch.randn(2, 5, 8)]
    levels, detection = half.project(tapped)
    for level, linear, x in zip(levels, half.segmentation, tapped, strict=True):
        torch.testing.assert_close(level, F.normalize(x @ linear.weight.T, dim=-1))
    unit = F.normalize(tapped[1] @ half.detection.weight.T, dim=-1)
    torch.testing.assert_close(detection, unit.mean(dim=1))
    assert (detection.norm(dim=-1) < 0.99).all()


def test_the_class_token_has_its_share_of_the_detection_vector(tiny_clip):
    half = ImageAdapters(1, 8, 4, (1, 2), class_share=0.25)
    tapped = [torch.randn(2, 5, 8), torch.randn(2, 5, 8), torch.randn(2, 8)]
    levels, detection = half.project(tapped)
    assert len(levels) == 2
    patches = F.normalize(tapped[1] @ half.detection.weight.T, dim=-1).mean(dim=1)
    token = F.normalize(tapped[2] @ half.class_detection.weight.T, dim=-1)
    torch.testing.assert_close(detection, 0.25 * token + 0.75 * patches)
    assert half.reads == [
        Tap(block=1, project=False),
        Tap(block=2, project=False),
        Tap(block=2, tokens="class", project=False),
    ]
    clip = tiny_clip()
    own = new_image_adapters(clip, reference=False, projections="random", class_share=0.5, mixing=0.0)
    assert not torch.equal(own.detection.weight, clip.model.visual.proj.T)
    images = torch.randn(2, 3, 64, 64)
    token = walk_image(clip.model.visual, images, own.reads, after_block=own.adapters)[0][-1]
    begins = F.normalize(own.class_detection(token), dim=-1)
    torch.testing.assert_close(begins, F.normalize(clip.model.encode_image(images), dim=-1), atol=1e-5, rtol=1e-4)


def test_the_class_token_of_plain_clip_comes_from_a_walk_without_adapters(tiny_clip):
    clip = tiny_clip()
    half = new_image_adapters(clip, reference=False, class_share=0.25, class_token="clip")
    alone = new_image_adapters(clip, reference=False)
    alone.load_state_dict(half.state_dict())
    images = torch.randn(2, 3, 64, 64)
    levels, detection, grid = half.read(clip.model.visual, images)
    own, patches, _ = alone.read(clip.model.visual, images)
    token = F.normalize(clip.model.encode_image(images), dim=-1)
    torch.testing.assert_close(detection, 0.25 * token + 0.75 * patches)
    assert grid == (4, 4)
    assert all(torch.equal(one, other) for one, other in zip(levels, own, strict=True))
    assert half.class_detection is None
    whole = new_image_adapters(clip, reference=False, class_share=1.0, class_token="clip")
    torch.testing.assert_close(whole.read(clip.model.visual, images)[1], token)
    assert torch.equal(half.read(clip.model.visual, images, learning=True)[1], detection)
    unused = whole.read(clip.model.visual, images, learning=True)[1]
    assert (unused.norm(dim=-1) < 0.99).all(), "patches alone: nobody walked for the class token"
    assert not whole.detection.weight.requires_grad
    assert half.detection.weight.requires_grad
    assert not ImageAdapters(1, 8, 4, (1,), class_share=1.0).frozen_detection, "an adapted class token is learned"
    detection.sum().backward()
    assert half.adapters.weights[0].grad is not None
    assert all(parameter.grad is None for parameter in clip.model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_keep_float32_when_everything_is_cast(dtype):
    half = ImageAdapters(1, 8, 4, (1,))
    cast = torch.nn.ModuleList([copy.deepcopy(half), torch.nn.Linear(2, 2)]).to(dtype)
    assert cast[1].weight.dtype == dtype
    for own, before in zip(cast[0].parameters(), half.parameters(), strict=True):
        assert torch.equal(own, before)
        assert own.dtype == torch.float32
