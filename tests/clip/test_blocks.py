import math

import pytest
import torch

from anoclip_anomalib.clip import attention_output
from anoclip_anomalib.clip.blocks import apply_hook, causal_block, own_precision
from tests.architectures import NEW_BLOCKS


@pytest.mark.parametrize("name", ["tiny", "tiny-layerscale", "tiny-quickgelu", "tiny-heads", *NEW_BLOCKS])
@torch.no_grad()
def test_a_causal_block_is_the_text_towers_own(tiny_clip, name):
    model, seen = tiny_clip(name).model, []
    blocks = model.transformer.resblocks
    handles = [block.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output))) for block in blocks]
    try:
        model.encode_text(tiny_clip(name).tokenize(["a flawless bottle", "x"]))
    finally:
        for handle in handles:
            handle.remove()
    for block, (x, expected) in zip(blocks, seen, strict=True):
        if len(x) != 2:  # older versions have the tokens first
            x, expected = x.transpose(0, 1), expected.transpose(0, 1)
        torch.testing.assert_close(causal_block(block, x), expected, atol=1e-5, rtol=1e-5)


def test_a_hook_gives_tokens_in_the_dtype_of_the_stream():
    x = torch.ones(1, 2, 3, dtype=torch.bfloat16)
    assert apply_hook(None, 1, x) is x
    hooked = apply_hook(lambda number, tokens: tokens.float() * number, 3, x)
    assert torch.equal(hooked, 3 * x)
    assert hooked.dtype == torch.bfloat16


@torch.no_grad()
def test_another_attention_of_one_block_equals_the_formula(tiny_clip):
    block = tiny_clip("tiny-layerscale").model.visual.transformer.resblocks[3]
    x = torch.randn(2, 7, 64, generator=torch.Generator().manual_seed(0))
    v = (
        (block.ln_1(x) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias)[..., 128:]
        .unflatten(-1, (4, 16))
        .transpose(1, 2)
    )
    heads = torch.softmax(v @ v.transpose(-1, -2) / math.sqrt(16), dim=-1) @ v
    expected = block.ls_1(block.attn.out_proj(heads.transpose(1, 2).flatten(2)))
    torch.testing.assert_close(attention_output(block, x, lambda q, k, v: ((v, v),)), expected, atol=1e-5, rtol=1e-5)


def test_autocast_is_switched_off_for_other_precisions_alone():
    for dtype, enabled in ((torch.float32, True), (torch.float16, False), (torch.bfloat16, False), (torch.float64, False)):
        with torch.autocast("cpu", torch.bfloat16), own_precision(torch.ones(1, dtype=dtype)):
            assert torch.is_autocast_enabled("cpu") is enabled
