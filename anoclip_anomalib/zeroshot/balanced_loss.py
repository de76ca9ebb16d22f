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


def peaks(grid_logits: torch.Tensor) -> torch.Tensor:
    """The verdict (B,) that the highest places of maps (B, h, w) give; on the patch grid, smoothed as at test time."""
    cells = grid_logits.flatten(1)
    return cells.topk(min(_PATCHES, cells.shape[1]), dim=1).values.mean(dim=1)


def peak_loss(grid_logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of :func:`peaks` (B, h, w) with labels (B,), 1 where anomalous."""
    found = peaks(grid_logits)
    return F.binary_cross_entropy_with_logits(found, label.to(found.dtype))


def good_twins(pair: torch.Tensor) -> torch.Tensor:
    """Where in a batch a part as it should be stands, whose next image shows it with a defect.

    Args:
        pair: (B,) number of the pair that an image belongs to, -1 for none.

    Returns:
        (P,) indices; the defective twins are at these plus one.
    """
    return torch.nonzero((pair[1:] == pair[:-1]) & (pair[1:] >= 0)).flatten()


def twin_heat_loss(logits: torch.Tensor, mask: torch.Tensor, good: torch.Tensor) -> torch.Tensor:
    """Heat on good parts where their twins have a defect: what draws the eye there must be the defect itself.

    Args:
        logits: (B, H, W), above 0 where anomalous is likelier.
        mask: (B, H, W), 1 where anomalous.
        good: From :func:`good_twins`.

    Returns:
        A scalar: the mean over pairs of the mean over the defect's pixels; 0 without pairs.
    """
    there = mask[good + 1]
    count = there.flatten(1).sum(dim=1)
    heat = (F.softplus(logits[good]) * there).flatten(1).sum(dim=1) / count.clamp_min(1)
    return heat.sum() / (count > 0).sum().clamp_min(1)


def ranking_loss(verdict: torch.Tensor, good: torch.Tensor) -> torch.Tensor:
    """Logistic loss of the order in each pair: verdicts (B,) are higher on the defective twin; 0 without pairs."""
    return F.softplus(verdict[good] - verdict[good + 1]).sum() / max(len(good), 1)
