"""Patches of images with several neighbourhoods, and their cosines from one matrix product.

The mean over a neighbourhood is linear: the product of two means is the mean of the products of what they are means of. So
one product of the tokens serves every neighbourhood, and only its entries are summed again.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from anoclip_anomalib.zeroshot.neighbourhoods import jointly_normed, neighbourhood_mean

_WIDE = 256  # width from which, on a CPU, summing the entries is cheaper than another product


class Patches(NamedTuple):
    """M images of L patches, with S neighbourhoods.

    Attributes:
        units: (S, M, L, D) unit vectors.
        tokens: (M, L, D) whose means over the neighbourhoods they are, but for the length.
        scales: (S, M, L) by which a sum over the neighbourhood is brought to length 1.
        sizes: Sides of the neighbourhoods.
        grid: (h, w) of a tile; L is a multiple of h * w.
    """

    units: torch.Tensor
    tokens: torch.Tensor
    scales: torch.Tensor
    sizes: tuple[int, ...]
    grid: tuple[int, int]

    @classmethod
    def of(cls, levels: torch.Tensor, grid: tuple[int, int], sizes: Sequence[int]) -> "Patches":
        """Patches of one depth.

        Args:
            levels: (M, T, h * w, D) of the original stream.
            grid: (h, w).
            sizes: Sides of the neighbourhoods, odd.
        """
        tokens = jointly_normed(levels.flatten(0, 1))
        sums = torch.stack([size**2 * neighbourhood_mean(tokens, grid, size) for size in sizes])
        sums, tokens = sums.unflatten(1, levels.shape[:2]).flatten(2, 3), tokens.unflatten(0, levels.shape[:2]).flatten(1, 2)
        length = sums.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        return cls(sums / length, tokens, 1 / length[..., 0], tuple(sizes), grid)

    def part(self, start: int, stop: int) -> "Patches":
        """Some of the images."""
        cut = slice(start, stop)
        return self._replace(units=self.units[:, cut], tokens=self.tokens[cut], scales=self.scales[:, cut])

    def cosines(self, others: "Patches") -> Iterator[torch.Tensor]:
        """For each neighbourhood the cosines (M, L, M' * L) of these images' patches with those of M' others."""
        if len(self.sizes) == 1:
            yield _product(self.units[0], others.units[0])
            return
        product = _product(self.tokens, others.tokens)
        for size, own, other in zip(self.sizes, self.scales, others.scales, strict=True):
            yield summed_over_neighbourhoods(product, self.grid, size).mul_(own[..., None]).mul_(other.flatten())


def _product(images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    return (images.flatten(0, 1) @ others.flatten(0, 1).T).unflatten(0, images.shape[:2])


def summed_over_neighbourhoods(product: torch.Tensor, grid: tuple[int, int], size: int) -> torch.Tensor:
    """Sum a product of patches with patches over the neighbourhoods of both, nothing beyond the border.

    Args:
        product: (M, L, L'), L and L' multiples of h * w, row by row.
        grid: (h, w).
        size: Side of the neighbourhood, odd.

    Returns:
        (M, L, L'), never the same tensor.
    """
    both = product.unflatten(2, (-1, *grid)).unflatten(1, (-1, *grid))
    for dim in (2, 3, 5, 6):
        count, source = both.shape[dim], both
        both = source.clone()
        for step in range(1, min(size // 2 + 1, count)):
            both.narrow(dim, step, count - step).add_(source.narrow(dim, 0, count - step))
            both.narrow(dim, 0, count - step).add_(source.narrow(dim, step, count - step))
    return both.view(product.shape)


def groups_of_sizes(sizes: Sequence[int], width: int, device: torch.device | str) -> list[tuple[int, ...]]:
    """Which neighbourhoods share a product: all of them where that is faster."""
    together = width >= _WIDE and torch.device(device).type == "cpu"
    return [tuple(sizes)] if together else [(size,) for size in sizes]
