"""Buffers of a class or a memory, of any size, and learned weights: in float32 whatever the rest of the model is."""

from collections.abc import Callable

import torch
from torch import nn

TEXT = ("text_embeddings", "prompt_bank")
"""Buffers of what sentences say, wherever there are any."""


class FloatBuffers(nn.Module):
    """A module some of whose buffers keep float32, and take the size that a checkpoint brings.

    Half-precision trainers cast every buffer, but ranks are decided in float32; and a checkpoint brings text embeddings or
    normal patches to a model that may not have any yet.

    Attributes:
        float_buffers: Names of these buffers.
        empty_is_absent: Whether state dicts leave out the empty ones; one that is absent is emptied by loading.
    """

    float_buffers: tuple[str, ...] = ()
    empty_is_absent = False

    def _apply(self, fn: Callable, recurse: bool = True) -> "FloatBuffers":  # noqa: FBT001, FBT002
        kept = {name: getattr(self, name) for name in self.float_buffers}
        super()._apply(fn, recurse)
        for name, full in kept.items():
            moved = getattr(self, name)
            if moved.dtype != full.dtype:
                setattr(self, name, full.to(moved.device))
        return self

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:  # noqa: FBT001
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in self.float_buffers if self.empty_is_absent else ():
            if getattr(self, name).numel() == 0:
                destination.pop(f"{prefix}{name}", None)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args, **kwargs) -> None:
        for name in self.float_buffers:
            saved, own = state_dict.get(f"{prefix}{name}"), getattr(self, name)
            if saved is None and self.empty_is_absent and name not in self._non_persistent_buffers_set:
                setattr(self, name, own.new_empty(0))
                state_dict[f"{prefix}{name}"] = getattr(self, name)
            if saved is not None and saved.shape != own.shape:
                setattr(self, name, torch.empty_like(saved, device=own.device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def image_memories(model: nn.Module) -> set[str]:
    """Names in a model's state dict of what it has kept of images: the buffers that are absent when empty, but for text."""
    return {
        f"{place}.{name}".lstrip(".")
        for place, module in model.named_modules()
        if isinstance(module, FloatBuffers) and module.empty_is_absent
        for name in module.float_buffers
        if name not in TEXT
    }


class FloatWeights(nn.Module):
    """A module whose weights keep float32 where a half-precision trainer casts everything else: ranks are decided here."""

    def _apply(self, fn: Callable, recurse: bool = True) -> "FloatWeights":  # noqa: FBT001, FBT002
        def moved(tensor: torch.Tensor) -> torch.Tensor:
            applied = fn(tensor)
            return applied if applied.dtype == tensor.dtype else tensor.to(applied.device)

        return super()._apply(moved, recurse)
