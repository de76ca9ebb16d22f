"""A segmentation loss for sources whose defects are small and whose good images are as many as the bad ones.

The Dice loss of each image alone, as the authors of AA-CLIP take it, is near 1 for every good image unless all of its
pixels are all but certain. On small defects a small network then learns to say "normal" everywhere. Here defective pixels
weigh as much as good ones, whatever their number, the hardest good pixels weigh more, and Dice is taken over the batch.
"""

import torch
import torch.nn.functional as F

HARDEST = 20
"""One in so many pixels of an image counts among its hardest."""
_PATCHES = 3  # of the smoothed map, whose mean decides the verdict on the image


def balanced_segmentation_loss(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in which both kinds of pixels have one weight, and Dice over the batch.

    The terms: mean over the defective images of the mean over their defective pixels; half the mean over all pixels, of good
    ones; half the mean over each image's hardest pixels, of good ones; one minus the Dice coefficient of all pixels.

    Args:
        logits: (B, H, W), above 0 where anomalous is likelier.
        mask: (B, H, W), 1 where anomalous, 0 elsewhere.

    Returns:
        A scalar.
    """
    defect = (F.softplus(-logits) * mask).flatten(1).sum(dim=1)
    count = mask.flatten(1).sum(dim=1)
    bad = count > 0
    found = (defect / count.clamp_min(1))[bad].mean() if bad.any() else logits.sum() * 0
    good = (F.softplus(logits) * (1 - mask)).flatten(1)
    hardest = good.topk(max(1, good.shape[1] // HARDEST), dim=1).values
    probability = logits.sigmoid()
    dice = 1 - (2 * (probability * mask).sum() + 1) / (probability.sum() + mask.sum() + 1)
    return found + (good.mean() + hardest.mean()) / 2 + dice


def peak_loss(grid_logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the verdict that a map's highest places give on an image.

    Args:
        grid_logits: (B, h, w), on the patch grid, smoothed as at test time.
        label: (B,), 1 where anomalous.

    Returns:
        A scalar.
    """
    cells = grid_logits.flatten(1)
    peak = cells.topk(min(_PATCHES, cells.shape[1]), dim=1).values.mean(dim=1)
    return F.binary_cross_entropy_with_logits(peak, label.to(peak.dtype))
