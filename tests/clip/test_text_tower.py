import copy

import pytest
import torch
from torch import nn

from anoclip_anomalib.clip import embed_tokens, walk_text
from anoclip_anomalib.clip.text_tower import is_causal_tower
from tests.architectures import NEW_BLOCKS, TEXT_VARIANTS

SENTENCES = ["a photo of a flawless bottle", "x", "a damaged bottle with a long crack"]


@pytest.mark.parametrize(
    "name", ["tiny", "tiny-layerscale", "tiny-quickgelu", "tiny-custom-text", *NEW_BLOCKS, "tiny-text-bias"]
)
@torch.no_grad()
def test_from_token_embeddings_equals_encode_text(tiny_clip, name):
    clip = tiny_clip(name)
    tokens = clip.tokenize(SENTENCES)
    embeddings, ends = embed_tokens(clip.text_tower, tokens)
    assert embeddings.shape[1] == int(ends.max()) + 1 < tokens.shape[1]
    expected = clip.model.encode_text(tokens)
    torch.testing.assert_close(walk_text(clip.text_tower, embeddings, ends), expected, atol=1e-5, rtol=0)
    whole = clip.text_tower.token_embedding(tokens)
    torch.testing.assert_close(walk_text(clip.text_tower, whole, ends), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_without_projection_it_is_what_the_projection_gets(tiny_clip):
    tower = tiny_clip().text_tower
    inputs = embed_tokens(tower, tiny_clip().tokenize(SENTENCES))
    raw = walk_text(tower, *inputs, project=False)
    assert raw.shape == (3, 64)
    torch.testing.assert_close(raw @ tower.text_projection, walk_text(tower, *inputs))


@torch.no_grad()
def test_hooks_stand_before_and_after_the_blocks(tiny_clip):
    """Deep tokens as in AnomalyCLIP and adapters as in AA-CLIP, against open_clip's own blocks with hooks."""
    clip = tiny_clip()
    tower, tokens = clip.text_tower, clip.tokenize(SENTENCES)
    deep = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    seen = []

    def before(number, x):
        seen.append(("before", number))
        return torch.cat([x[:, :1], deep.expand(len(x), -1, -1), x[:, 3:]], dim=1) if number == 2 else x

    def after(number, x):
        seen.append(("after", number))
        return 0.9 * x + 0.1 * x.flip(-1) if number == 1 else x

    first, second = tower.transformer.resblocks
    handles = [
        first.register_forward_hook(lambda _, __, output: after(1, output)),
        second.register_forward_pre_hook(lambda _, inputs: (before(2, inputs[0]), *inputs[1:])),
    ]
    try:
        expected = clip.model.encode_text(tokens)
    finally:
        for handle in handles:
            handle.remove()
    seen.clear()
    inputs = embed_tokens(tower, tokens)
    actual = walk_text(tower, *inputs, before_block=before, after_block=after)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
    assert seen == [("before", 1), ("after", 1), ("before", 2), ("after", 2)]
    assert (actual - walk_text(tower, *inputs)).abs().max() > 1e-2
    unchanged = walk_text(tower, *inputs, before_block=lambda _, x: x, after_block=lambda _, x: x)
    assert torch.equal(unchanged, walk_text(tower, *inputs))


def test_gradients_reach_learned_tokens_and_checkpointing_gives_the_same(tiny_clip):
    clip = tiny_clip()
    tower = clip.text_tower

    def gradient(**choices) -> torch.Tensor:
        learned = nn.Parameter(torch.randn(1, 3, 64, generator=torch.Generator().manual_seed(0)))
        embeddings, ends = embed_tokens(tower, clip.tokenize(SENTENCES))
        embeddings = torch.cat([embeddings[:, :1], learned.expand(3, -1, -1), embeddings[:, 1:]], dim=1)
        walk_text(tower, embeddings, ends + 3, **choices).square().sum().backward()
        return learned.grad

    plain = gradient()
    assert plain.abs().max() > 0
    assert all(parameter.grad is None for parameter in tower.parameters())
    torch.testing.assert_close(gradient(checkpointing=True), plain, atol=0, rtol=1e-6)


@torch.no_grad()
def test_what_stands_behind_the_end_has_no_influence(tiny_clip):
    tower = tiny_clip().text_tower
    embeddings, ends = embed_tokens(tower, tiny_clip().tokenize(SENTENCES))
    expected = walk_text(tower, embeddings, ends)
    embeddings[1, int(ends[1]) + 1 :] = 100.0
    torch.testing.assert_close(walk_text(tower, embeddings, ends), expected, atol=1e-5, rtol=0)


def test_a_tower_is_walked_only_if_it_is_read_at_its_end_of_text_token(tiny_clip):
    for name in ("tiny", "tiny-custom-text", *TEXT_VARIANTS):
        assert is_causal_tower(tiny_clip(name).text_tower) is (name in ("tiny", "tiny-custom-text", "tiny-text-bias")), name
    for setting, value in (("use_pad_mask", True), ("pool_type", "first"), ("pool_type", "eos"), ("attn_mask", None)):
        tower = copy.copy(tiny_clip("tiny-custom-text").text_tower)
        setattr(tower, setting, value)
        assert not is_causal_tower(tower), setting
