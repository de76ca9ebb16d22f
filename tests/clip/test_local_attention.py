import math

import pytest
import torch

from anoclip_anomalib.clip.local_attention import (
    LOCAL_ATTENTIONS,
    Attended,
    attend,
    attend_both,
    query_key_attention,
    resolve_local_attention,
    self_self_attention,
    value_attention,
)


def heads() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return tuple(torch.randn(3, 2, 4, 7, 8, generator=torch.Generator().manual_seed(1)))  # type: ignore[return-value]


def explicit(a: torch.Tensor, b: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.softmax(a @ b.transpose(-1, -2) / math.sqrt(a.shape[-1]), dim=-1) @ v


@pytest.mark.parametrize("attention", [value_attention, query_key_attention, self_self_attention])
def test_one_call_gives_both_attentions(attention):
    q, k, v = heads()
    pairs = attention(q, k, v)
    original, local = attend_both(q, k, v, pairs)
    torch.testing.assert_close(original, explicit(q, k, v), atol=1e-5, rtol=0)
    torch.testing.assert_close(local, sum(explicit(a, b, v) for a, b in pairs), atol=1e-5, rtol=0)


def test_value_attention_compares_values_and_the_baseline_queries_with_keys():
    q, k, v = heads()
    torch.testing.assert_close(attend_both(q, k, v, value_attention(q, k, v))[1], explicit(v, v, v), atol=1e-5, rtol=0)
    torch.testing.assert_close(attend_both(q, k, v, query_key_attention(q, k, v))[1], explicit(q, k, v), atol=1e-5, rtol=0)
    both = explicit(q, q, v) + explicit(k, k, v) + explicit(v, v, v)
    torch.testing.assert_close(attend_both(q, k, v, self_self_attention(q, k, v))[1], both, atol=1e-5, rtol=0)


def test_weights_and_outputs_stand_beside_clips_own_attention():
    q, k, v = heads()
    weights = torch.softmax(v @ v.transpose(-1, -2) / math.sqrt(8), dim=-1)
    for chosen in (weights, Attended(weights @ v), ((v, v),)):
        original, local = attend_both(q, k, v, chosen)
        torch.testing.assert_close(original, explicit(q, k, v), atol=1e-5, rtol=0)
        torch.testing.assert_close(local, explicit(v, v, v), atol=1e-5, rtol=0)
    half = attend(v.half(), weights)
    torch.testing.assert_close(half, (weights.half().float() @ v.half().float()).half(), atol=1e-3, rtol=1e-2)


def test_names_and_functions_are_resolved():
    for name, function in LOCAL_ATTENTIONS.items():
        assert resolve_local_attention(name) is function
    assert resolve_local_attention(value_attention) is value_attention
    with pytest.raises(ValueError, match="'qq'"):
        resolve_local_attention("qq")
