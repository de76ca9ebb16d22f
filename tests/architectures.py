"""Tiny open_clip architectures, as the JSON files that open_clip reads."""

from copy import deepcopy
from pathlib import Path
from typing import Any

_BASE: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 12, "width": 64, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
}


def _with(vision: dict | None = None, text: dict | None = None, **top: object) -> dict[str, Any]:
    config = deepcopy(_BASE)
    config["vision_cfg"].update(vision or {})
    config["text_cfg"].update(text or {})
    return {**config, **top}


_CUSTOM_BLOCK = {"qk_norm": True, "scale_heads": True, "scale_attn_inner": True, "scale_attn": True, "scale_fc": True}

# Image towers that the encoder reads, under every supported version of open_clip.
SUPPORTED = {
    "tiny": _with(),
    "tiny-layerscale": _with({"ls_init_value": 0.3}, {"ls_init_value": 0.3}),
    "tiny-quickgelu": _with(quick_gelu=True),
    "tiny-patch14": _with({"patch_size": 14, "image_size": 56}),
    "tiny-patch8": _with({"patch_size": 8, "image_size": 32, "layers": 3}),
    "tiny-heads": _with({"head_width": 32}, {"heads": 2}),
    "tiny-no-ln-pre": _with({"no_ln_pre": True}),
    "tiny-rectangle": _with({"image_size": [48, 80]}),
    "tiny-final-ln": _with({"final_ln_after_pool": True}),
    "tiny-sin-cos": _with({"pos_embed_type": "sin_cos_2d"}),
    "tiny-patch-dropout": _with({"patch_dropout": 0.5}),
    "tiny-custom-text": _with(custom_text=True),
}
# Blocks that only open_clip 3 has.
NEW_BLOCKS = {
    "tiny-custom-blocks": _with(_CUSTOM_BLOCK, _CUSTOM_BLOCK),
    "tiny-scaled-fc": _with({"block_type": "custom", "scale_fc": True, "ls_init_value": 0.3}),
}
# Text towers that are not read at a causal end-of-text token.
TEXT_VARIANTS = {
    "tiny-text-class-token": _with(text={"embed_cls": True}, custom_text=True),
    "tiny-text-not-causal": _with(text={"no_causal_mask": True}, custom_text=True),
    "tiny-text-last": _with(text={"pool_type": "last"}, custom_text=True),
    "tiny-text-bias": _with(text={"proj_bias": True}, custom_text=True),
}
REFUSED = {
    "tiny-average": _with({"pool_type": "avg"}),
    "tiny-no-pool": _with({"pool_type": "none"}),
    "tiny-attentional": _with({"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 4}),
    "tiny-attentional-parallel": _with({"attentional_pool": "parallel", "attn_pooler_queries": 4, "attn_pooler_heads": 4}),
    "tiny-cosine": _with({"scaled_cosine_attn": True}),
    "tiny-resnet": _with({"layers": [1, 1, 1, 1], "width": 16, "head_width": 16}),
}
ARCHITECTURES = {**SUPPORTED, **NEW_BLOCKS, **TEXT_VARIANTS, **REFUSED}


def create(name: str):  # noqa: ANN201
    """An open_clip model with random weights in which every bias, norm and scale matters, in evaluation mode."""
    import open_clip
    import torch

    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = open_clip.create_model(name).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim <= 1 or key.endswith("head_scale"):
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
            if key.endswith("in_proj_weight"):  # attention that attends: random weights would all but average
                parameter.mul_(3)
    return model


def write_weights(name: str, path: Path) -> None:
    """Save the weights of :func:`create` as .safetensors."""
    from safetensors.torch import save_file

    save_file({key: value.contiguous() for key, value in create(name).state_dict().items()}, path)
