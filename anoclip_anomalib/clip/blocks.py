"""One residual block of open_clip's transformers, read in (B, L, D) layout.

open_clip changed the layout of its transformers between versions (LND up to 2.26.0, batch-first since), so its forward is
not called: the weights are taken from the modules and the block is computed here. The same functions serve the visual and
the text tower.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

from anoclip_anomalib.clip.local_attention import LocalAttention, attend

Hook: TypeAlias = Callable[[int, torch.Tensor], torch.Tensor]
"""(number of the block, counted from 1; tokens (B, L, D)) -> tokens."""


def apply_hook(hook: Hook | None, number: int, x: torch.Tensor) -> torch.Tensor:
    """The hook's tokens in the dtype of the stream; ``x`` itself without a hook."""
    return x if hook is None else hook(number, x).to(x.dtype)


def check_block(block: nn.Module) -> None:
    """Refuse residual blocks that :func:`project_qkv` and :func:`project_out` would compute wrongly.

    Raises:
        ValueError: If the block's attention is of an unknown kind.
    """
    attention = getattr(block, "attn", None)
    if getattr(attention, "in_proj_weight", None) is None or not hasattr(attention, "out_proj"):
        raise ValueError(
            f"Attention of type {type(attention).__name__} has no joint query-key-value projection and is not supported"
        )
    if getattr(attention, "logit_scale", None) is not None:
        raise ValueError("Blocks with scaled cosine attention are not supported")


def project_qkv(block: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values of a block for its normalised input.

    Args:
        block: A residual attention block of open_clip.
        x: (B, L, D) tokens after the block's ``ln_1``.

    Returns:
        Three tensors (B, H, L, D / H).
    """
    attention = block.attn
    heads = attention.num_heads
    qkv = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    if hasattr(attention, "ln_q"):
        q, k = attention.ln_q(q), attention.ln_k(k)
    return q, k, v


def project_out(block: nn.Module, heads: torch.Tensor) -> torch.Tensor:
    """Merge the heads and apply what the block does to them before the residual addition.

    That is the output projection with its bias, and the head scale, inner norm, attention norm and LayerScale of the
    variants that have them.

    Args:
        block: A residual attention block of open_clip.
        heads: (B, H, L, D / H) attention output.

    Returns:
        (B, L, D) tokens to add to the stream.
    """
    attention = block.attn
    if getattr(attention, "head_scale", None) is not None:
        heads = heads * attention.head_scale
    x = heads.transpose(1, 2).flatten(2)
    if hasattr(attention, "ln_inner"):
        x = attention.ln_inner(x)
    x = attention.out_proj(x)
    if hasattr(block, "ln_attn"):
        x = block.ln_attn(x)
    return block.ls_1(x)


def add_mlp(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The second half of a block: ``x + ls_2(mlp(ln_2(x)))`` on (B, L, D) tokens."""
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def attention_output(block: nn.Module, x: torch.Tensor, attention: LocalAttention) -> torch.Tensor:
    """What another attention would make of tokens in a block, without residual addition and MLP.

    Args:
        block: A residual attention block of open_clip.
        x: (B, L, D) tokens before the block's ``ln_1``.
        attention: A function of the block's queries, keys and values, see :mod:`anoclip_anomalib.clip.local_attention`.

    Returns:
        (B, L, D) tokens behind the output projection.
    """
    q, k, v = project_qkv(block, block.ln_1(x))
    return project_out(block, attend(v, attention(q, k, v)))


def causal_block(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A whole block with causal attention, as in the text tower: (B, L, D) -> (B, L, D)."""
    q, k, v = project_qkv(block, block.ln_1(x))
    x = x + project_out(block, F.scaled_dot_product_attention(q, k, v, is_causal=True))
    return add_mlp(block, x)


def own_precision(weight: torch.Tensor) -> AbstractContextManager:
    """Autocast switched off for a tower that was itself cast to another precision; nothing for a float32 tower.

    A trainer's autocast to bfloat16 around a float16 tower would meet itself in one operation with both.

    Args:
        weight: A weight of the tower.
    """
    if weight.dtype == torch.float32:
        return nullcontext()
    return torch.autocast(weight.device.type, enabled=False)
