"""Patch features that know their neighbourhood, and distances between them (MuSc, arXiv 2401.16753; PatchCore before it)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

_NEAR = 0.03  # distances below which the cosine form is not exact enough


def quarter_depths(blocks: int) -> tuple[int, ...]:
    """The blocks at the quarters of an encoder's depth, counted from 1: 3, 6, 9, 12 of 12, and 6, 12, 18, 24 of 24."""
    return tuple(sorted({max(1, round(blocks * quarter / 4)) for quarter in (1, 2, 3, 4)}))


def check_neighbourhoods(sizes: Sequence[int]) -> tuple[int, ...]:
    """The sides of neighbourhoods, if they can be used.

    Raises:
        ValueError: If there is none, or one is not an odd number of at least 1.
    """
    for size in sizes:
        if size < 1 or size % 2 == 0:
            raise ValueError(f"Neighbourhood {size} must be an odd number of patches, 1 for the patch alone")
    if not sizes:
        raise ValueError("At least one neighbourhood is needed, 1 for the patch alone")
    return tuple(sizes)


def jointly_normed(tokens: torch.Tensor) -> torch.Tensor:
    """Tokens (B, L, D) in float32 with one mean and one variance for all patches and channels of an image."""
    return F.layer_norm(tokens.float(), tokens.shape[1:])


def neighbourhood_mean(tokens: torch.Tensor, grid: tuple[int, int], size: int) -> torch.Tensor:
    """Tokens (B, h * w, D) averaged over ``size`` x ``size`` patches, with zeros beyond the border and a fixed divisor."""
    if size == 1:
        return tokens
    maps = F.avg_pool2d(tokens.mT.unflatten(2, grid), size, stride=1, padding=size // 2, count_include_pad=True)
    return maps.flatten(2).mT


def feature_sets(levels: torch.Tensor, grid: tuple[int, int], sizes: Sequence[int]) -> torch.Tensor:
    """Unit features of patches at every depth, averaged over every neighbourhood (MuSc's LNAMD, section 3.2).

    An image's tokens are normalised *jointly*, averaged over the neighbourhood, and brought to length 1.

    Args:
        levels: (V, B, ..., h * w, D) tokens behind V blocks, row by row.
        grid: (h, w).
        sizes: Sides of the neighbourhoods in patches, odd; 1 for the patch alone.

    Returns:
        (V * len(sizes), B, ..., h * w, D) float32 unit vectors, all neighbourhoods of a depth one after another.

    Raises:
        ValueError: If a side is not an odd number of at least 1.
    """
    check_neighbourhoods(sizes)
    normed = [jointly_normed(level) for level in levels.flatten(1, -3)]
    sets = [F.normalize(neighbourhood_mean(level, grid, size), dim=-1) for level in normed for size in sizes]
    return torch.stack(sets).unflatten(1, levels.shape[1:-2])


def distance_of_cosine(cosine: torch.Tensor) -> torch.Tensor:
    """Euclidean distance of unit vectors from their cosine: ``sqrt(2 - 2 cos)``, in [0, 2].

    In float32 it is off by up to 5e-4 for vectors that are nearly equal, see :func:`exact_where_near`.
    """
    return (2 - 2 * cosine).clamp_min(0).sqrt()


def exact_where_near(distance: torch.Tensor, queries: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Compute anew, in float64, the few nearest distances whose cosine form is not exact enough.

    Without it these would also depend on how a matrix product was cut into blocks.

    Args:
        distance: (M, P) of each query to the nearest reference of each set; changed in place.
        queries: (P, D) unit vectors.
        references: (M, R, D) unit vectors.

    Returns:
        ``distance``, right to about 1e-5; as it was in an exported graph, which cannot branch on values.
    """
    if torch.compiler.is_compiling() or not (distance < _NEAR).any():
        return distance
    for chosen, row in zip(references, distance, strict=True):
        near = (row < _NEAR).nonzero().flatten()
        if len(near):
            query, reference = queries[near].double(), chosen.double()
            squared = (query**2).sum(dim=1, keepdim=True) + (reference**2).sum(dim=1) - 2 * query @ reference.T
            row[near] = squared.amin(dim=1).clamp_min(0).sqrt().to(row.dtype)
    return distance
