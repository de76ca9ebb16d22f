"""Images score each other (MuSc, arXiv 2401.16753): pure functions of a pool's features.

A normal patch has near relatives in most other images of the pool, a defect in few. Nothing is trained and no text is read;
every score depends on the pool.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from anoclip_anomalib.mutual.patches import Patches
from anoclip_anomalib.zeroshot.neighbourhoods import distance_of_cosine, exact_where_near

LOWEST = 0.3
"""Share of the other images whose distances are averaged, the nearest ones."""
_CACHED = 1 << 18  # cosines of a block; more would leave a processor's cache between the product and its maxima
_CACHED_GPU = 1 << 26

Read = Callable[[int, int], Patches]
"""(start, stop) -> those images."""
Step = Callable[[int], object]
"""Told of the number of images that are done."""


def counted(others: int, lowest: float = LOWEST) -> int:
    """How many of the other images count: ``int(lowest * others)`` as the authors have it, at least one.

    (Their code gives 0 and thus NaN for pools of up to four images.)
    """
    return max(1, int(lowest * others))


def mean_of_lowest(distances: torch.Tensor, count: int) -> torch.Tensor:
    """Mean over the ``count`` smallest of the first dimension: (N, ...) -> (...), in float64."""
    return distances.topk(count, dim=0, largest=False).values.double().mean(dim=0)


def _side(patches: int, device: torch.device) -> int:
    """Images compared with one at once."""
    return max(1, (_CACHED if device.type == "cpu" else _CACHED_GPU) // patches**2)


def distances_to(image: Patches, others: Patches) -> tuple[torch.Tensor, torch.Tensor]:
    """Nearest patches between an image and others, both ways from one product.

    Args:
        image: One image of L patches.
        others: M images.

    Returns:
        (M, S, L) of each of the image's patches to the nearest of each other image, for S neighbourhoods, and (M, S, L) of
        each of theirs to the nearest of the image.
    """
    here, there = [], []
    for cosine, own, other in zip(others.cosines(image), image.units, others.units, strict=True):
        here.append(exact_where_near(distance_of_cosine(cosine.amax(dim=1)), own[0], other))
        back = distance_of_cosine(cosine.amax(dim=2))
        there.append(exact_where_near(back.view(1, -1), other.flatten(0, 1), own).view_as(back))
    return torch.stack(here, dim=1), torch.stack(there, dim=1)


def mutual_distances(pool: Patches, block: int | None = None, step: Step | None = None) -> torch.Tensor:
    """Distances of all patches to the nearest ones in every other image, each pair of images computed once.

    Args:
        pool: N images.
        block: Images compared with one at once; ``None`` for what fits a cache. No effect on the result.
        step: See :data:`Step`.

    Returns:
        (N, S, N, L): ``[j, s, i, p]`` is the distance of patch p of image i to the nearest patch of image j with the
        neighbourhood s; infinite for j = i.
    """
    sizes, images, patches = pool.scales.shape
    block = block or _side(patches, pool.tokens.device)
    nearest = pool.scales.new_full((images, sizes, images, patches), torch.inf)
    for index in range(images):
        image = pool.part(index, index + 1)
        for start in range(index + 1, images, block):
            stop = min(start + block, images)
            here, there = distances_to(image, pool.part(start, stop))
            nearest[start:stop, :, index], nearest[index, :, start:stop] = here, there.transpose(0, 1)
        if step is not None:
            step(1)
    return nearest


def pool_scores(
    read: Read, images: int, *, lowest: float = LOWEST, budget: int = 1 << 30, block: int = 16, step: Step | None = None
) -> torch.Tensor:
    """Mutual scores of all patches of a pool, in bounded memory.

    Args:
        read: Gives the pool's patches.
        images: N, at least 2.
        lowest: Share of the other images that count.
        budget: Bytes for all distances (S * N * N * L) and features; where they are more, the pool is read block by block,
            and each pair of images is computed twice.
        block: Images held on each side then; memory grows with S * N * block * L. No effect on the result.
        step: See :data:`Step`.

    Returns:
        (S, N, L) float64, the mean distance to the nearest ``lowest`` of the other images.
    """
    count = counted(images - 1, lowest)
    first = read(0, min(block, images))
    sizes, _, patches, width = first.units.shape
    if 4 * images * patches * (sizes * (images + width) + width) <= budget:
        return _means(mutual_distances(read(0, images), step=step), count)
    scores = []
    for start in range(0, images, block):
        rows = read(start, min(start + block, images))
        nearest = rows.scales.new_empty(images, *rows.scales.shape)
        for other in range(0, images, block):
            columns = read(other, min(other + block, images))
            nearest[other : other + len(columns.tokens)] = one_sided(rows, columns)
        own = torch.arange(len(rows.tokens), device=nearest.device)
        nearest[start + own, :, own] = torch.inf
        scores.append(_means(nearest, count))
        if step is not None:
            step(len(own))
    return torch.cat(scores, dim=1)


def _means(nearest: torch.Tensor, count: int) -> torch.Tensor:
    """:func:`mean_of_lowest` of one image after the other, as sorting takes several times the memory of what is sorted."""
    return torch.stack([mean_of_lowest(image, count) for image in nearest.unbind(dim=2)], dim=1)


def one_sided(images: Patches, pool: Patches) -> torch.Tensor:
    """Distances of images' patches to the nearest in each image of a pool.

    Args:
        images: B images of L patches.
        pool: M images.

    Returns:
        (M, S, B, L).
    """
    side = _side(images.tokens.shape[1], images.tokens.device)
    # A graph may not fix the number of images; one at a time, cosines stay in the cache.
    each = [images] if torch.compiler.is_compiling() else [images.part(i, i + 1) for i in range(len(images.tokens))]
    nearest = []
    for queries in each:
        found = []
        for start in range(0, len(pool.tokens), side):
            part = pool.part(start, start + side)
            for place, cosine in enumerate(part.cosines(queries)):
                units = queries.units[place].flatten(0, 1)
                found.append(exact_where_near(distance_of_cosine(cosine.amax(dim=1)), units, part.units[place]))
        sets = [torch.cat(found[place :: len(pool.sizes)]) for place in range(len(pool.sizes))]
        nearest.append(torch.stack(sets, dim=1).unflatten(2, queries.tokens.shape[:2]))
    return torch.cat(nearest, dim=2)


def rescored(
    scores: torch.Tensor,
    class_tokens: torch.Tensor,
    neighbours: Sequence[int] = (1, 2, 3),
    pool: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Image scores averaged over images whose class tokens are alike (MuSc's RsCIN, section 3.4).

    Scores are brought to [0, 1] over the pool; for each k an image's score becomes the mean of the k most similar images'
    (itself included), weighted by cosine; the result is the mean over all k.

    Args:
        scores: (N,) image scores.
        class_tokens: (N, D) class tokens, any length.
        neighbours: Values of k; (1, 2, 3) for MVTec AD and BTAD, (1, 8, 9) for VisA. Those beyond N count as N.
        pool: Scores (M,) and class tokens (M, D) of other images, which each image is compared with instead of its batch.

    Returns:
        (N,) float64, about [0, 1]; zeros if all scores of the pool are equal. Weights are float64 here; the authors' float16
        ties many of them.
    """
    known, tokens = (scores, class_tokens) if pool is None else pool
    low, spread = known.min(), known.max() - known.min()
    spread = torch.where(spread == 0, torch.inf, spread)  # all become 0; an exported graph cannot branch on values
    known, scores = ((values.double() - low) / spread for values in (known, scores))
    own, other = (F.normalize(values.double(), dim=-1) for values in (class_tokens, tokens))
    weights, values = own @ other.T, known.expand(scores.shape[0], -1)
    if pool is not None:  # itself first
        weights = torch.cat([torch.ones_like(weights[:, :1]), weights], dim=1)
        values = torch.cat([scores[:, None], values], dim=1)
    total = torch.zeros_like(scores)
    for k in neighbours:
        top = weights.topk(min(k, weights.shape[1]), dim=1)
        total += (top.values * values.gather(1, top.indices)).sum(dim=1) / top.values.sum(dim=1)
    return total / len(neighbours)


def two_groups(scores: torch.Tensor) -> tuple[float, int]:
    """How clearly scores fall into two groups, and how many are in the upper one (Otsu's split).

    Args:
        scores: (N,), N >= 2.

    Returns:
        The share of the variance that lies between the groups, in [0, 1] (0.64 for a normal distribution, 0.75 for a uniform
        one), and the size of the upper group.
    """
    ordered = scores.double().sort().values
    count = torch.arange(1, len(ordered), dtype=torch.float64, device=ordered.device)
    lower = ordered.cumsum(0)[:-1] / count
    upper = (ordered.sum() - lower * count) / (len(ordered) - count)
    between = count * (len(ordered) - count) * (upper - lower) ** 2 / len(ordered) ** 2
    total = ordered.var(correction=0)
    best = int(between.argmax())
    return (float(between[best] / total) if total > 0 else 0.0), len(ordered) - best - 1
