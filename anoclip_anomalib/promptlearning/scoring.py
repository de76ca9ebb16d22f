"""From features to maps and image scores: one set of rules for all methods of the table. Always in float32."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from anoclip_anomalib.promptlearning.methods import PromptMethod
from anoclip_anomalib.zeroshot.scoring import abnormal_probability, differences, gaussian, upsample

SIGMA = 4 / 518
"""Standard deviation of the Gaussian on the maps, in sides of the image: 4 pixels of 518."""
CLUSTERS, PATCHES_OF_A_CLUSTER = 20, 5
"""AdaCLIP's fusion looks at the 100 patches that are most likely anomalous."""


def anomaly_map(
    method: PromptMethod, levels: Sequence[torch.Tensor], text: torch.Tensor, grid: tuple[int, int], size: tuple[int, int]
) -> torch.Tensor:
    """Probability of the anomalous class at the pixels, not smoothed.

    Args:
        method: Chooses temperature and the order of upsampling, softmax and mean.
        levels: Unit patch features (B, h * w, E) of each level.
        text: See :func:`anoclip_anomalib.zeroshot.scoring.differences`.
        grid: (h, w).
        size: (H, W).

    Returns:
        (B, 1, H, W).
    """

    def enlarge(maps: torch.Tensor) -> torch.Tensor:
        return upsample(maps, size, align_corners=method.align_corners)

    logits = [differences(level, text).unflatten(1, grid).unsqueeze(1) / method.temperature for level in levels]
    if method.order == "softmax first":  # upsampling is linear: the mean may come before it
        return enlarge(torch.stack([own.sigmoid() for own in logits]).mean(dim=0))
    if method.order == "softmax last":
        return enlarge(torch.stack(logits).mean(dim=0)).sigmoid()
    return torch.stack([enlarge(own).sigmoid() for own in logits]).mean(dim=0)


def smooth(maps: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian of (B, 1, H, W) maps, cut off at four standard deviations, the border mirrored with its outermost pixel.

    As ``scipy.ndimage.gaussian_filter`` does, which all the authors use.

    Args:
        maps: The maps.
        sigma: Standard deviation in pixels; 0 for none.
    """
    margin = int(4 * sigma + 0.5)
    if margin == 0:
        return maps
    for dim in (-2, -1):
        side = maps.shape[dim]
        places = torch.arange(-margin, side + margin, device=maps.device) % (2 * side)
        maps = maps.index_select(dim, torch.where(places < side, places, 2 * side - 1 - places))
    return gaussian(maps, margin, sigma)


def image_score(
    method: PromptMethod, levels: Sequence[torch.Tensor], class_token: torch.Tensor, text: torch.Tensor, *, seed: int = 0
) -> torch.Tensor:
    """Probability that an image is anomalous.

    Args:
        method: Chooses temperature and pooling.
        levels: Unit patch features (B, L, E) of each level.
        class_token: (B, E) unit vectors.
        text: See :func:`anoclip_anomalib.zeroshot.scoring.differences`.
        seed: Of the clustering, where there is one; the same for every image.

    Returns:
        (B,).
    """
    return abnormal_probability(differences(image_feature(method, levels, class_token, text, seed), text), method.temperature)


def image_feature(
    method: PromptMethod, levels: Sequence[torch.Tensor], class_token: torch.Tensor, text: torch.Tensor, seed: int = 0
) -> torch.Tensor:
    """The class token with the method's share of pooled patches, (B, E) unit vectors; arguments as of :func:`image_score`."""
    if not method.pooling:
        return class_token
    hybrid = method.learned == "hybrid"
    pooled = cluster_pooled(levels, text, seed) if hybrid else score_pooled(levels, text, method.temperature)
    return F.normalize(method.pooling * pooled + (1 - method.pooling) * class_token, dim=-1)


def score_pooled(levels: Sequence[torch.Tensor], text: torch.Tensor, temperature: float) -> torch.Tensor:
    """Crane's pooling: patches weighted by their probability to be anomalous, as a unit vector (B, E).

    Gradients of the weights reach the text, as in the authors' training.
    """
    mean = torch.stack(list(levels)).mean(dim=0)
    weights = (differences(mean, text) / temperature).sigmoid()
    return F.normalize((weights.unsqueeze(-1) * mean).sum(dim=1), dim=-1)


def cluster_pooled(levels: Sequence[torch.Tensor], text: torch.Tensor, seed: int = 0, clusters: int = CLUSTERS) -> torch.Tensor:
    """AdaCLIP's hybrid semantic fusion: the mean of the centres of the most anomalous patches' clusters, (B, E) unit vectors.

    The centres are means over patches and levels; clusters are found in all levels side by side, for each image alone.

    Args:
        levels: Unit patch features (B, L, E) of each level.
        text: See :func:`anoclip_anomalib.zeroshot.scoring.differences`.
        seed: Of k-means (the authors have none).
        clusters: How many, if there are as many patches.
    """
    from sklearn.cluster import KMeans  # slow to load, and only AdaCLIP needs it

    logits = torch.stack([differences(level, text) for level in levels]).mean(dim=0)
    count = min(logits.shape[1], PATCHES_OF_A_CLUSTER * clusters)
    chosen = logits.topk(count, dim=1).indices.unsqueeze(-1)
    picked = torch.stack([level.gather(1, chosen.expand(-1, -1, level.shape[-1])) for level in levels], dim=2)
    centres = []
    for own in picked:  # (count, K, E)
        means = KMeans(n_clusters=min(clusters, count), n_init="auto", random_state=seed)
        labels = torch.from_numpy(means.fit_predict(own.detach().flatten(1).cpu().double().numpy())).to(own.device).long()
        parts = [own[labels == label].mean(dim=(0, 1)) for label in labels.unique()]
        centres.append(torch.stack(parts).mean(dim=0))
    return F.normalize(torch.stack(centres), dim=-1)
