"""How sure the figures are: intervals over images, differences to the best model, and figures for each kind of defect."""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import wilcoxon

from anoclip_anomalib.comparison.report.tables import Table, finished
from anoclip_anomalib.comparison.run.row_schema import Row
from anoclip_anomalib.evaluation import confidence

RESAMPLES = 2000
IMAGE, PIXEL = "image", "pixel"
MEASURES = {IMAGE: "Image AUROC", PIXEL: "AUROC inside the map of an anomalous image, mean over images"}


class Estimate(NamedTuple):
    """A figure with its 95 % interval, and its difference to the best model's.

    Attributes:
        value: 0..1, mean over seeds.
        low, high: Ends of the bootstrap interval over images.
        difference: To the best model, with its interval's ends; ``None`` for the best itself.
        p: Two-sided, of no difference, after Holm's correction; ``None`` for the best itself or where there is no test.
    """

    value: float
    low: float
    high: float
    difference: tuple[float, float, float] | None = None
    p: float | None = None


class Defect(NamedTuple):
    """Figures on one kind of defect (the folder of its images): measure -> model -> value, 0..1."""

    category: str
    name: str
    images: int
    figures: dict[str, dict[str, float]]


class _Category(NamedTuple):
    """What is known of each image of a category by every model, averaged over seeds.

    Attributes:
        pairs: (K, M, N) pair matrices.
        maps: (K, M) AUROC inside the map of each anomalous image, NaN without a mask.
        defects: (M,) folder of each anomalous image.
    """

    name: str
    pairs: np.ndarray
    maps: np.ndarray
    defects: list[str]


def estimates(rows: Sequence[Row], table: Table) -> dict[str, dict[str, Estimate]]:
    """Intervals and tests on the images of a data set.

    Of several categories each is resampled by itself and the mean taken, as in the table. Only models that have every
    category's images take part; the image AUROC of one is compared by DeLong's test, the maps by Wilcoxon's signed ranks.

    Args:
        rows: Rows of all jobs; those without scores of single images (older versions) are passed over.
        table: The data set's table.

    Returns:
        Measure -> model -> estimate; a measure that no model has is missing.
    """
    models, categories = _compared_images(rows, table)
    found: dict[str, dict[str, Estimate]] = {}
    rng = np.random.default_rng(0)
    if ranked := [one for one in categories if all(one.pairs.shape)]:
        values = np.mean([one.pairs.mean(axis=(1, 2)) for one in ranked], axis=0)
        samples = np.mean([confidence.bootstrap_auroc(one.pairs, RESAMPLES, rng) for one in ranked], axis=0)
        covariance = np.sum([confidence.delong_covariance(one.pairs) for one in ranked], axis=0) / len(ranked) ** 2

        def delong(one: int, best: int) -> float:
            variance = covariance[one, one] + covariance[best, best] - 2 * covariance[one, best]
            return confidence.two_sided_p(values[one] - values[best], np.maximum(variance, 0.0))

        found[IMAGE] = _compared(models, values, samples, delong)
    maps = np.concatenate([one.maps for one in categories], axis=1) if categories else np.zeros((0, 0))
    maps = maps[:, np.isfinite(maps).all(axis=0)]
    if maps.size:

        def signed_ranks(one: int, best: int) -> float:
            gap = maps[one] - maps[best]
            return float(wilcoxon(gap).pvalue) if gap.any() else 1.0

        found[PIXEL] = _compared(models, maps.mean(axis=1), confidence.bootstrap_mean(maps, RESAMPLES, rng), signed_ranks)
    return found


def per_defect(rows: Sequence[Row], table: Table) -> list[Defect]:
    """Each kind of defect against all normal images of its category.

    Args:
        rows: Rows of all jobs.
        table: The data set's table.

    Returns:
        In the order of categories, then of names.
    """
    models, categories = _compared_images(rows, table)
    found = []
    for one in categories:
        for name in sorted(set(one.defects)):
            chosen = [defect == name for defect in one.defects]
            pairs, maps = (dict(zip(models, part[:, chosen], strict=True)) for part in (one.pairs, one.maps))
            image = {model: float(own.mean()) for model, own in pairs.items() if own.size}
            pixel = {model: float(np.nanmean(own)) for model, own in maps.items() if np.isfinite(own).any()}
            found.append(Defect(one.name, name, sum(chosen), {IMAGE: image, PIXEL: pixel}))
    return found


def _compared(models: list[str], values: np.ndarray, samples: np.ndarray, test: Any) -> dict[str, Estimate]:
    best = int(np.argmax(values))
    low, high = confidence.interval(samples)
    gap_low, gap_high = confidence.interval(samples - samples[:, best : best + 1])
    others = [i for i in range(len(models)) if i != best]
    p_values = dict(zip(others, confidence.holm([test(i, best) for i in others]), strict=True))
    found = {}
    for i, model in enumerate(models):
        difference = None if i == best else (float(values[i] - values[best]), float(gap_low[i]), float(gap_high[i]))
        p = p_values.get(i, np.nan)
        found[model] = Estimate(float(values[i]), float(low[i]), float(high[i]), difference, p if np.isfinite(p) else None)
    return found


def _compared_images(rows: Sequence[Row], table: Table) -> tuple[list[str], list[_Category]]:
    """Models that have images of every category that any model has, and the categories where all their runs saw the same."""
    runs: dict[str, dict[str, list]] = {category: {} for category in table.categories}
    for row in finished(rows, data=table.data):
        if row.get("images"):
            images = sorted(row["images"], key=lambda image: (image[0], image[2]))
            runs[row["job"]["category"]].setdefault(row["job"]["model"], []).append(images)
    runs = {category: own for category, own in runs.items() if own}
    models = [model for model in table.models if runs and all(model in own for own in runs.values())]
    found = []
    for category, own in runs.items():
        names = {tuple((image[0], image[2]) for image in run) for model in models for run in own[model]}
        if len(names) != 1:
            continue
        paths, labels = map(np.array, zip(*names.pop(), strict=True))
        # Of each model (seeds, images, 2): score and AUROC inside the map.
        seen = [np.array([[image[1::2] for image in run] for run in own[model]], dtype=np.float64) for model in models]
        pairs = [np.mean([confidence.pair_matrix(run[:, 0], labels) for run in runs], axis=0) for runs in seen]
        maps = np.stack([runs[:, labels == 1, 1].mean(axis=0) for runs in seen])
        defects = [PurePosixPath(path).parent.name for path in paths[labels == 1]]
        found.append(_Category(category, np.stack(pairs), maps, defects))
    return models, found
