"""Collect a pool, have its images score each other, and say what can be seen without labels."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from anomalib.data import InferenceBatch

from anoclip_anomalib.mutual.pool import FeaturePool
from anoclip_anomalib.mutual.scoring import rescored, two_groups
from anoclip_anomalib.mutual.torch_model import MutualModel
from anoclip_anomalib.zeroshot.features import Features

logger = logging.getLogger(__name__)

_CLEAR = 0.8
"""Share of the variance between two groups from which they count as two; one group of uniform scores has 0.75."""


class Scored(NamedTuple):
    """A pool whose images have scored each other.

    Attributes:
        patches: (N, T, L) patch scores.
        images: (N,) image scores.
        shape: Grid and tiles of the images, without tokens.
    """

    patches: torch.Tensor
    images: torch.Tensor
    shape: Features

    def of(self, chosen: list[int]) -> InferenceBatch:
        """Scores and maps of some images, of which only the patches are kept."""
        return MutualModel.as_batch(self.patches[chosen], self.images[chosen], self.shape)


def score_pool(
    model: MutualModel,
    count: int,
    encode: Callable[[Callable[[Features], None]], None],
    *,
    subsets: int = 1,
    budget: int = 4 << 30,
    folder: str | Path | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
    save: str | Path | None = None,
) -> Scored:
    """Collect the features of N images and score them.

    Args:
        model: The method.
        count: N.
        encode: Called with a function that it hands the features of each batch.
        subsets: See :class:`anoclip_anomalib.mutual.lightning_model.MutualClip`.
        budget: In bytes, see :class:`anoclip_anomalib.mutual.pool.FeaturePool`.
        folder: See there.
        device: Where distances are computed.
        progress: Whether to show a bar.
        save: File to write the pool to.

    Raises:
        ValueError: See :class:`anoclip_anomalib.mutual.pool.FeaturePool`.
    """
    pool = FeaturePool(count, budget, folder)
    layouts: list[Features] = []
    texts: list[list[torch.Tensor]] = []

    def add(features: Features) -> None:
        pool.add(features)
        if model.with_text:
            texts.append([scores.float().cpu() for scores in model.text_scores(features)])
        if not layouts:
            layouts.append(features._replace(class_tokens=torch.empty(0), patch_tokens=torch.empty(0), levels=None))

    try:
        encode(add)
        patches = pool.patch_scores(
            model.neighbourhoods, lowest=model.lowest, subsets=subsets, device=device, progress=progress
        )
        shape = layouts[0]
        text, scales = None, torch.empty(0)
        if texts:
            text = (torch.cat([patch for patch, _ in texts]), torch.cat([image for _, image in texts]))
            scales = model.scales_of(patches, text, shape)
        fused, images = model.fused(patches, text, shape, scales)
        tell_what_is_seen(images)
        final = rescored(images, torch.cat(pool.class_tokens), model.similar).float()
        if save is not None:
            model.save_pool(save, pool, images, scales)
    finally:
        pool.close()
    return Scored(fused, final, shape)


def tell_what_is_seen(images: torch.Tensor) -> None:
    """Log how the images' scores are distributed, and warn where the pool may mislead.

    Args:
        images: (N,) image scores.
    """
    share, upper = two_groups(images)
    total = len(images)
    seen = f"{total} images scored each other; {upper} have few relatives ({share:.0%} of the variance lies between the two)"
    logger.info("%s%s", seen, ": no clear division into good and bad ones is to be seen" if share < _CLEAR else "")
    if (share >= _CLEAR and 2 * upper > total) or total < 10:
        logger.warning(
            "Mutual scoring takes for normal what most images share. Of these %d images %d look unlike the others: if most of "
            "them are defective, or they are this few, trust the order of the scores only with a look at the pictures, or give "
            "good images (AnoClip with normal_images)",
            total,
            upper,
        )
