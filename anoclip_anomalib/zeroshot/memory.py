"""Patch features of normal images, and how far the patches of another image are from the nearest of them."""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from anoclip_anomalib.zeroshot.buffers import FloatBuffers
from anoclip_anomalib.zeroshot.neighbourhoods import distance_of_cosine

BLOCK = 4096
"""References that are compared at once; bounds the memory and has no effect on the result."""


class Nearest(NamedTuple):
    """The nearest references: their Euclidean distance in [0, 2], off by up to 5e-4 where it is nearly 0, and their index."""

    distance: torch.Tensor
    index: torch.Tensor


def nearest(queries: torch.Tensor, references: torch.Tensor, block: int = BLOCK) -> Nearest:
    """Find the reference that each query is most like.

    Args:
        queries: (..., D) unit vectors.
        references: (R, D) unit vectors; R > 0.
        block: References compared at once.

    Returns:
        (...) and (...).

    Raises:
        ValueError: If there are no references.
    """
    if len(references) == 0:
        raise ValueError("There are no reference patches to compare with")
    flat = queries.reshape(-1, queries.shape[-1])
    cosine, index = (flat @ references[:block].T).max(dim=1)
    for start in range(block, len(references), block):
        other, place = (flat @ references[start : start + block].T).max(dim=1)
        index = torch.where(other > cosine, place + start, index)
        cosine = torch.maximum(cosine, other)
    shape = queries.shape[:-1]
    return Nearest(distance_of_cosine(cosine).view(shape), index.view(shape))


def compare(queries: torch.Tensor, references: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How far the nearest references are, and what was noted of them, averaged over the sets.

    Args:
        queries: (S, ..., D) unit vectors in S sets.
        references: (S, R, D) unit vectors.
        values: (R,) noted of each reference.

    Returns:
        (...) distances and (...) values.
    """
    found = [nearest(own, other) for own, other in zip(queries, references, strict=True)]
    distances, noted = zip(*((one.distance, values[one.index]) for one in found), strict=True)
    return torch.stack(distances).mean(dim=0), torch.stack(noted).mean(dim=0)


def greedy_coreset(patches: torch.Tensor, share: float) -> torch.Tensor:
    """Choose patches that stand for all: each next one is the farthest from those already chosen (PatchCore, section 3.2).

    Without random numbers: the first is the one nearest to the mean, so that every process chooses alike.

    Args:
        patches: (S, R, D) unit vectors; a place is chosen for all S sets together, by its mean squared distance.
        share: Of the R places, in (0, 1].

    Returns:
        (max(1, round(share * R)),) indices.
    """
    count = max(1, round(share * patches.shape[1]))
    joint = patches.transpose(0, 1).flatten(1)
    chosen = [int((joint @ joint.mean(dim=0)).argmax())]
    cosine = joint @ joint[chosen[0]]  # of unit vectors: the larger, the nearer
    while len(chosen) < count:
        chosen.append(int(cosine.argmin()))
        cosine = torch.maximum(cosine, joint @ joint[chosen[-1]])
    return torch.tensor(chosen, device=patches.device)


class PatchMemory(FloatBuffers):
    """Remembers the patch features of normal images; empty at first.

    Args:
        persistent: Whether checkpoints hold it.

    Attributes:
        patches: (S, R, D) unit vectors in float32: R patches of all images, in S sets (depths, neighbourhoods). Empty (0,)
            before :meth:`remember`.
        values: (R,) a number noted of each patch.
    """

    float_buffers = ("patches", "values")
    empty_is_absent = True
    patches: torch.Tensor
    values: torch.Tensor

    def __init__(self, *, persistent: bool = True) -> None:
        super().__init__()
        for name in self.float_buffers:
            self.register_buffer(name, torch.empty(0), persistent=persistent)

    def __len__(self) -> int:
        """Number of patches in a set."""
        return self.patches.shape[1] if self.patches.ndim == 3 else 0

    def remember(self, tokens: torch.Tensor, values: torch.Tensor | None = None) -> None:
        """Replace what is remembered.

        Args:
            tokens: (S, ..., D) in S sets, any length; what lies between is flattened.
            values: (...) to note of each patch; ``None`` for zeros.
        """
        with torch.inference_mode(mode=False):
            device = self.patches.device
            copied = tokens.detach().clone().float()
            self.patches = F.normalize(copied.flatten(1, -2), dim=-1).to(device)
            noted = torch.zeros(len(self)) if values is None else values.detach().clone().float().flatten()
            self.values = noted.to(device)

    def forget(self) -> None:
        """Empty the memory."""
        self.patches, self.values = self.patches.new_empty(0), self.values.new_empty(0)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compare patches with the remembered ones, see :func:`compare`.

        Args:
            tokens: (S, ..., D) in the same sets, any length.

        Returns:
            (...) distances and (...) values of the nearest.

        Raises:
            ValueError: If nothing is remembered.
        """
        if len(self) == 0:
            raise ValueError("There are no reference patches to compare with: no normal images were remembered")
        return compare(F.normalize(tokens.float(), dim=-1), self.patches.to(tokens.device), self.values.to(tokens.device))
