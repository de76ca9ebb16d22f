"""One walk through open_clip's causal text transformer, in (B, L, D), from token embeddings; twin of the image tower's."""

import copy

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from anoclip_anomalib.clip.blocks import Hook, apply_hook, causal_block, check_block, own_precision


def walk_text(
    tower: nn.Module,
    embeddings: torch.Tensor,
    ends: torch.Tensor,
    *,
    before_block: Hook | None = None,
    after_block: Hook | None = None,
    project: bool = True,
    checkpointing: bool = False,
) -> torch.Tensor:
    """Walk once through the text tower and read each sequence at its end-of-text token.

    Attention is causal: what stands behind a sequence's end has no influence on it.

    Args:
        tower: open_clip's text transformer, see :func:`is_causal_tower`.
        embeddings: (B, L, D) token embeddings without positions, words or learned; L at most the tower's context.
        ends: (B,) where each sequence has its end-of-text token, behind the last block.
        before_block: (number, tokens) -> tokens, before a block, counted from 1; it may overwrite them.
        after_block: (number, tokens) -> tokens, behind a block.
        project: Whether the tower's ``text_projection`` is applied.
        checkpointing: Compute each block again in the backward pass instead of keeping its activations.

    Returns:
        (B, D') text embeddings, not normalised; with ``project`` in the joint image-text space.
    """

    def step(number: int, x: torch.Tensor) -> torch.Tensor:
        x = causal_block(tower.transformer.resblocks[number - 1], apply_hook(before_block, number, x))
        return apply_hook(after_block, number, x)

    with own_precision(tower.positional_embedding):
        x = embeddings.to(tower.positional_embedding.dtype) + tower.positional_embedding[: embeddings.shape[1]]
        for number in range(1, len(tower.transformer.resblocks) + 1):
            again = checkpointing and torch.is_grad_enabled()
            x = checkpoint(step, number, x, use_reentrant=False) if again else step(number, x)
        x = tower.ln_final(x[torch.arange(len(x), device=x.device), ends])
        projection = tower.text_projection if project else None
        if isinstance(projection, nn.Module):
            return projection(x)
        return x if projection is None else x @ projection


def embed_tokens(tower: nn.Module, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What :func:`walk_text` needs to know about tokenised sentences, no longer than the longest of them.

    Args:
        tower: open_clip's text transformer.
        tokens: (B, context) token ids.

    Returns:
        (B, L, D) token embeddings and (B,) the places of the end-of-text tokens.
    """
    ends = tokens.argmax(dim=-1)  # end-of-text has the highest id
    return tower.token_embedding(tokens[:, : int(ends.max()) + 1]), ends


class TextTower(nn.Module):
    """A copy of what :func:`walk_text` reads from a text tower, to be moved and cast with a model.

    Args:
        tower: open_clip's text transformer. The token embedding, its largest part, stays there.
    """

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        for name in ("transformer", "ln_final", "positional_embedding", "text_projection"):
            setattr(self, name, copy.deepcopy(getattr(tower, name)))


def is_causal_tower(tower: nn.Module) -> bool:
    """Whether a text tower is open_clip's causal transformer that is read at its end-of-text token.

    Raises:
        ValueError: If it is, but its attention is of an unknown kind.
    """
    pool = getattr(tower, "text_pool_type", getattr(tower, "pool_type", "argmax"))
    if getattr(tower, "attn_mask", None) is None or not hasattr(tower, "token_embedding") or pool != "argmax":
        return False
    if getattr(tower, "cls_emb", None) is not None or getattr(tower, "use_pad_mask", False):
        return False
    for block in tower.transformer.resblocks:
        check_block(block)
    return True
