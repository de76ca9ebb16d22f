"""What APRIL-GAN and AdaCLIP read from images through their linear heads; the same in training and test."""

from typing import NamedTuple

import torch
from torch import nn

from anoclip_anomalib.clip import CLASS_TOKEN, Tap, walk_image
from anoclip_anomalib.promptlearning.hybrid_prompts import HybridLearner, image_hook
from anoclip_anomalib.promptlearning.linear_heads import LinearHeads
from anoclip_anomalib.promptlearning.methods import PromptMethod


class TappedImages(NamedTuple):
    """Images before the linear heads.

    Attributes:
        tapped: For each tap (B, h * w, W) raw patches.
        class_token: (B, E), not normalised.
        condition: (B, E), AdaCLIP's embedding by plain CLIP, not normalised; else ``None``.
        grid: (h, w).
    """

    tapped: list[torch.Tensor]
    class_token: torch.Tensor
    condition: torch.Tensor | None
    grid: tuple[int, int]


def tap_images(
    visual: nn.Module, images: torch.Tensor, method: PromptMethod, heads: LinearHeads, *, checkpointing: bool = False
) -> TappedImages:
    """Walk through the image tower, for AdaCLIP twice: its prompts are made from what plain CLIP says about the image.

    Args:
        visual: CLIP's image tower.
        images: (B, 3, H, W), normalised with CLIP's mean and standard deviation.
        method: Chooses the position embedding.
        heads: Their taps; AdaCLIP's prompts.
        checkpointing: Compute blocks again in the backward pass.
    """
    taps = [*(Tap(block=block, norm=False, project=False) for block in heads.taps), CLASS_TOKEN]
    condition, hook = None, None
    if isinstance(heads, HybridLearner):
        with torch.no_grad():
            (condition,), _ = walk_image(visual, images, (CLASS_TOKEN,), position=method.position)
        hook = image_hook(heads.image_prompts(condition))
    (*tapped, class_token), grid = walk_image(
        visual, images, taps, before_block=hook, position=method.position, checkpointing=checkpointing
    )
    return TappedImages(tapped, class_token, condition, grid)
