"""Patch tokens of normal images, and how far the patches of another image are from the nearest of them."""

import torch
import torch.nn.functional as F

from anoclip_anomalib.zeroshot.buffers import FloatBuffers

BLOCK = 16_384
"""References that are compared at once; bounds the memory and has no effect on the result."""


def nearest_distance(tokens: torch.Tensor, references: torch.Tensor, block: int = BLOCK) -> torch.Tensor:
    """How unlike all reference tokens each token is.

    Args:
        tokens: (..., D) patch tokens, any length.
        references: (R, D) patch tokens of normal images, of unit length; R > 0.
        block: References compared at once.

    Returns:
        (...), half of one minus the largest cosine: 0 for a token that a reference image holds too, at most 1.

    Raises:
        ValueError: If there are no references.
    """
    if len(references) == 0:
        msg = "There are no reference patches to compare with"
        raise ValueError(msg)
    unit = F.normalize(tokens.float(), dim=-1)
    nearest = torch.stack([(unit @ part.T).amax(dim=-1) for part in references.split(block)]).amax(dim=0)
    return (1.0 - nearest) / 2.0


def leave_one_out(references: torch.Tensor, block: int = BLOCK) -> torch.Tensor:
    """How far the patches of each normal image are from those of the *other* normal images.

    Args:
        references: (N, L, D) patch tokens of N >= 2 images, of unit length.
        block: See :func:`nearest_distance`.

    Returns:
        (N, L) as :func:`nearest_distance`.

    Raises:
        ValueError: If there are fewer than two images.
    """
    if len(references) < 2:
        msg = f"Leaving one out needs at least two normal images, got {len(references)}"
        raise ValueError(msg)
    others = (torch.cat([references[:index], references[index + 1 :]]).flatten(0, 1) for index in range(len(references)))
    return torch.stack([nearest_distance(one, other, block) for one, other in zip(references, others, strict=True)])


class PatchMemory(FloatBuffers):
    """Remembers the patch tokens of normal images; empty at first.

    Args:
        persistent: Whether checkpoints hold it.

    Attributes:
        patches: (N, L, D) unit vectors in float32: L patches (of all tiles) of each of N images. Empty (0,) before
            :meth:`remember`.
    """

    float_buffers = ("patches",)
    patches: torch.Tensor

    def __init__(self, *, persistent: bool = True) -> None:
        super().__init__()
        self.register_buffer("patches", torch.empty(0), persistent=persistent)

    def __len__(self) -> int:
        """Number of normal images."""
        return len(self.patches)

    def remember(self, patch_tokens: torch.Tensor) -> None:
        """Replace what is remembered.

        Args:
            patch_tokens: (N, ..., D) of N normal images, any length; what lies between is flattened.
        """
        with torch.inference_mode(mode=False):
            tokens = patch_tokens.detach().clone().float()
            self.patches = F.normalize(tokens.flatten(1, -2), dim=-1).to(self.patches.device)

    def forget(self) -> None:
        """Empty the memory."""
        self.patches = self.patches.new_empty(0)

    def forward(self, patch_tokens: torch.Tensor) -> torch.Tensor:
        """Distance of each patch to the nearest remembered one, see :func:`nearest_distance`: (..., D) -> (...)."""
        references = self.patches.reshape(-1, patch_tokens.shape[-1])
        return nearest_distance(patch_tokens, references.to(patch_tokens.device))

    def leave_one_out(self) -> torch.Tensor:
        """(N, L) distances of the normal images to each other, see :func:`leave_one_out`."""
        return leave_one_out(self.patches)
