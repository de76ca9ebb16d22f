"""Losses of the methods that learn from masks and labels (AA-CLIP, AnomalyCLIP and relatives). Always in float32."""

import torch


def focal_loss(probability: torch.Tensor, mask: torch.Tensor, *, gamma: float = 2.0, smooth: float = 1e-5) -> torch.Tensor:
    """Focal loss of two classes with smoothed labels, mean over all pixels (alpha 1).

    ``-(1 - p)^gamma log p`` with p the probability of the right class; the one-hot label is clamped to
    ``[smooth, 1 - smooth]``, as the authors of AnomalyCLIP and AA-CLIP have it.

    Args:
        probability: (B, 2, H, W), normal then anomalous, summing to 1.
        mask: (B, H, W), 1 where anomalous, 0 elsewhere.
        gamma: Weight of hard pixels.
        smooth: Of the label.

    Returns:
        A scalar.
    """
    target = torch.stack([1 - mask, mask], dim=1).to(probability.dtype).clamp(smooth, 1 - smooth)
    right = (target * probability).sum(dim=1) + smooth
    return (-((1 - right) ** gamma) * right.log()).mean()


def dice_loss(probability: torch.Tensor, mask: torch.Tensor, *, smooth: float = 1.0) -> torch.Tensor:
    """One minus the Dice coefficient, of each image and then averaged.

    Args:
        probability: (B, H, W) of the class that the mask is about.
        mask: (B, H, W), 1 where that class is.
        smooth: Added to numerator and denominator, so that an empty mask with an empty prediction costs nothing.

    Returns:
        A scalar in [0, 1].
    """
    probability, mask = probability.flatten(1), mask.flatten(1).to(probability.dtype)
    overlap = (probability * mask).sum(dim=1)
    return (1 - (2 * overlap + smooth) / (probability.sum(dim=1) + mask.sum(dim=1) + smooth)).mean()


def segmentation_loss(probability: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Focal loss and the Dice losses of both classes.

    Args:
        probability: (B, 2, H, W), normal then anomalous.
        mask: (B, H, W), 1 where anomalous.
    """
    dice = dice_loss(probability[:, 0], 1 - mask) + dice_loss(probability[:, 1], mask)
    return focal_loss(probability, mask) + dice


def normal_aware_loss(
    feature: torch.Tensor, text: torch.Tensor, label: torch.Tensor, index: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Every normal text of a batch is right for every normal image of it, whatever the class.

    Ours, after the off-diagonal term of OFF-CLIP (MICCAI 2025), whose formula is not public. With the logit ``s_ij`` between
    image i and the text that is right for image j, the mean over i of ``log sum_j exp s_ij - log sum_(j in P_i) exp s_ij``. P_i
    are the normal images if image i is normal, else the anomalous ones of its class: all texts but theirs are wrong for it.

    Args:
        feature: (B, E) of the images.
        text: (2, E), or (B, 2, E) of each image, normal then anomalous.
        label: (B,) 1 where anomalous.
        index: (B,) class of each image.
        temperature: That the products are divided by.

    Returns:
        A scalar, at least 0; 0 for a batch of normal images alone.
    """
    label = label.long()
    own = text.expand(len(label), 2, -1)[torch.arange(len(label), device=label.device), label]
    logits = feature @ own.mT / temperature
    alike = (label[:, None] == label) & ((label[:, None] == 0) | (index[:, None] == index))
    return (logits.logsumexp(dim=1) - logits.masked_fill(~alike, -torch.inf).logsumexp(dim=1)).mean()
