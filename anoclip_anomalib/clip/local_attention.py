"""The attentions that the local path can use, each a pure function of a block's queries, keys and values.

A local attention usually names the pairs (a, b) whose ``softmax(a b^T / sqrt(d)) v`` are summed. CLIP's own attention, between
queries and keys, is good for the class token and poor for localisation; attention between values lets a patch look at the
patches that carry the same content. Where the weights come from elsewhere (another encoder's similarities), it gives the
weights themselves, or the finished output.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F

Heads: TypeAlias = torch.Tensor
"""(B, H, L, d) queries, keys or values."""
Pairs: TypeAlias = tuple[tuple[Heads, Heads], ...]
Weights: TypeAlias = torch.Tensor
"""(B, 1 or H, L, L) what each token (row) takes from the values of the others; not normalised here."""


@dataclass(frozen=True)
class Attended:
    """A local attention's output itself, for what neither pairs nor weights can say.

    Attributes:
        heads: (B, H, L, d).
    """

    heads: Heads


LocalAttention: TypeAlias = Callable[[Heads, Heads, Heads], Pairs | Weights | Attended]


def value_attention(q: Heads, k: Heads, v: Heads) -> Pairs:
    """Value-value attention (AnoCLIP, arXiv 2308.15939, "V-V attention"): softmax(v v^T / sqrt(d)) v."""
    return ((v, v),)


def query_key_attention(q: Heads, k: Heads, v: Heads) -> Pairs:
    """CLIP's own attention in the local path, the baseline: softmax(q k^T / sqrt(d)) v."""
    return ((q, k),)


def self_self_attention(q: Heads, k: Heads, v: Heads) -> Pairs:
    """Sum (not mean) of query-query, key-key and value-value softmaxes, as Crane's E-Attn and other relatives use it."""
    return ((q, q), (k, k), (v, v))


LOCAL_ATTENTIONS: dict[str, LocalAttention] = {
    "value": value_attention,
    "query-key": query_key_attention,
    "self-self": self_self_attention,
}


def resolve_local_attention(attention: str | Weights | LocalAttention) -> LocalAttention:
    """Look up a local attention by name; weights are made a function, and a function is returned as it is.

    Raises:
        ValueError: If the name is unknown.
    """
    if isinstance(attention, torch.Tensor):
        return lambda q, k, v: attention
    if callable(attention):
        return attention
    if attention not in LOCAL_ATTENTIONS:
        raise ValueError(f"Unknown local attention {attention!r}; choose one of {', '.join(map(repr, LOCAL_ATTENTIONS))}")
    return LOCAL_ATTENTIONS[attention]


def attend(v: Heads, chosen: Pairs | Weights | Attended) -> Heads:
    """The output of a local attention.

    Args:
        v: (B, H, L, d) values.
        chosen: What the local attention returned.

    Returns:
        (B, H, L, d); the sum over the pairs, if they are several.

    Raises:
        ValueError: If weights are of another number of tokens.
    """
    if isinstance(chosen, Attended):
        return chosen.heads
    if isinstance(chosen, torch.Tensor):
        if chosen.shape[-1] != v.shape[-2]:
            raise ValueError(
                f"Attention weights of shape {tuple(chosen.shape)} do not fit {v.shape[-2]} tokens; (B, 1 or H, L, L) do, with "
                "the class token and what hooks have added"
            )
        return chosen.to(v.dtype) @ v
    return _sum(_attend_pairs(v, chosen))


def attend_both(q: Heads, k: Heads, v: Heads, chosen: Pairs | Weights | Attended) -> tuple[Heads, Heads]:
    """CLIP's own and the local attention; with pairs in one call, stacked along the batch.

    Args:
        q: (B, H, L, d) queries.
        k: Keys of the same shape.
        v: Values of the same shape.
        chosen: What the local attention returned.

    Returns:
        The original and the local attention output, both (B, H, L, d).
    """
    if not isinstance(chosen, tuple):
        return F.scaled_dot_product_attention(q, k, v), attend(v, chosen)
    original, *local = _attend_pairs(v, ((q, k), *chosen))
    return original, _sum(local)


def _attend_pairs(v: Heads, pairs: Pairs) -> list[Heads]:
    queries, keys = (torch.cat(side) if len(side) > 1 else side[0] for side in zip(*pairs, strict=True))
    values = torch.cat([v] * len(pairs)) if len(pairs) > 1 else v
    # Not chunk(): how many chunks there are would depend on the batch size, which an exported graph leaves open.
    return list(F.scaled_dot_product_attention(queries, keys, values).unflatten(0, (len(pairs), -1)).unbind())


def _sum(parts: list[Heads]) -> Heads:
    return sum(parts[1:], start=parts[0])
