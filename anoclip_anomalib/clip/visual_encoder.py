"""open_clip's vision transformer with a second, local attention path for the patches."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from anoclip_anomalib.clip.blocks import add_mlp, check_block, project_out, project_qkv
from anoclip_anomalib.clip.local_attention import LocalAttention, attend_both, resolve_local_attention

SUPPORTED_TOWERS = (
    "supported are open_clip's ViT towers with a class token, such as ViT-B-16-plus-240, ViT-L-14-336 or ViT-H-14"
)


class EncodedImages(NamedTuple):
    """What the visual encoder says about a batch of images, in the joint image-text space, in float32, not normalised.

    Attributes:
        class_token: (B, D) image embedding, equal to ``open_clip_model.encode_image``.
        patch_tokens: (B, h * w, D) patch embeddings of the local path, row by row.
        grid: (h, w), the patches in a column and in a row.
    """

    class_token: torch.Tensor
    patch_tokens: torch.Tensor
    grid: tuple[int, int]


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
            (q, k, v) -> pairs, see :mod:`anoclip_anomalib.clip.local_attention`.
        local_blocks: How many of the last blocks take part in the local path. ``None`` for all. With 0 there is no local
            path: the patch tokens are plain CLIP's own.

    Raises:
        ValueError: If ``visual`` is not a ``VisionTransformer`` with a class token, or ``local_blocks`` is out of range.
    """

    def __init__(
        self,
        visual: nn.Module,
        *,
        local_attention: str | LocalAttention = "value",
        local_blocks: int | None = None,
    ) -> None:
        super().__init__()
        check_visual(visual)
        depth = len(visual.transformer.resblocks)
        if local_blocks is not None and not 0 <= local_blocks <= depth:
            msg = f"local_blocks={local_blocks} is out of range: this encoder has {depth} blocks"
            raise ValueError(msg)
        self.visual = visual
        self._shares_visual = True
        self.local_attention = resolve_local_attention(local_attention)
        self.local_blocks = depth if local_blocks is None else local_blocks

    @property
    def embed_dim(self) -> int:
        """Dimension D of the joint image-text space."""
        return self.visual.output_dim

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        return _pair(self.visual.patch_size)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width that the encoder was trained with, in pixels."""
        return _pair(self.visual.image_size)

    def check_image_size(self, height: int, width: int) -> None:
        """Raise a ``ValueError`` unless the size is a multiple of the patch size."""
        patch_height, patch_width = self.patch_size
        if height % patch_height or width % patch_width or min(height, width) < 1:
            near = [max(1, round(n / p)) * p for n, p in ((height, patch_height), (width, patch_width))]
            msg = (
                f"Image size {height} x {width} is not a multiple of the patch size {patch_height} x {patch_width}; "
                f"the nearest that is: {near[0]} x {near[1]}"
            )
            raise ValueError(msg)

    def forward(self, images: torch.Tensor) -> EncodedImages:
        """Encode images.

        Args:
            images: (B, 3, H, W), normalised with CLIP's mean and standard deviation; H and W multiples of the patch size.

        Returns:
            Class token, patch tokens and patch grid.

        Raises:
            ValueError: If H or W is not a multiple of the patch size.
        """
        x, grid = self._embed(images)
        blocks = self.visual.transformer.resblocks
        first_local = len(blocks) - self.local_blocks
        z = None
        for index, block in enumerate(blocks):
            q, k, v = project_qkv(block, block.ln_1(x))
            if index < first_local:
                x = x + project_out(block, F.scaled_dot_product_attention(q, k, v))
            else:
                z = x if z is None else z
                attended = torch.cat(attend_both(q, k, v, self.local_attention(q, k, v)))
                original, local = project_out(block, attended).unflatten(0, (2, -1)).unbind()
                x, z = x + original, z + local
            if z is not None and index == len(blocks) - 1:
                x = x[:, :1]  # behind the last attention only the class token is read from the original stream
            x = add_mlp(block, x)
        patches = x if z is None else z
        return EncodedImages(self._project(x[:, 0]), self._project(patches[:, 1:]), grid)

    def encode_class_token(self, images: torch.Tensor) -> torch.Tensor:
        """The image embeddings (B, D) alone, without the cost of the local path; arguments as in :meth:`forward`."""
        x, _ = self._embed(images)
        blocks = self.visual.transformer.resblocks
        for index, block in enumerate(blocks):
            q, k, v = project_qkv(block, block.ln_1(x))
            if index == len(blocks) - 1:
                q, x = q[:, :, :1], x[:, :1]  # nothing but the class token is read
            x = add_mlp(block, x + project_out(block, F.scaled_dot_product_attention(q, k, v)))
        return self._project(x[:, 0])

    def _apply(self, fn: Callable, recurse: bool = True) -> "VisualEncoder":  # noqa: FBT001, FBT002
        # The tower is shared by all models of a process: one that is moved or cast gets its own copy first.
        sample = self.visual.class_embedding.detach()
        applied = fn(sample[:1].clone())
        if self._shares_visual and (applied.dtype, applied.device) != (sample.dtype, sample.device):
            self.visual = copy.deepcopy(self.visual)
            self._shares_visual = False
        return super()._apply(fn, recurse)

    def _embed(self, images: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        visual = self.visual
        self.check_image_size(*images.shape[-2:])
        x = visual.conv1(images.to(visual.conv1.weight.dtype))
        grid = (x.shape[-2], x.shape[-1])
        x = x.flatten(2).transpose(1, 2)
        class_token = visual.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        position = interpolate_position(visual.positional_embedding, _pair(visual.grid_size), grid)
        x = torch.cat([class_token, x], dim=1) + position.to(x.dtype)
        return visual.ln_pre(x), grid

    def _project(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = self.visual.ln_post(tokens)
        if self.visual.proj is not None:
            tokens = tokens @ self.visual.proj
        return tokens.float()


def interpolate_position(embedding: torch.Tensor, native: tuple[int, int], grid: tuple[int, int]) -> torch.Tensor:
    """Fit a position embedding to another patch grid, bicubically with antialiasing, as open_clip does when it loads one.

    Args:
        embedding: (1 + h0 * w0, D), the class token's position first.
        native: (h0, w0), the grid that the embedding was made for.
        grid: (h, w), the grid wanted.

    Returns:
        (1 + h * w, D); ``embedding`` itself if the grids are equal.
    """
    if native == grid:
        return embedding
    class_position, patches = embedding[:1], embedding[1:]
    patches = patches.float().T.unflatten(1, native).unsqueeze(0)
    patches = F.interpolate(patches, size=grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([class_position, patches[0].flatten(1).T.to(embedding.dtype)])


def check_visual(visual: nn.Module) -> None:
    """Refuse image towers that have no class token or are no open_clip ``VisionTransformer``.

    Raises:
        ValueError: Naming what was found and what is supported.
    """
    needed = ("conv1", "class_embedding", "positional_embedding", "transformer", "ln_pre", "ln_post")
    if not all(hasattr(visual, name) for name in needed) or not hasattr(visual.transformer, "resblocks"):
        trunk = getattr(visual, "trunk", None)
        kind = f"{type(visual).__name__} around {type(trunk).__name__}" if trunk is not None else type(visual).__name__
        msg = f"The image tower is a {kind}, not a VisionTransformer; {SUPPORTED_TOWERS}"
        raise ValueError(msg)
    if getattr(visual, "attn_pool", None) is not None:
        msg = (
            f"The image tower uses attentional pooling, its image embedding is not read from a class token; {SUPPORTED_TOWERS}"
        )
        raise ValueError(msg)
    if getattr(visual, "pool_type", "tok") != "tok" or getattr(visual, "global_average_pool", False):
        msg = f"The image tower averages its patches (global average pool) instead of using a class token; {SUPPORTED_TOWERS}"
        raise ValueError(msg)
    for block in visual.transformer.resblocks:
        check_block(block)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
