"""The attentions that the local path can use, each a pure function of a block's queries, keys and values.

A local attention names the pairs (a, b) whose ``softmax(a b^T / sqrt(d)) v`` are summed. CLIP's own attention, between
queries and keys, is good for the class token and poor for localisation; attention between values lets a patch look at the
patches that carry the same content.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F

Heads: TypeAlias = torch.Tensor
"""(B, H, L, d) queries, keys or values."""
Pairs: TypeAlias = tuple[tuple[Heads, Heads], ...]
LocalAttention: TypeAlias = Callable[[Heads, Heads, Heads], Pairs]


def value_attention(q: Heads, k: Heads, v: Heads) -> Pairs:
    """Value-value attention (AnoCLIP, arXiv 2308.15939, "V-V attention"): softmax(v v^T / sqrt(d)) v."""
    return ((v, v),)


def query_key_attention(q: Heads, k: Heads, v: Heads) -> Pairs:
    """CLIP's own attention in the local path, the baseline: softmax(q k^T / sqrt(d)) v."""
    return ((q, k),)


def self_self_attention(q: Heads, k: Heads, v: Heads) -> Pairs:
    """Sum of query-query, key-key and value-value softmaxes, as relatives of AnoCLIP use it."""
    return ((q, q), (k, k), (v, v))


LOCAL_ATTENTIONS: dict[str, LocalAttention] = {
    "value": value_attention,
    "query-key": query_key_attention,
    "self-self": self_self_attention,
}


def resolve_local_attention(attention: str | LocalAttention) -> LocalAttention:
    """Look up a local attention by name; a function is returned as it is.

    Raises:
        ValueError: If the name is unknown.
    """
    if callable(attention):
        return attention
    if attention not in LOCAL_ATTENTIONS:
        msg = f"Unknown local attention {attention!r}; choose one of {', '.join(map(repr, LOCAL_ATTENTIONS))}"
        raise ValueError(msg)
    return LOCAL_ATTENTIONS[attention]


def attend_both(q: Heads, k: Heads, v: Heads, pairs: Pairs) -> tuple[Heads, Heads]:
    """CLIP's own and the local attention in one call, stacked along the batch.

    Args:
        q: (B, H, L, d) queries.
        k: Keys of the same shape.
        v: Values of the same shape.
        pairs: What the local attention compares, n pairs of (B, H, L, d).

    Returns:
        The original and the local attention output, both (B, H, L, d); the local one is the sum over the pairs.
    """
    queries = torch.cat([q, *(a for a, _ in pairs)])
    keys = torch.cat([k, *(b for _, b in pairs)])
    values = torch.cat([v] * (len(pairs) + 1))
    # Not chunk(): how many chunks there are would depend on the batch size, which an exported graph leaves open.
    original, *local = F.scaled_dot_product_attention(queries, keys, values).unflatten(0, (len(pairs) + 1, -1)).unbind()
    return original, sum(local[1:], start=local[0])
