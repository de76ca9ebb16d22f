"""Images score each other (MuSc, arXiv 2401.16753): pure functions of a pool's features.

A normal patch has near relatives in most other images of the pool, a defect in few. Nothing is trained and no text is read;
every score depends on the pool.
"""

from collections.abc import Callable, Sequence

import torch

from anoclip_anomalib.zeroshot.neighbourhoods import distance_of_cosine, nearest_distance

LOWEST = 0.3
"""Share of the other images whose distances are averaged, the nearest ones."""

Read = Callable[[int, int], torch.Tensor]
"""(start, stop) -> (stop - start, L, D) features of those images."""


def counted(others: int, lowest: float = LOWEST) -> int:
    """How many of the other images count: ``int(lowest * others)`` as the authors have it, at least one.

    (Their code gives 0 and thus NaN for pools of up to four images.)
    """
    return max(1, int(lowest * others))


def mean_of_lowest(distances: torch.Tensor, count: int) -> torch.Tensor:
    """Mean over the ``count`` smallest of the first dimension: (N, ...) -> (...), in float64."""
    return distances.topk(count, dim=0, largest=False).values.double().mean(dim=0)


def mutual_distances(features: torch.Tensor, block: int = 16, step: Callable[[int], None] | None = None) -> torch.Tensor:
    """Distances of all patches to their nearest relatives in every other image, each pair of images computed once.

    The largest cosines of a block of images along its rows serve the one side, along its columns the other.

    Args:
        features: (N, L, D) unit vectors.
        block: Images on each side of a block; no effect on the result.
        step: Told of the number of images that are done.

    Returns:
        (N, N, L): ``[j, i, p]`` is the distance of patch p of image i to the nearest patch of image j; infinite for j = i.
    """
    images, patches, _ = features.shape
    nearest = features.new_full((images, images, patches), torch.inf)
    for start in range(0, images, block):
        rows = features[start : start + block]
        for other in range(start, images, block):
            columns = features[other : other + block]
            here, there = slice(start, start + len(rows)), slice(other, other + len(columns))
            cosines = (rows.flatten(0, 1) @ columns.flatten(0, 1).T).view(len(rows), patches, len(columns), patches)
            forward = cosines.amax(dim=3).permute(2, 0, 1).flatten(1)  # (columns, rows * L)
            nearest[there, here] = distance_of_cosine(forward, rows.flatten(0, 1), columns).unflatten(1, (-1, patches))
            if other > start:
                backward = cosines.amax(dim=1).flatten(1)  # (rows, columns * L)
                nearest[here, there] = distance_of_cosine(backward, columns.flatten(0, 1), rows).unflatten(1, (-1, patches))
        if step is not None:
            step(len(rows))
    index = torch.arange(images, device=features.device)
    nearest[index, index] = torch.inf
    return nearest


def pool_scores(
    read: Read, images: int, *, lowest: float = LOWEST, block: int = 16, step: Callable[[int], None] | None = None
) -> torch.Tensor:
    """Mutual scores of all patches of a pool that is read block by block.

    Args:
        read: Gives unit features, (start, stop) -> (stop - start, L, D).
        images: N, at least 2.
        lowest: Share of the other images that count.
        block: Images held on each side at a time; memory grows with N * block * L and not with N * N. No effect on the
            result.
        step: Told of the number of images that are done.

    Returns:
        (N, L) float64, the mean distance to the nearest ``lowest`` of the other images.
    """
    scores = []
    for start in range(0, images, block):
        rows = read(start, min(start + block, images))
        queries = rows.flatten(0, 1)
        distances = [nearest_distance(queries, read(other, min(other + block, images))) for other in range(0, images, block)]
        nearest = torch.cat(distances).unflatten(1, (len(rows), -1))
        own = torch.arange(len(rows), device=rows.device)
        nearest[start + own, own] = torch.inf
        scores.append(mean_of_lowest(nearest, counted(images - 1, lowest)))
        if step is not None:
            step(len(rows))
    return torch.cat(scores)


def rescored(scores: torch.Tensor, class_tokens: torch.Tensor, neighbours: Sequence[int] = (1, 2, 3)) -> torch.Tensor:
    """Image scores averaged over images whose class tokens are alike (MuSc's RsCIN, section 3.4).

    Scores are brought to [0, 1] over the pool; for each k an image's score becomes the mean of the k most similar images'
    (itself included), weighted by cosine; the result is the mean over all k.

    Args:
        scores: (N,) image scores.
        class_tokens: (N, D) class tokens, any length.
        neighbours: Values of k; (1, 2, 3) for MVTec AD and BTAD, (1, 8, 9) for VisA. Those beyond N count as N.

    Returns:
        (N,) float64, about [0, 1]; zeros if all scores are equal. Weights are float64 here; the authors' float16 ties many
        of them.
    """
    spread = scores.max() - scores.min()
    if spread == 0:
        return torch.zeros_like(scores, dtype=torch.float64)
    scores = (scores.double() - scores.min()) / spread
    unit = torch.nn.functional.normalize(class_tokens.double(), dim=-1)
    weights = unit @ unit.T
    total = torch.zeros_like(scores)
    for k in neighbours:
        top = weights.topk(min(k, len(scores)), dim=1)
        total += (top.values * scores[top.indices]).sum(dim=1) / top.values.sum(dim=1)
    return total / len(neighbours)
