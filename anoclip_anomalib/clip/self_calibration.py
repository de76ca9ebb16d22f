"""Self-calibrated patch features (SC-CLIP, arXiv 2411.15869): each step a pure function, for any batch and grid.

The last block's attention is replaced by one that follows the similarity of middle blocks' patches, and features are averaged
over similar patches. An outlier here is a token of the transformer that differs from all its relatives, no defect, but a
small defect is one too: resolving outliers would remove it, and is off unless asked for.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from anoclip_anomalib.clip.blocks import attention_output, own_precision
from anoclip_anomalib.clip.local_attention import Heads

Outliers = Literal["lof", "norm"]
NEIGHBOURS = 30
SHARE = 0.05
LARGEST = 10
BETA = 0.4
TEMPERATURE = 3.0
SELF_CALIBRATED = "self-calibrated"
CHOICES: dict[str, Outliers | None] = {
    SELF_CALIBRATED: None,
    f"{SELF_CALIBRATED}-lof": "lof",
    f"{SELF_CALIBRATED}-norm": "norm",
}
"""Names of local attentions; the last two resolve outliers as the authors' latest and first code do."""


@dataclass(frozen=True)
class SelfCalibration:
    """Which blocks, counted from 1, take part.

    Attributes:
        pre: Whose patches tell what is similar, before the last block.
        post: Whose patches tell it behind the last block.
        first: First of the blocks that are fused.
        last: Last of them.
        class_weight: Of the class token that is added to every patch.
        outliers: How outliers are found that are resolved; ``None`` for not at all.
    """

    pre: int
    post: int
    first: int
    last: int
    class_weight: float
    outliers: Outliers | None = None

    @classmethod
    def of_depth(cls, blocks: int, outliers: Outliers | None = None) -> "SelfCalibration":
        """The authors' blocks of ViT-B/16 (12) and ViT-L/14 (24), and relative ones of other depths.

        Raises:
            ValueError: If there is no block before the last.
        """
        if blocks < 2:
            raise ValueError(f"Self-calibration reads blocks before the last; this encoder has {blocks}")
        share = min(max((blocks - 12) / 12, 0.0), 1.0)
        chosen = [small / 12 + share * (large / 24 - small / 12) for small, large in ((9, 17), (4, 7), (4, 9), (10, 19))]
        pre, post, first, last = (min(max(1, round(blocks * one)), blocks - 1) for one in chosen)
        return cls(pre, post, first, last, 0.3 - 0.2 * share, outliers)

    def blocks_read(self, depth: int) -> tuple[int, ...]:
        """The blocks whose tokens :func:`self_calibrated_patches` takes."""
        return tuple(sorted({self.pre, self.post, depth - 1, *range(self.first, self.last + 1)}))


def local_outlier_factor(tokens: torch.Tensor, neighbours: int = NEIGHBOURS) -> torch.Tensor:
    """How much farther a token's neighbours are than theirs (with the token's own reach, as the authors' code has it).

    ``mean over the neighbours j of d(i) / d(j)``, d the squared distance to the last of the nearest neighbours.

    Args:
        tokens: (B, N, C).
        neighbours: How many count, without the token itself; of fewer tokens all others.

    Returns:
        (B, N), about 1 for ordinary tokens.
    """
    tokens = tokens.float()
    squared = torch.cdist(tokens, tokens, compute_mode="use_mm_for_euclid_dist").square()
    count = min(neighbours, tokens.shape[1] - 1)
    nearest = squared.topk(count + 1, dim=-1, largest=False)
    reach = nearest.values[..., -1]
    others = reach.gather(1, nearest.indices[..., 1:].flatten(1)).view_as(nearest.indices[..., 1:])
    return (reach.unsqueeze(-1) / others.clamp_min(1e-12)).mean(dim=-1)


def outlier_tokens(tokens: torch.Tensor, kind: Outliers) -> torch.Tensor:
    """Which tokens are outliers: (B, N, C) -> (B, N) booleans.

    ``"lof"``: those above the 95 % quantile of :func:`local_outlier_factor`, always about 5 %. ``"norm"``: the ten longest.
    """
    if kind == "norm":
        length = torch.linalg.vector_norm(tokens.float(), dim=-1)
        chosen = length.topk(min(LARGEST, length.shape[1]), dim=-1).indices
        return torch.zeros_like(length, dtype=torch.bool).scatter(1, chosen, value=True)
    factor = local_outlier_factor(tokens)
    return factor > factor.quantile(1 - SHARE, dim=-1, keepdim=True)


def resolve_outliers(tokens: torch.Tensor, outliers: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Replace outliers by the mean of the ordinary tokens among their eight neighbours; without any they stay.

    Args:
        tokens: (B, h * w, C).
        outliers: (B, h * w) booleans.
        grid: (h, w).

    Returns:
        (B, h * w, C).
    """
    ordinary = (~outliers).to(tokens.dtype).unsqueeze(-1)
    window = torch.ones(3, 3, dtype=tokens.dtype, device=tokens.device)
    window[1, 1] = 0

    def around(values: torch.Tensor) -> torch.Tensor:
        maps = values.mT.flatten(0, 1).unflatten(-1, grid).unsqueeze(1)
        return F.conv2d(maps, window[None, None], padding=1).flatten(1).unflatten(0, (len(values), -1)).mT

    count = around(ordinary)
    mean = around(tokens * ordinary) / count.clamp_min(1)
    return torch.where(outliers.unsqueeze(-1) & (count > 0), mean, tokens)


def similarity(tokens: torch.Tensor) -> torch.Tensor:
    """Cosines of all pairs of tokens: (B, N, C) -> (B, N, N)."""
    unit = F.normalize(tokens.float(), dim=-1)
    return unit @ unit.mT


def averaging_weights(cosines: torch.Tensor, beta: float = BETA) -> torch.Tensor:
    """Weights that average over similar tokens: cosines below ``beta`` cut to 0, each row divided by its sum."""
    kept = cosines.where(cosines >= beta, torch.zeros_like(cosines))
    return kept / (kept.sum(dim=-1, keepdim=True) + 1e-6)


def calibrated_weights(cosines: torch.Tensor, k: Heads) -> torch.Tensor:
    """Attention that follows other features' similarity and the block's own keys, half each.

    Args:
        cosines: (B, N, N).
        k: (B, H, N, d) keys of the block.

    Returns:
        (B, H, N, N), rows sum to 1.
    """
    above = cosines - cosines.mean(dim=(1, 2), keepdim=True)
    by_features = (TEMPERATURE * above).masked_fill(above < 0, -torch.inf).softmax(dim=-1).unsqueeze(1)
    by_keys = (k.float() @ k.float().mT * k.shape[-1] ** -0.5).softmax(dim=-1)
    return (by_features + by_keys) / 2


def last_block(block: nn.Module, tokens: torch.Tensor, cosines: torch.Tensor) -> torch.Tensor:
    """The last block with calibrated attention, without residual and MLP: (B, N, C) -> (B, N, C) float32."""
    weight = block.attn.in_proj_weight
    with own_precision(weight):
        return attention_output(block, tokens.to(weight.dtype), lambda q, k, v: calibrated_weights(cosines, k)).float()


def self_calibrated_patches(
    visual: nn.Module, levels: dict[int, torch.Tensor], grid: tuple[int, int], settings: SelfCalibration
) -> torch.Tensor:
    """All steps, from the original stream's tokens to what goes into ``ln_post``.

    Args:
        visual: open_clip's ``VisionTransformer``.
        levels: For each block of :meth:`SelfCalibration.blocks_read` its tokens (B, 1 + h * w, C), the class token first.
        grid: (h, w).
        settings: Which blocks.

    Returns:
        (B, h * w, C) float32.
    """
    blocks = visual.transformer.resblocks
    before_last, pre = levels[len(blocks) - 1].float(), levels[settings.pre][:, 1:].float()
    patches = before_last[:, 1:]
    if settings.outliers is not None:
        outliers = outlier_tokens(patches, settings.outliers)
        patches, pre = (resolve_outliers(one, outliers, grid) for one in (patches, pre))
    cosines = similarity(pre)
    behind = averaging_weights(similarity(levels[settings.post][:, 1:]))
    fused = torch.stack([levels[number].float() for number in range(settings.first, settings.last + 1)]).sum(dim=0)

    def through(tokens: torch.Tensor, class_token: torch.Tensor) -> torch.Tensor:
        return behind @ (last_block(blocks[-1], tokens, cosines) + settings.class_weight * class_token)

    last = through(averaging_weights(cosines) @ patches, before_last[:, :1])
    return last + through(fused[:, 1:], fused[:, :1])
