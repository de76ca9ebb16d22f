"""How sure an AUROC is, and whether two models differ: bootstrap over images and DeLong's paired test. Pure functions.

Everything starts from the pair matrix of a model: for each anomalous and each normal image, whether the model ranks the
anomalous one higher. Its mean is the AUROC. It is linear in the model, so the mean matrix of several seeds stands for the mean
of their AUROCs, and resampling images is a product with weights.

Sources: DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating
characteristic curves", Biometrics 44 (1988); Efron and Tibshirani, "An introduction to the bootstrap" (1993), chapter 13
(percentile intervals); Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6 (1979).
"""

import numpy as np
from scipy.stats import norm


def placements(anomalous: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Share of the normal scores that lie below each anomalous score, ties counted half; their mean is the AUROC.

    Args:
        anomalous: (M,) scores.
        normal: (N,) scores, N > 0.

    Returns:
        (M,) 0..1.
    """
    ordered = np.sort(normal)
    return (np.searchsorted(ordered, anomalous, "left") + np.searchsorted(ordered, anomalous, "right")) / (2 * len(ordered))


def pair_matrix(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether each anomalous image scores higher than each normal one.

    Args:
        scores: (L,) image scores.
        labels: (L,) 1 anomalous, 0 normal; others are passed over.

    Returns:
        (M, N): 1 higher, 0.5 equal, 0 lower. M or N is 0 if there are no such images.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    return 0.5 + 0.5 * np.sign(scores[labels == 1][:, None] - scores[labels == 0][None, :])


def bootstrap_auroc(pairs: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """AUROCs of K models on the same random draws of images; normal and anomalous images are drawn apart, with replacement.

    Args:
        pairs: (K, M, N) pair matrices of K models on the same images, M, N > 0.
        resamples: Number R of draws.
        rng: Source of the draws.

    Returns:
        (R, K) AUROCs, 0..1.
    """
    _, anomalous, normal = pairs.shape
    first = rng.multinomial(anomalous, np.full(anomalous, 1 / anomalous), size=resamples).astype(np.float64)
    second = rng.multinomial(normal, np.full(normal, 1 / normal), size=resamples).astype(np.float64)
    return np.stack([((first @ one) * second).sum(axis=1) for one in pairs], axis=1) / (anomalous * normal)


def bootstrap_mean(values: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Means of K models' values on the same random draws of images.

    Args:
        values: (K, L) one value for each model and image, L > 0.
        resamples: Number R of draws.
        rng: Source of the draws.

    Returns:
        (R, K) means.
    """
    images = values.shape[1]
    weights = rng.multinomial(images, np.full(images, 1 / images), size=resamples)
    return weights @ values.T / images


def interval(samples: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of bootstrap samples.

    Args:
        samples: (R, ...) figures of R draws.
        level: Share of the draws inside, 0..1.

    Returns:
        Lower and upper end, each (...).
    """
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def delong_covariance(pairs: np.ndarray) -> np.ndarray:
    """DeLong's covariance of the AUROCs of K models on the same images.

    Args:
        pairs: (K, M, N) pair matrices, M, N > 0.

    Returns:
        (K, K); NaN where one class has a single image.
    """
    models, anomalous, normal = pairs.shape
    if min(anomalous, normal) < 2:
        return np.full((models, models), np.nan)
    parts = (np.cov(pairs.mean(axis=2)) / anomalous, np.cov(pairs.mean(axis=1)) / normal)
    return np.atleast_2d(parts[0] + parts[1])


def two_sided_p(difference: float, variance: float) -> float:
    """Probability of a difference at least this large if there were none (normal approximation).

    Args:
        difference: What was measured.
        variance: Of the difference; 0 makes any difference certain.

    Returns:
        0..1, or NaN if the variance is.
    """
    if difference == 0 and variance >= 0:
        return 1.0
    if not variance > 0:
        return 0.0 if variance == 0 else float("nan")
    return float(2 * norm.sf(abs(difference) / np.sqrt(variance)))


def holm(p_values: list[float]) -> list[float]:
    """Holm's correction for several tests: what is below 0.05 afterwards has at most 1 chance in 20 of one false alarm.

    Args:
        p_values: 0..1; NaN is passed over and stays.

    Returns:
        Corrected values in the same order, at most 1.
    """
    order = [i for i in np.argsort(p_values) if np.isfinite(p_values[i])]
    corrected, largest = list(p_values), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - place) * p_values[index]))
        corrected[index] = largest
    return corrected
