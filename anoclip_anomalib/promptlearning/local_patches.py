"""What the methods read from the image tower, from a local path or through linear heads; the same in training and test."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from anoclip_anomalib.clip import CLASS_TOKEN, LOCAL_ATTENTIONS, LocalPath, Tap, walk_image
from anoclip_anomalib.promptlearning.hybrid_prompts import HybridLearner, image_hook
from anoclip_anomalib.promptlearning.linear_heads import LinearHeads
from anoclip_anomalib.promptlearning.methods import LOCAL_SHARE, PromptMethod
from anoclip_anomalib.promptlearning.second_encoder import SecondEncoder, SimilarityMean, second_patches, similarity_weights


def local_patches(
    visual: nn.Module,
    images: torch.Tensor,
    method: PromptMethod,
    second: SecondEncoder | None = None,
    *,
    similarity_mean: SimilarityMean = "image",
) -> tuple[list[torch.Tensor], torch.Tensor, tuple[int, int]]:
    """Read images for AnomalyCLIP, Crane and Crane+, in one walk.

    The authors' lists of four taps (6, 12, 18, 24) all name the last state of the local path, which is updated in place: their
    mean is that of one tap. In training their losses are summed, see :mod:`anoclip_anomalib.promptlearning.training`.

    Args:
        visual: CLIP's image tower.
        images: (B, 3, H, W), normalised with CLIP's mean and standard deviation.
        method: Chooses the attention of the local path, the position embedding and the class token.
        second: Crane+'s second encoder.
        similarity_mean: See :func:`similarity_weights`.

    Returns:
        Levels of unit patch features (B, h * w, E), the second encoder's first; unit class tokens (B, E); the grid (h, w).
    """
    assert method.local_attention is not None
    blocks = round(len(visual.transformer.resblocks) * LOCAL_SHARE)
    local = LocalPath(attention=LOCAL_ATTENTIONS[method.local_attention], blocks=blocks)
    taps = [Tap(tokens="class", norm=method.class_norm), Tap(stream="local")]
    if second is not None:
        taps.append(Tap(stream="attended", norm=False, project=False))
    (class_token, patches, *middle), grid = walk_image(visual, images, taps, local=local, position=method.position)
    levels = [patches]
    if second is not None:
        weights = similarity_weights(second(images, grid), similarity_mean)
        levels.insert(0, second_patches(visual, middle[0], weights))
    return [F.normalize(level, dim=-1) for level in levels], F.normalize(class_token, dim=-1), grid


class TappedImages(NamedTuple):
    """Images before the linear heads of APRIL-GAN and AdaCLIP.

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


def tap_images(visual: nn.Module, images: torch.Tensor, method: PromptMethod, heads: LinearHeads) -> TappedImages:
    """Walk through the image tower, for AdaCLIP twice: its prompts are made from what plain CLIP says about the image.

    Args:
        visual: CLIP's image tower.
        images: (B, 3, H, W), normalised with CLIP's mean and standard deviation.
        method: Chooses the position embedding.
        heads: Their taps; AdaCLIP's prompts.
    """
    taps = [*(Tap(block=block, norm=False, project=False) for block in heads.taps), CLASS_TOKEN]
    condition, hook = None, None
    if isinstance(heads, HybridLearner):
        with torch.no_grad():
            (condition,), _ = walk_image(visual, images, (CLASS_TOKEN,), position=method.position)
        hook = image_hook(heads.image_prompts(condition))
    (*tapped, class_token), grid = walk_image(visual, images, taps, before_block=hook, position=method.position)
    return TappedImages(tapped, class_token, condition, grid)
