"""Linear projections on the patches behind some blocks, as APRIL-GAN learns them, and AdaCLIP besides its prompts."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from anoclip_anomalib.zeroshot.buffers import FloatWeights


class LinearHeads(FloatWeights):
    """A projection with bias for each tap: raw patch tokens into the joint space.

    Args:
        width: Of the image tower.
        joint: Of the joint space.
        taps: Blocks behind which patches are read, counted from 1 (authors: 6, 12, 18, 24).
    """

    def __init__(self, width: int, joint: int, taps: Sequence[int]) -> None:
        super().__init__()
        self.taps = tuple(taps)
        self.patches = nn.ModuleList([nn.Linear(width, joint) for _ in self.taps])

    def levels(self, tapped: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """For each tap (B, L, width) tokens as they leave the block -> (B, L, joint) unit vectors."""
        return [F.normalize(head(x.float()), dim=-1) for head, x in zip(self.patches, tapped, strict=True)]
