import math
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from anoclip_anomalib.clip import Attended, LocalPath, Tap, VisualEncoder, attention_output, project_tokens, walk_image
from anoclip_anomalib.clip.image_tower import check_visual
from anoclip_anomalib.clip.local_attention import query_key_attention, self_self_attention, value_attention
from tests.architectures import NEW_BLOCKS, REFUSED, SUPPORTED, create

DEPTH = 12
CLOSE = {"atol": 1e-4, "rtol": 1e-5}  # the raw streams have entries of some tens
RAW = {"norm": False, "project": False}
VALUE = LocalPath(attention=value_attention, blocks=5)


def images_for(visual: nn.Module, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, *visual.image_size, generator=torch.Generator().manual_seed(0))


@contextmanager
def recorded(visual: nn.Module, part: str = ""):
    """What goes into and comes out of open_clip's own blocks (or a part of them) while it computes an image embedding."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    blocks = visual.transformer.resblocks
    handles = [
        block.get_submodule(part).register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
        for block in blocks
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


# Taps


@pytest.mark.parametrize("name", ["tiny", "tiny-layerscale", "tiny-quickgelu", "tiny-rectangle", "tiny-no-ln-pre", *NEW_BLOCKS])
@torch.no_grad()
def test_taps_are_what_open_clips_own_blocks_give(tiny_clip, name):
    visual = tiny_clip(name).model.visual
    images = images_for(visual)
    with recorded(visual) as seen:
        expected = visual(images)
    taps = [Tap(block=number, tokens="all", **RAW) for number in (1, 6, 12)]
    (first, middle, last, class_token), grid = walk_image(visual, images, [*taps, Tap(tokens="class")])
    assert grid == tuple(visual.grid_size)
    for tokens, number in ((first, 1), (middle, 6), (last, 12)):
        torch.testing.assert_close(tokens, seen[number - 1][1], **CLOSE)
    torch.testing.assert_close(class_token, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_tap_chooses_tokens_norm_and_projection(tiny_clip):
    visual = tiny_clip().model.visual
    images = images_for(visual)
    everything = walk_image(visual, images, [Tap(block=7, tokens="all", **RAW)])[0][0]
    for norm in (False, True):
        for project in (False, True):
            expected = visual.ln_post(everything) if norm else everything
            expected = expected @ visual.proj if project else expected
            kinds = [Tap(block=7, tokens=kind, norm=norm, project=project) for kind in ("class", "patch", "all")]
            class_token, patches, both = walk_image(visual, images, kinds)[0]
            torch.testing.assert_close(class_token, expected[:, 0])
            torch.testing.assert_close(patches, expected[:, 1:])
            torch.testing.assert_close(both, expected)
            torch.testing.assert_close(project_tokens(visual, everything, norm=norm, project=project), expected)


@torch.no_grad()
def test_the_attended_stream_is_what_the_mlp_is_added_to(tiny_clip):
    visual = tiny_clip("tiny-layerscale").model.visual
    images = images_for(visual)
    with recorded(visual, "ln_2") as seen:
        visual(images)
    tap = walk_image(visual, images, [Tap(block=12, stream="attended", tokens="all", **RAW)])[0][0]
    torch.testing.assert_close(tap, seen[-1][0], **CLOSE)


@torch.no_grad()
def test_local_taps_add_up_block_by_block(tiny_clip):
    visual = tiny_clip().model.visual
    images, blocks = images_for(visual), visual.transformer.resblocks
    numbers = range(8, DEPTH + 1)
    original = [Tap(block=number - 1, tokens="all", **RAW) for number in numbers]
    local = [Tap(block=number, stream="local", tokens="all", **RAW) for number in numbers]
    tokens, _ = walk_image(visual, images, [*original, *local], local=VALUE)
    z = tokens[0]
    for number, x, actual in zip(numbers, tokens[:5], tokens[5:], strict=True):
        z = z + attention_output(blocks[number - 1], x, value_attention)
        torch.testing.assert_close(actual, z, **CLOSE)


@torch.no_grad()
def test_nothing_behind_the_last_tap_is_computed_and_only_the_class_token_where_nothing_else_is_read(tiny_clip):
    visual = tiny_clip().model.visual
    images, patches = images_for(visual), math.prod(visual.grid_size)

    def lengths(*taps: Tap, **choices) -> list[int]:
        with recorded(visual, "mlp") as seen:
            walk_image(visual, images, taps, **choices)
        return [inputs.shape[1] for inputs, _ in seen]

    whole = 1 + patches
    assert lengths(Tap(block=3)) == [whole] * 3
    assert lengths(Tap(tokens="class")) == [whole] * 11 + [1]
    assert lengths(Tap(block=4, tokens="class")) == [whole] * 3 + [1]
    assert lengths(Tap(tokens="class"), Tap(stream="local"), local=VALUE) == [whole] * 11 + [1]
    assert lengths(Tap(tokens="class"), Tap()) == [whole] * 12
    assert lengths(Tap(tokens="class"), after_block=lambda _, x: x) == [whole] * 12  # a hook sees every token
    path = LocalPath(attention=value_attention, blocks=5, with_mlp=True)
    assert lengths(Tap(stream="local"), local=path) == [whole] * 12  # no second stream that nobody reads
    assert lengths(Tap(stream="local"), Tap(tokens="class"), local=path) == [whole] * 16 + [1]


@pytest.mark.parametrize(
    ("tap", "said"),
    [
        (Tap(block=13), "block 13: this walk has it at blocks 1 to 12"),
        (Tap(block=0), "block 0"),
        (Tap(block=7, stream="local"), "blocks 8 to 12"),
        (Tap(stream="queer"), "Unknown choice 'queer' of a tap; choose one of 'original', 'attended', 'local'"),
        (Tap(tokens="none"), "'none'.*'patch', 'class', 'all'"),
    ],
)
def test_a_tap_that_cannot_be_is_refused(tiny_clip, tap, said):
    visual = tiny_clip().model.visual
    with pytest.raises(ValueError, match=said):
        walk_image(visual, images_for(visual), [tap], local=VALUE)
    with pytest.raises(ValueError, match="no block"):
        walk_image(visual, images_for(visual), [Tap(stream="local")])
    for blocks in (0, 13):
        with pytest.raises(ValueError, match=f"last {blocks} blocks.*has 12 blocks"):
            walk_image(visual, images_for(visual), [Tap()], local=LocalPath(attention=value_attention, blocks=blocks))


# Local paths


@torch.no_grad()
def test_weights_and_finished_outputs_equal_pairs(tiny_clip):
    visual = tiny_clip().model.visual
    images = images_for(visual)

    def weights(_q, _k, v):
        return torch.softmax(v @ v.transpose(-1, -2) / math.sqrt(v.shape[-1]), dim=-1)

    attentions = [value_attention, weights, lambda q, k, v: Attended(weights(q, k, v) @ v)]
    for with_mlp in (False, True):
        paths = [LocalPath(attention=attention, blocks=5, with_mlp=with_mlp) for attention in attentions]
        pairs, *others = (walk_image(visual, images, [Tap(stream="local")], local=path)[0][0] for path in paths)
        for other in others:
            torch.testing.assert_close(other, pairs, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_given_weights_serve_all_heads(tiny_clip):
    visual = tiny_clip().model.visual
    images, count = images_for(visual), 1 + math.prod(visual.grid_size)
    mean = torch.full((1, 1, count, count), 1 / count)
    by_tensor = VisualEncoder(visual, local_attention=mean)(images).patch_tokens
    by_output = VisualEncoder(visual, local_attention=lambda q, k, v: Attended(v.mean(dim=2, keepdim=True).expand_as(v)))
    torch.testing.assert_close(by_tensor, by_output(images).patch_tokens, **CLOSE)
    depth, heads = len(visual.transformer.resblocks), visual.transformer.resblocks[0].attn.num_heads
    of_each_head = mean.expand(len(images), heads, count, count)
    for given in (mean, of_each_head):
        (walked,), _ = walk_image(visual, images, [Tap(stream="local")], local=LocalPath(attention=given, blocks=depth))
        torch.testing.assert_close(walked.flatten(1), by_tensor.flatten(1), **CLOSE)
    with pytest.raises(ValueError, match=rf"do not fit {count} tokens"):
        walk_image(visual, images, [Tap(stream="local")], local=LocalPath(attention=mean[..., 1:, 1:], blocks=depth))


@torch.no_grad()
def test_a_local_path_takes_an_attention_by_name(tiny_clip):
    visual = tiny_clip().model.visual
    images, tap = images_for(visual), [Tap(stream="local")]
    by_name, by_function = (
        walk_image(visual, images, tap, local=LocalPath(attention=one, blocks=5))[0][0] for one in ("value", value_attention)
    )
    assert torch.equal(by_name, by_function)
    with pytest.raises(ValueError, match="Unknown local attention 'values'"):
        walk_image(visual, images, tap, local=LocalPath(attention="values", blocks=5))


@torch.no_grad()
def test_attention_over_the_batch_can_be_said(tiny_clip):
    """AA-CLIP's first stage, as its authors ran it: a token attends to its place in the other images."""
    visual = tiny_clip().model.visual

    def over_batch(_q, _k, v):
        v = v.transpose(0, 2)
        return Attended(nn.functional.scaled_dot_product_attention(v, v, v).transpose(0, 2))

    images = images_for(visual, 3)
    path = LocalPath(attention=over_batch, blocks=1)
    one = walk_image(visual, images[:1], [Tap(stream="local")], local=path)[0][0]
    itself = LocalPath(attention=lambda q, k, v: Attended(v), blocks=1)
    torch.testing.assert_close(one, walk_image(visual, images[:1], [Tap(stream="local")], local=itself)[0][0])
    several = walk_image(visual, images, [Tap(stream="local")], local=path)[0][0]
    assert (several[:1] - one).abs().max() > 1e-3


@torch.no_grad()
def test_a_local_path_with_mlp_goes_through_whole_blocks_on_its_own(tiny_clip):
    visual = tiny_clip().model.visual
    images = images_for(visual)
    tokens, _ = walk_image(visual, images, [Tap(block=7, tokens="all", **RAW), Tap()])
    z = tokens[0]
    for block in visual.transformer.resblocks[7:]:
        z = z + attention_output(block, z, value_attention)
        z = z + block.ls_2(block.mlp(block.ln_2(z)))
    path = LocalPath(attention=value_attention, blocks=5, with_mlp=True)
    taps = [Tap(stream="local", tokens="all", **RAW), Tap(tokens="class")]
    (local, class_token), _ = walk_image(visual, images, taps, local=path)
    torch.testing.assert_close(local, z, **CLOSE)
    torch.testing.assert_close(class_token, visual(images), atol=1e-5, rtol=0)
    plain = LocalPath(attention=query_key_attention, blocks=5, with_mlp=True)
    again = walk_image(visual, images, [Tap(stream="local")], local=plain)[0][0]
    torch.testing.assert_close(again, tokens[1], **CLOSE)  # CLIP's own attention gives CLIP's own stream


# Hooks


@torch.no_grad()
def test_hooks_that_change_nothing_change_nothing(tiny_clip):
    visual = tiny_clip().model.visual
    images, seen = images_for(visual), []

    def before(number, x):
        seen.append(("before", number, x.shape[1]))
        return x

    def after(number, x):
        seen.append(("after", number, x.shape[1]))
        return x

    taps = [Tap(tokens="class"), Tap(), Tap(stream="local"), Tap(block=3)]
    plain, _ = walk_image(visual, images, taps, local=VALUE)
    hooked, _ = walk_image(visual, images, taps, local=VALUE, before_block=before, after_block=after)
    assert all(torch.equal(a, b) for a, b in zip(plain, hooked, strict=True))
    count = 1 + math.prod(visual.grid_size)
    assert seen == [(kind, number, count) for number in range(1, 13) for kind in ("before", "after")]


@torch.no_grad()
def test_a_hook_after_a_block_is_read_by_its_tap_and_by_the_next_block(tiny_clip):
    """Residual adapters, against open_clip's own blocks with forward hooks."""
    visual = tiny_clip().model.visual
    images = images_for(visual)
    adapters = torch.randn(6, visual.proj.shape[0], generator=torch.Generator().manual_seed(4))

    def adapt(number, x):
        return 0.9 * x + 0.1 * adapters[number - 1] if number <= 6 else x

    blocks = visual.transformer.resblocks
    handles = [
        block.register_forward_hook(lambda _, __, output, number=number: adapt(number, output))
        for number, block in enumerate(blocks, 1)
    ]
    try:
        with recorded(visual) as seen:
            expected = visual(images)
    finally:
        for handle in handles:
            handle.remove()
    taps = [Tap(block=6, tokens="all", **RAW), Tap(tokens="all", **RAW), Tap(tokens="class")]
    (sixth, last, class_token), _ = walk_image(visual, images, taps, after_block=adapt)
    torch.testing.assert_close(sixth, seen[5][1], **CLOSE)
    torch.testing.assert_close(last, seen[11][1], **CLOSE)
    torch.testing.assert_close(class_token, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_prompt_tokens_may_be_appended_and_replaced(tiny_clip):
    """Deep visual prompts as in AdaCLIP: 5 tokens behind the patches, other ones at blocks 2 to 4, then left alone."""
    visual = tiny_clip().model.visual
    images, count = images_for(visual), math.prod(visual.grid_size)
    prompts = torch.randn(4, 2, 5, 64, generator=torch.Generator().manual_seed(4))

    def prompt(number, x):
        return torch.cat([x[:, : 1 + count], prompts[number - 1]], dim=1) if number <= 4 else x

    with recorded(visual) as seen:
        visual(images)
    x, states = seen[0][0], []
    for number, block in enumerate(visual.transformer.resblocks, 1):
        x = block(prompt(number, x))
        states.append(x)
    taps = [Tap(block=6, **RAW), Tap(**RAW), Tap(tokens="class", **RAW), Tap(stream="local", **RAW)]
    (sixth, last, class_token, local), _ = walk_image(visual, images, taps, local=VALUE, before_block=prompt)
    torch.testing.assert_close(sixth, states[5][:, 1 : 1 + count], **CLOSE)
    torch.testing.assert_close(last, states[11][:, 1 : 1 + count], **CLOSE)
    torch.testing.assert_close(class_token, states[11][:, 0], **CLOSE)
    assert local.shape == last.shape
    # Tokens that come while the local path is under way stay out of its sum.
    late = walk_image(
        visual, images, taps, local=VALUE, before_block=lambda n, x: torch.cat([x, prompts[0]], dim=1) if n == 9 else x
    )[0]
    assert [tokens.shape for tokens in late] == [sixth.shape, last.shape, class_token.shape, local.shape]


@pytest.mark.parametrize("place", ["before_block", "after_block"])
def test_a_hook_that_takes_patches_away_is_named(tiny_clip, place):
    visual = tiny_clip().model.visual
    with pytest.raises(ValueError, match=r"left 16 tokens at block 1; the class token and 16 patches must stay"):
        walk_image(visual, images_for(visual), [Tap()], **{place: lambda _, x: x[:, 1:]})


# Gradients


@pytest.mark.parametrize("local", [None, VALUE, LocalPath(attention=self_self_attention, blocks=3, with_mlp=True)])
def test_gradients_reach_the_hooks_alone_and_checkpointing_gives_the_same(tiny_clip, local):
    visual = tiny_clip().model.visual
    images = images_for(visual)
    taps = [Tap(block=6), Tap(tokens="class"), *([Tap(stream="local")] if local else [])]

    def gradients(**choices) -> list[torch.Tensor]:
        torch.manual_seed(0)
        adapter, prompt = nn.Linear(64, 64), nn.Parameter(torch.randn(1, 2, 64))
        tokens, _ = walk_image(
            visual,
            images,
            taps,
            local=local,
            before_block=lambda n, x: torch.cat([x, prompt.expand(len(x), -1, -1)], dim=1) if n == 1 else x,
            after_block=lambda n, x: x + 0.1 * adapter(x) if n <= 3 else x,
            **choices,
        )
        sum(part.square().mean() for part in tokens).backward()
        return [adapter.weight.grad, adapter.bias.grad, prompt.grad]

    plain = gradients()
    assert all(gradient.abs().max() > 0 for gradient in plain)
    assert all(parameter.grad is None for parameter in visual.parameters())
    with recorded(visual, "mlp") as seen:
        checkpointed = gradients(checkpointing=True)
    assert len(seen) > DEPTH + (local.blocks if local and local.with_mlp else 0)  # blocks were computed again
    for a, b in zip(plain, checkpointed, strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=1e-6)


# What can be walked


def test_towers_with_a_class_token_are_taken_and_others_refused(architectures):
    for name in ("tiny", "tiny-no-ln-pre", "tiny-final-ln"):
        assert name in SUPPORTED
        check_visual(create(name).visual)
    for name in REFUSED:
        with pytest.raises(ValueError, match="supported"):
            check_visual(create(name).visual)


# Precision


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_a_trainers_autocast_does_not_meet_a_tower_of_another_precision(tiny_clip, precision, autocast):
    visual = tiny_clip().visual_tower(precision)
    encoder, images = VisualEncoder(visual), images_for(visual)
    without = encoder(images)
    with torch.autocast("cpu", autocast):
        encoded, class_token = encoder(images), encoder.encode_class_token(images)
    for name in ("class_token", "patch_tokens"):
        a, b = getattr(encoded, name), getattr(without, name)
        assert a.dtype == torch.float32
        assert torch.equal(a, b) is (precision != "float32")  # only a float32 tower is the trainer's to cast
        assert torch.cosine_similarity(a, b, dim=-1).min() > 0.99
    assert torch.cosine_similarity(class_token, without.class_token, dim=-1).min() > 0.99


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("precision", ["float32", "float16"])
@torch.no_grad()
def test_a_true_half_or_double_trainer_casts_the_encoder(tiny_clip, dtype, precision):
    clip = tiny_clip()
    images = images_for(clip.model.visual)
    expected = VisualEncoder(clip.model.visual)(images)
    encoder = VisualEncoder(clip.visual_tower(precision)).to(dtype)
    torch.set_default_dtype(dtype)
    try:
        encoded = encoder(images.to(dtype))
    finally:
        torch.set_default_dtype(torch.float32)
    assert encoded.patch_tokens.dtype == torch.float32
    assert torch.cosine_similarity(encoded.patch_tokens, expected.patch_tokens, dim=-1).min() > 0.99


@torch.no_grad()
def test_a_hook_in_float32_serves_a_tower_in_half_precision(tiny_clip):
    visual = tiny_clip().visual_tower("bfloat16")
    adapter = nn.Linear(64, 64)
    tokens, _ = walk_image(visual, images_for(visual), [Tap()], after_block=lambda _, x: x + 0.1 * adapter(x.float()))
    assert tokens[0].isfinite().all()
