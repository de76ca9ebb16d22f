import pytest
import torch
import torch.nn.functional as F

from anoclip_anomalib.clip import embed_tokens
from anoclip_anomalib.clip.text_tower import TextTower, walk_text
from anoclip_anomalib.promptlearning.prompt_learner import (
    PromptLearner,
    PromptTrainer,
    embed_prompts,
    half_rounded,
    new_prompt_learner,
    overwrite,
    prompt_sentences,
)

WORDS = "one two three four five six seven eight nine ten one two"


def no_deep(width=64) -> PromptLearner:
    return PromptLearner(width, deep_sets=0)


def words_of(clip, texts) -> torch.Tensor:
    """Embeddings of the first twelve words of sentences."""
    return clip.text_tower.token_embedding(clip.tokenize(texts))[:, 1:13].detach()


def test_tokens_that_are_words_give_what_plain_clip_gives(tiny_clip, tmp_path):
    clip, learner = tiny_clip(), no_deep()
    with torch.no_grad():
        learner.context.copy_(words_of(clip, [f"{WORDS} object.", f"{WORDS} damaged object."]))
        expected = clip.model.encode_text(clip.tokenize([f"{WORDS} object.", f"{WORDS} damaged object."]))
    found = embed_prompts(clip, learner, cache_dir=tmp_path)
    torch.testing.assert_close(found, F.normalize(expected, dim=-1), atol=1e-6, rtol=0)
    torch.testing.assert_close(PromptTrainer(clip, learner)(learner), found, atol=1e-6, rtol=0)


def test_deep_tokens_overwrite_places_1_to_4_before_the_second_block(tiny_clip, learner, tmp_path):
    """The walk of the tower, written out with torch's own attention."""
    clip, own = tiny_clip(), learner("anomalyclip")
    tower = clip.text_tower
    found = embed_prompts(clip, own, cache_dir=tmp_path)
    for kind, ending in enumerate((" object.", " damaged object.")):
        tokens = clip.tokenize([" ".join(["X"] * 12) + ending])
        x = tower.token_embedding(tokens)
        x = torch.cat([x[:, :1], own.context[kind : kind + 1], x[:, 13:]], dim=1) + tower.positional_embedding
        for number, block in enumerate(tower.transformer.resblocks, start=1):
            if number == 2:
                x = torch.cat([x[:, :1], own.deep[0].half().float().unsqueeze(0), x[:, 5:]], dim=1)
            u = block.ln_1(x)
            mask = torch.full((77, 77), -torch.inf).triu(1)
            x = x + block.ls_1(block.attn(u, u, u, need_weights=False, attn_mask=mask)[0])
            x = x + block.ls_2(block.mlp(block.ln_2(x)))
        text = tower.ln_final(x)[0, tokens.argmax()] @ tower.text_projection
        torch.testing.assert_close(found[kind], F.normalize(text, dim=-1), atol=1e-6, rtol=0)


def test_the_rounding_to_half_precision_is_seen(tiny_clip, learner, tmp_path):
    """And has its own place in the cache."""
    clip, own = tiny_clip(), learner("anomalyclip")
    rounded = embed_prompts(clip, own, cache_dir=tmp_path)
    own.rounded = False
    exact = embed_prompts(clip, own, cache_dir=tmp_path)
    assert 1e-7 < float((rounded - exact).abs().max()) < 1e-3
    own.deep.copy_(half_rounded(own.deep))
    torch.testing.assert_close(embed_prompts(clip, own, cache_dir=tmp_path), rounded, atol=1e-6, rtol=0)
    assert len(list(tmp_path.glob("*.safetensors"))) == 6


def test_the_text_cache_is_used(tiny_clip, learner, tmp_path, monkeypatch):
    clip, own = tiny_clip(), learner("crane")
    first = embed_prompts(clip, own, cache_dir=tmp_path)
    monkeypatch.setattr("anoclip_anomalib.clip.text_encoder.embed_tokens", None)
    assert torch.equal(embed_prompts(clip, own, cache_dir=tmp_path), first)


def test_the_image_token_is_one_more_word(architectures, weight_file):
    """Crane's pad suffix: the class token stands behind the context, and the end moves by one."""
    from anoclip_anomalib.clip import load_clip

    clip = load_clip("demo", "random")
    own = new_prompt_learner(clip)
    token = F.normalize(torch.randn(2, 64, generator=torch.Generator().manual_seed(1)), dim=-1)
    with torch.no_grad():
        found = PromptTrainer(clip, own, image_token=True)(own, token)
        wider = PromptLearner(64, context=13, deep_sets=len(own.deep))
        wider.deep.copy_(own.deep)
        for index in range(2):
            wider.context.copy_(torch.cat([own.context, token[index].expand(2, 1, -1)], dim=1))
            torch.testing.assert_close(found[index], PromptTrainer(clip, wider)(wider), atol=1e-6, rtol=0)
    assert not torch.allclose(found[0], found[1])


def test_a_class_token_of_another_width_cannot_be_a_word(tiny_clip, learner):
    with pytest.raises(ValueError, match="class token of tiny has 32 numbers and a token of its text tower 64"):
        PromptTrainer(tiny_clip(), learner("crane"), image_token=True)


def test_gradients_reach_every_learned_token_and_nothing_else(tiny_clip):
    clip = tiny_clip()
    learner = new_prompt_learner(clip)
    PromptTrainer(clip, learner)(learner)[:, 0].sum().backward()
    assert all(float(parameter.grad.abs().sum(dim=-1).min()) > 0 for parameter in learner.parameters())
    assert all(parameter.grad is None for parameter in clip.model.parameters())


def test_sizes_and_initial_values_are_the_authors():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        learner = PromptLearner(768)
    assert sum(parameter.numel() for parameter in learner.parameters()) == 43_008
    assert learner.deep.shape == (8, 4, 768)
    for parameter in learner.parameters():
        assert float(parameter.std()) == pytest.approx(0.02, rel=0.02)


def test_towers_of_few_blocks_get_deep_tokens_in_all_but_the_first(tiny_clip):
    assert new_prompt_learner(tiny_clip()).deep.shape == (1, 4, 64)


def test_text_towers_of_another_kind_are_refused(tiny_clip):
    with pytest.raises(ValueError, match="text tower of tiny-text-not-causal is not CLIP's causal"):
        new_prompt_learner(tiny_clip("tiny-text-not-causal"))


def test_overwriting_keeps_the_rest():
    x = torch.arange(24.0).view(2, 6, 2)
    found = overwrite(x, torch.zeros(2, 2))
    assert torch.equal(found[:, 1:3], torch.zeros(2, 2, 2))
    assert torch.equal(found[:, [0, 3, 4, 5]], x[:, [0, 3, 4, 5]])


def test_a_copied_text_tower_walks_alike(tiny_clip):
    clip = tiny_clip()
    copied = TextTower(clip.text_tower)
    arguments = embed_tokens(clip.text_tower, clip.tokenize(prompt_sentences(3)))
    assert torch.equal(walk_text(copied, *arguments), walk_text(clip.text_tower, *arguments))
    copied.half()
    assert next(clip.model.parameters()).dtype == torch.float32
