"""open_clip's vision transformer with a second, local attention path for the patches."""

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import nn

from anoclip_anomalib.clip.image_tower import LocalPath, Tap, check_visual, project_tokens, walk_image
from anoclip_anomalib.clip.local_attention import LocalAttention, Weights, resolve_local_attention
from anoclip_anomalib.clip.patch_embedding import check_image_size, pair
from anoclip_anomalib.clip.self_calibration import CHOICES, SelfCalibration, self_calibrated_patches

CLASS_TOKEN = Tap(tokens="class")


class EncodedImages(NamedTuple):
    """What the visual encoder says about a batch of images, in the joint image-text space, in float32, not normalised.

    Attributes:
        class_token: (B, D) image embedding, equal to ``open_clip_model.encode_image``.
        patch_tokens: (B, h * w, D) patch embeddings of the local path, row by row.
        grid: (h, w), the patches in a column and in a row.
        levels: For each depth that was asked for (B, h * w, W) patches of the original stream as they leave the block, W the
            encoder's width.
    """

    class_token: torch.Tensor
    patch_tokens: torch.Tensor
    grid: tuple[int, int]
    levels: tuple[torch.Tensor, ...] = ()


class VisualEncoder(nn.Module):
    """Encodes images with a loaded open_clip ``VisionTransformer``, which is read and never changed.

    The original path is open_clip's own forward. The local path starts from the original stream before the first of the
    chosen blocks and adds up, block by block, attention outputs that are computed from the ``ln_1`` of the *original* stream;
    it has no MLP:

        u = ln_1(x),  q, k, v = qkv(u)
        x <- x + out(softmax(q k^T / sqrt(d)) v),  x <- x + mlp(ln_2(x))
        z <- z + out(local_attention(q, k, v))

    Patch tokens are ``ln_post(z) @ proj`` (authors' ``open_clip/transformer.py``, where all 12 blocks take part).

    Args:
        visual: open_clip's ``VisionTransformer``.
        local_attention: ``"value"`` (AnoCLIP), ``"query-key"`` (baseline), ``"self-self"``, or a function
            (q, k, v) -> pairs, see :mod:`anoclip_anomalib.clip.local_attention`; ``"self-calibrated"``, with ``-lof`` or
            ``-norm`` if outliers are resolved, has no local path but see :mod:`anoclip_anomalib.clip.self_calibration`.
        local_blocks: How many of the last blocks take part in the local path. ``None`` for all. With 0 there is no local
            path: the patch tokens are plain CLIP's own.

    Raises:
        ValueError: If ``visual`` is not a ``VisionTransformer`` with a class token, or ``local_blocks`` is out of range.
    """

    def __init__(
        self, visual: nn.Module, *, local_attention: str | Weights | LocalAttention = "value", local_blocks: int | None = None
    ) -> None:
        super().__init__()
        check_visual(visual)
        depth = len(visual.transformer.resblocks)
        if local_blocks is not None and not 0 <= local_blocks <= depth:
            raise ValueError(f"local_blocks={local_blocks} is out of range: this encoder has {depth} blocks")
        self.visual, self._shares_visual = visual, True
        self.local_blocks = depth if local_blocks is None else local_blocks
        self.calibration: SelfCalibration | None = None
        self.local: LocalPath | None = None
        if isinstance(local_attention, str) and local_attention in CHOICES:
            self.calibration = SelfCalibration.of_depth(depth, CHOICES[local_attention])
        else:
            attention = resolve_local_attention(local_attention)
            self.local = LocalPath(attention=attention, blocks=self.local_blocks) if self.local_blocks else None

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.visual.transformer.resblocks)

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        return pair(self.visual.patch_size)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width that the encoder was trained with, in pixels."""
        return pair(self.visual.image_size)

    def check_image_size(self, height: int, width: int) -> None:
        """Raise a ``ValueError`` unless the size is a multiple of the patch size."""
        check_image_size(self.visual, height, width)

    def forward(self, images: torch.Tensor, depths: Sequence[int] = ()) -> EncodedImages:
        """Encode images in one walk.

        Args:
            images: (B, 3, H, W), normalised with CLIP's mean and standard deviation; H and W multiples of the patch size.
            depths: Blocks, counted from 1, behind which the original stream's patches are read too.

        Returns:
            Class token, patch tokens, patch grid, and the patches at the depths.

        Raises:
            ValueError: If H or W is not a multiple of the patch size, or a depth is out of range.
        """
        raw = [Tap(block=depth, norm=False, project=False) for depth in depths]
        if self.calibration is not None:
            return self._calibrated(images, raw, self.calibration)
        patches = Tap(stream="local" if self.local is not None else "original")
        read, grid = walk_image(self.visual, images, (CLASS_TOKEN, patches, *raw), local=self.local)
        return EncodedImages(read[0], read[1], grid, tuple(read[2:]))

    def _calibrated(self, images: torch.Tensor, raw: list[Tap], settings: SelfCalibration) -> EncodedImages:
        read = settings.blocks_read(self.depth)
        taps = [Tap(block=number, tokens="all", norm=False, project=False) for number in read]
        (class_token, *found), grid = walk_image(self.visual, images, (CLASS_TOKEN, *taps, *raw))
        tokens = dict(zip(read, found, strict=False))
        patches = self_calibrated_patches(self.visual, tokens, grid, settings)
        patches = project_tokens(self.visual, patches.to(self.visual.ln_post.weight.dtype))
        return EncodedImages(class_token, patches, grid, tuple(found[len(read) :]))

    def encode_class_token(self, images: torch.Tensor) -> torch.Tensor:
        """The image embeddings (B, D) alone, without the cost of the local path; arguments as in :meth:`forward`."""
        (class_token,), _ = walk_image(self.visual, images, (CLASS_TOKEN,))
        return class_token

    def _apply(self, fn: Callable, recurse: bool = True) -> "VisualEncoder":  # noqa: FBT001, FBT002
        # The tower is shared by all models of a process: one that is moved or cast gets its own copy first.
        sample = self.visual.class_embedding.detach()
        applied = fn(sample[:1].clone())
        if self._shares_visual and (applied.dtype, applied.device) != (sample.dtype, sample.device):
            self.visual = copy.deepcopy(self.visual)
            self._shares_visual = False
        return super()._apply(fn, recurse)
