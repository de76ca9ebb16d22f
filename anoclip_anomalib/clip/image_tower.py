"""One walk through open_clip's ``VisionTransformer``, in (B, L, D), that serves every method.

A method is a choice of arguments: what is read where (:class:`Tap`), a second stream with another attention
(:class:`LocalPath`), and hooks before and after the blocks. The loaded tower is read and never changed. Blocks are counted
from 1, so that block 0 is nowhere and a tap of block 12 is what the 12th block gives.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from anoclip_anomalib.clip.blocks import (
    Hook,
    add_mlp,
    apply_hook,
    attention_output,
    check_block,
    own_precision,
    project_out,
    project_qkv,
)
from anoclip_anomalib.clip.local_attention import LocalAttention, Weights, attend_both, resolve_local_attention
from anoclip_anomalib.clip.patch_embedding import PositionKind, embed_images

SUPPORTED_TOWERS = (
    "supported are open_clip's ViT towers with a class token, such as ViT-B-16-plus-240, ViT-L-14-336 or ViT-H-14"
)
Stream = Literal["original", "attended", "local"]
Tokens = Literal["patch", "class", "all"]


@dataclass(frozen=True, kw_only=True)
class Tap:
    """What is read from the tower.

    Attributes:
        block: Behind which block, counted from 1; ``None`` for the last.
        stream: ``"original"``; ``"attended"``: the original stream between the block's attention and its MLP;
            ``"local"``: the local path.
        tokens: ``"patch"`` gives (B, h * w, D), ``"class"`` (B, D), ``"all"`` the class token and the patches,
            (B, 1 + h * w, D).
        norm: Whether they pass ``ln_post``.
        project: Whether they are projected into the joint image-text space.
    """

    block: int | None = None
    stream: Stream = "original"
    tokens: Tokens = "patch"
    norm: bool = True
    project: bool = True


@dataclass(frozen=True, kw_only=True)
class LocalPath:
    """A second stream, which starts from the original one before the first of the last ``blocks`` blocks.

    Attributes:
        attention: A function, its name, or weights (B, 1 or H, L, L); see :mod:`anoclip_anomalib.clip.local_attention`.
        blocks: How many of the last blocks take part, at least 1.
        with_mlp: ``False``: the stream adds up attention outputs that are computed from the ``ln_1`` of the *original*
            stream (AnoCLIP, AnomalyCLIP, Crane). ``True``: it goes through whole blocks on its own, attention replaced
            (AA-CLIP's first stage).
    """

    attention: str | Weights | LocalAttention
    blocks: int
    with_mlp: bool = False


def walk_image(
    visual: nn.Module,
    images: torch.Tensor,
    taps: Sequence[Tap],
    *,
    local: LocalPath | None = None,
    before_block: Hook | None = None,
    after_block: Hook | None = None,
    position: PositionKind = "bicubic-antialias",
    checkpointing: bool = False,
) -> tuple[list[torch.Tensor], tuple[int, int]]:
    """Walk once through the image tower and read it where it is asked for.

    Nothing behind the last tap is computed; where only the class token is read in the last block, the others are left out.

    Args:
        visual: open_clip's ``VisionTransformer``.
        images: (B, 3, H, W), normalised with CLIP's mean and standard deviation; H and W multiples of the patch size.
        taps: What to read.
        local: The local path, if there is one.
        before_block: (number, tokens) -> tokens of the original stream, before a block. It may change their number: the
            class token stays first and the patches follow it row by row; tokens of the method's own come behind them.
        after_block: (number, tokens) -> tokens of the original stream, behind a block and before its taps.
        position: How the position embedding is fitted to another grid, see
            :func:`anoclip_anomalib.clip.patch_embedding.interpolate_position`.
        checkpointing: Compute each block again in the backward pass instead of keeping its activations.

    Returns:
        For each tap its tokens in float32, not normalised, and the patch grid (h, w).

    Raises:
        ValueError: If H or W is not a multiple of the patch size, a tap or the local path is out of range, or a hook took
            away the patches.
    """
    taps = _checked(visual, taps, local)
    read: dict[int, torch.Tensor] = {}
    with own_precision(visual.conv1.weight):
        x, grid = embed_images(visual, images, position)
        attention = resolve_local_attention(local.attention if local else "value")
        walk = _Walk(visual, taps, local, attention, before_block, after_block, grid[0] * grid[1])
        z = None
        for number in range(1, walk.last + 1):
            again = checkpointing and torch.is_grad_enabled()
            x, attended, z = checkpoint(walk.step, number, x, z, use_reentrant=False) if again else walk.step(number, x, z)
            streams: dict[str, Any] = {"original": x, "attended": attended, "local": z}
            for index, tap in enumerate(taps):
                if tap.block == number:
                    chosen = 0 if tap.tokens == "class" else slice(int(tap.tokens == "patch"), 1 + walk.patches)
                    tokens = streams[tap.stream][:, chosen]
                    read[index] = project_tokens(visual, tokens, norm=tap.norm, project=tap.project)
    return [read[index] for index in range(len(taps))], grid


@dataclass(frozen=True)
class _Walk:
    """What does not change from block to block."""

    visual: nn.Module
    taps: Sequence[Tap]
    local: LocalPath | None
    attention: LocalAttention
    before_block: Hook | None
    after_block: Hook | None
    patches: int

    @property
    def last(self) -> int:
        return max((tap.block or 0 for tap in self.taps), default=0)

    def step(
        self, number: int, x: torch.Tensor, z: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """One block: the original stream behind it, the same before its MLP, and the local stream behind it."""
        blocks = self.visual.transformer.resblocks
        block, local = blocks[number - 1], self.local
        if local is not None and number <= len(blocks) - local.blocks:
            local = None
        x = self._hooked(self.before_block, number, x)
        if local is not None and z is None:
            z = x
        if local is not None and local.with_mlp:
            z = add_mlp(block, z + attention_output(block, z, self.attention))
            local = None
            if not any((tap.block or 0) >= number and tap.stream != "local" for tap in self.taps):
                return x, x, z
        q, k, v = project_qkv(block, block.ln_1(x))
        class_only = self._reads_class_only(number)
        if local is None:
            if class_only:
                q, x = q[:, :, :1], x[:, :1]
            x = x + project_out(block, F.scaled_dot_product_attention(q, k, v))
        else:
            both = torch.cat(attend_both(q, k, v, self.attention(q, k, v)))
            original, added = project_out(block, both).unflatten(0, (2, -1)).unbind()
            x, z = x + original, _common(z, added)
            x = x[:, :1] if class_only else x
        return self._hooked(self.after_block, number, add_mlp(block, x)), x, z

    def _hooked(self, hook: Hook | None, number: int, x: torch.Tensor) -> torch.Tensor:
        x = apply_hook(hook, number, x)
        if hook is not None and x.shape[1] < 1 + self.patches:
            raise ValueError(
                f"A hook left {x.shape[1]} tokens at block {number}; the class token and {self.patches} patches must stay"
            )
        return x

    def _reads_class_only(self, number: int) -> bool:
        """Whether behind the attention of this block nothing but the class token of the original stream is read."""
        here = (tap.tokens for tap in self.taps if tap.block == number and tap.stream != "local")
        return number == self.last and self.after_block is None and all(tokens == "class" for tokens in here)


def _common(z: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    """The sum over the tokens that both have: hooks may have added some to the original stream meanwhile."""
    count = min(z.shape[1], added.shape[1])
    return z[:, :count] + added[:, :count]


def _checked(visual: nn.Module, taps: Sequence[Tap], local: LocalPath | None) -> list[Tap]:
    """The taps with their blocks' numbers, if the tower has them."""
    depth = len(visual.transformer.resblocks)
    if local is not None and not 1 <= local.blocks <= depth:
        raise ValueError(f"A local path over the last {local.blocks} blocks is out of range: this encoder has {depth} blocks")
    taps = [replace(tap, block=depth) if tap.block is None else tap for tap in taps]
    for tap in taps:
        for value, known in ((tap.stream, get_args(Stream)), (tap.tokens, get_args(Tokens))):
            if value not in known:
                raise ValueError(f"Unknown choice {value!r} of a tap; choose one of {', '.join(map(repr, known))}")
        first = 1 if tap.stream != "local" else depth + 1 - (local.blocks if local is not None else 0)
        if not first <= (tap.block or 0) <= depth:
            blocks = f"blocks {first} to {depth}" if first <= depth else "no block"
            raise ValueError(f"No tap of the {tap.stream} stream at block {tap.block}: this walk has it at {blocks}")
    return taps


def project_tokens(visual: nn.Module, tokens: torch.Tensor, *, norm: bool = True, project: bool = True) -> torch.Tensor:
    """Tokens (..., D) as they leave the tower, in float32: through ``ln_post``, and into the joint space if there is one."""
    if norm:
        tokens = visual.ln_post(tokens)
    if project and visual.proj is not None:
        tokens = tokens @ visual.proj
    return tokens.float()


def check_visual(visual: nn.Module) -> None:
    """Refuse image towers that have no class token or are no open_clip ``VisionTransformer``.

    Raises:
        ValueError: Naming what was found and what is supported.
    """
    needed = ("conv1", "class_embedding", "positional_embedding", "transformer", "ln_pre", "ln_post")
    if not all(hasattr(visual, name) for name in needed) or not hasattr(visual.transformer, "resblocks"):
        trunk = getattr(visual, "trunk", None)
        kind = f"{type(visual).__name__} around {type(trunk).__name__}" if trunk is not None else type(visual).__name__
        raise ValueError(f"The image tower is a {kind}, not a VisionTransformer; {SUPPORTED_TOWERS}")
    if getattr(visual, "attn_pool", None) is not None:
        raise ValueError(
            f"The image tower uses attentional pooling, its image embedding is not read from a class token; {SUPPORTED_TOWERS}"
        )
    if getattr(visual, "pool_type", "tok") != "tok" or getattr(visual, "global_average_pool", False):
        raise ValueError(
            f"The image tower averages its patches (global average pool) instead of using a class token; {SUPPORTED_TOWERS}"
        )
    for block in visual.transformer.resblocks:
        check_block(block)
