import math

import open_clip
import pytest
import torch
import torch.nn.functional as F

from anoclip_anomalib.clip import VisualEncoder
from tests.architectures import NEW_BLOCKS, REFUSED, SUPPORTED, create

TOLERANCE = 1e-5
VARIANTS = [*SUPPORTED, *NEW_BLOCKS]


def images_for(visual: torch.nn.Module, count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, *visual.image_size, generator=torch.Generator().manual_seed(0))


def unrolled(model: torch.nn.Module, images: torch.Tensor, kind: str = "value", blocks: int | None = None) -> torch.Tensor:
    """Patch tokens by the brief's formula, one block, image and head at a time, with an explicit softmax."""
    visual = model.visual
    resblocks = visual.transformer.resblocks
    first = len(resblocks) - (len(resblocks) if blocks is None else blocks)
    results = []
    for image in images:
        patches = visual.conv1(image[None]).flatten(2)[0].T
        x = visual.ln_pre(torch.cat([visual.class_embedding[None], patches]) + visual.positional_embedding)
        z = None
        for index, block in enumerate(resblocks):
            u = block.ln_1(x)
            q, k, v = (u @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).chunk(3, dim=-1)
            pairs = {"value": [(v, v)], "query-key": [(q, k)], "self-self": [(q, q), (k, k), (v, v)]}[kind]
            if index >= first:
                z = x if z is None else z
                z = z + attention_output(block, pairs, v)
            x = x + attention_output(block, [(q, k)], v)
            x = x + block.ls_2(block.mlp(block.ln_2(x)))
        results.append(visual.ln_post((x if z is None else z)[1:]) @ visual.proj)
    return torch.stack(results)


def attention_output(block: torch.nn.Module, pairs: list, v: torch.Tensor) -> torch.Tensor:
    heads, width = block.attn.num_heads, v.shape[-1] // block.attn.num_heads
    outputs = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        weights = sum(torch.softmax(a[:, part] @ b[:, part].T / math.sqrt(width), dim=-1) for a, b in pairs)
        outputs.append(weights @ v[:, part])
    return block.ls_1(block.attn.out_proj(torch.cat(outputs, dim=-1)))


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_class_token_equals_encode_image(tiny_clip, name):
    clip = tiny_clip(name)
    images = images_for(clip.model.visual)
    expected = clip.model.encode_image(images)
    encoder = VisualEncoder(clip.model.visual)
    assert expected.std() > 0.1  # a comparison of something
    torch.testing.assert_close(encoder(images).class_token, expected, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(encoder.encode_class_token(images), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["tiny", "tiny-layerscale", "tiny-quickgelu", "tiny-heads", "tiny-patch14"])
@torch.no_grad()
def test_value_tokens_equal_the_unrolled_sum(tiny_clip, name):
    clip = tiny_clip(name)
    images = images_for(clip.model.visual, count=2)
    encoded = VisualEncoder(clip.model.visual)(images)
    torch.testing.assert_close(encoded.patch_tokens, unrolled(clip.model, images), atol=TOLERANCE, rtol=0)
    assert encoded.patch_tokens.shape[1] == encoded.grid[0] * encoded.grid[1]


@pytest.mark.parametrize("kind", ["value", "query-key", "self-self"])
@pytest.mark.parametrize("blocks", [1, 5, 12])
@torch.no_grad()
def test_every_attention_and_depth_equals_the_unrolled_sum(tiny_clip, kind, blocks):
    clip = tiny_clip()
    images = images_for(clip.model.visual, count=1)
    encoded = VisualEncoder(clip.model.visual, local_attention=kind, local_blocks=blocks)(images)
    expected = unrolled(clip.model, images, kind, blocks)
    # Sums over 12 blocks and three softmaxes grow; what counts is the error relative to the tokens.
    torch.testing.assert_close(encoded.patch_tokens, expected, atol=TOLERANCE * max(1.0, float(expected.abs().max())), rtol=0)


@torch.no_grad()
def test_attentions_differ(tiny_clip):
    visual = tiny_clip().model.visual
    images = images_for(visual, count=1)
    tokens = [VisualEncoder(visual, local_attention=kind)(images).patch_tokens for kind in ("value", "query-key", "self-self")]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (tokens[a] - tokens[b]).abs().max() > 0.01


@torch.no_grad()
def test_a_function_serves_as_local_attention(tiny_clip):
    visual = tiny_clip().model.visual
    images = images_for(visual, count=1)
    by_name = VisualEncoder(visual, local_attention="value")(images)
    by_function = VisualEncoder(visual, local_attention=lambda q, k, v: ((v, v),))(images)
    assert torch.equal(by_name.patch_tokens, by_function.patch_tokens)


@pytest.mark.parametrize("name", ["tiny", "tiny-layerscale", "tiny-rectangle", "tiny-custom-blocks"])
@torch.no_grad()
def test_without_local_blocks_the_patches_are_plain_clips_own(tiny_clip, name):
    clip = tiny_clip(name)
    visual = clip.model.visual
    images = images_for(visual)
    visual.output_tokens = True  # open_clip's way to ask for the patches behind ln_post
    try:
        class_token, patches = visual(images)
    finally:
        visual.output_tokens = False
    encoded = VisualEncoder(visual, local_blocks=0)(images)
    torch.testing.assert_close(encoded.patch_tokens, patches @ visual.proj, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(encoded.class_token, class_token, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("name", "size"), [("tiny", 96), ("tiny", 48), ("tiny-patch14", 84), ("tiny", (64, 112))])
@torch.no_grad()
def test_another_image_size_equals_open_clip_made_for_it(tiny_clip, weight_file, name, size):
    resized = open_clip.create_model(name, pretrained=weight_file(name), force_image_size=size).eval()
    images = images_for(resized.visual, count=2)
    encoded = VisualEncoder(tiny_clip(name).model.visual)(images)
    torch.testing.assert_close(encoded.class_token, resized.encode_image(images), atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(encoded.patch_tokens, VisualEncoder(resized.visual)(images).patch_tokens, atol=TOLERANCE, rtol=0)
    assert encoded.grid == tuple(resized.visual.grid_size)


@pytest.mark.parametrize("size", [(96, 96), (64, 64)])
@torch.no_grad()
def test_an_image_is_independent_of_its_neighbours(tiny_clip, size):
    encoder = VisualEncoder(tiny_clip().model.visual)
    images = torch.randn(5, 3, *size, generator=torch.Generator().manual_seed(3))
    together, backwards = encoder(images), encoder(images.flip(0))
    for index in range(5):
        alone = encoder(images[index : index + 1])
        for batch, place in ((together, index), (backwards, 4 - index)):
            torch.testing.assert_close(batch.class_token[place], alone.class_token[0], atol=TOLERANCE, rtol=0)
            torch.testing.assert_close(batch.patch_tokens[place], alone.patch_tokens[0], atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_open_clips_model_is_not_changed(tiny_clip):
    model = tiny_clip().model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modules, images = list(model.modules()), images_for(model.visual)
    expected = model.encode_image(images)
    VisualEncoder(model.visual)(images)
    assert list(model.modules()) == modules
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(model.encode_image(images), expected)


@pytest.mark.parametrize(("precision", "cosine"), [("bfloat16", 0.99), ("float16", 0.9999)])
@torch.no_grad()
def test_half_precision_is_close_and_comes_out_as_float32(tiny_clip, precision, cosine):
    clip = tiny_clip()
    images = images_for(clip.model.visual)
    full = VisualEncoder(clip.model.visual)(images)
    half = VisualEncoder(clip.visual_tower(precision))(images)
    assert half.class_token.dtype == half.patch_tokens.dtype == torch.float32
    for name in ("class_token", "patch_tokens"):
        assert F.cosine_similarity(getattr(full, name), getattr(half, name), dim=-1).min() > cosine
    assert clip.model.visual.conv1.weight.dtype == torch.float32


@torch.no_grad()
def test_casting_or_moving_an_encoder_leaves_the_shared_tower_alone(tiny_clip):
    visual = tiny_clip().model.visual
    images = images_for(visual)
    expected = VisualEncoder(visual)(images)
    cast = VisualEncoder(visual).to(torch.bfloat16)
    cast(images)
    assert cast.visual.conv1.weight.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in visual.parameters()} == {torch.float32}
    moved = VisualEncoder(visual).to("meta")
    assert moved.visual.conv1.weight.is_meta
    assert not any(parameter.is_meta for parameter in visual.parameters())
    own = cast.visual
    assert cast.to(torch.float16).visual is own  # its own copy is not copied again
    same = VisualEncoder(visual).to("cpu", torch.float32)
    assert same.visual is visual  # no copy without need
    assert torch.equal(VisualEncoder(visual)(images).patch_tokens, expected.patch_tokens)


@pytest.mark.parametrize("size", [(60, 64), (64, 63), (0, 64), (8, 8)])
def test_an_image_size_that_is_no_multiple_of_the_patch_size_is_refused(tiny_clip, size):
    encoder = VisualEncoder(tiny_clip().model.visual)
    with pytest.raises(ValueError, match=rf"{size[0]} x {size[1]} is not a multiple of the patch size 16 x 16.*nearest"):
        encoder(torch.zeros(1, 3, *size))


@pytest.mark.parametrize("blocks", [-1, 13])
def test_a_depth_out_of_range_is_refused(tiny_clip, blocks):
    with pytest.raises(ValueError, match="12 blocks"):
        VisualEncoder(tiny_clip().model.visual, local_blocks=blocks)


def test_an_unknown_attention_is_refused(tiny_clip):
    with pytest.raises(ValueError, match=r"'vv'.*'value', 'query-key', 'self-self'"):
        VisualEncoder(tiny_clip().model.visual, local_attention="vv")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tiny-average", "global average pool"),
        ("tiny-no-pool", "class token"),
        ("tiny-attentional", "attentional pooling"),
        ("tiny-attentional-parallel", "attentional pooling"),
        ("tiny-cosine", "scaled cosine attention"),
        ("tiny-resnet", "ModifiedResNet"),
    ],
)
def test_towers_without_a_class_token_are_refused(architectures, name, said):
    assert name in REFUSED
    with pytest.raises(ValueError, match=said):
        VisualEncoder(create(name).visual)


@pytest.mark.parametrize("trunk", ["vit_tiny_patch16_224", "convnext_atto"])
def test_timm_towers_are_refused(trunk):
    tower = open_clip.timm_model.TimmModel(trunk, 32, image_size=64 if trunk.startswith("vit") else 224)
    with pytest.raises(ValueError, match=r"TimmModel around \w+, not a VisionTransformer; supported are open_clip's ViT"):
        VisualEncoder(tower)
