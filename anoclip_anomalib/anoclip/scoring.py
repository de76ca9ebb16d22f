"""From embeddings to probabilities and maps (AnoCLIP's scores without adaptation). Always in float32."""

import torch
import torch.nn.functional as F


def cosine_difference(embeddings: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """How much closer embeddings are to the anomalous than to the normal class: the difference of their cosines.

    Args:
        embeddings: (..., D), any length.
        text: (2, D) unit vectors, normal then anomalous.

    Returns:
        (...) in [-2, 2].
    """
    embeddings = embeddings.float()
    length = torch.linalg.vector_norm(embeddings, dim=-1).clamp_min(1e-12)
    return embeddings @ (text[1] - text[0]) / length


def abnormal_probability(difference: torch.Tensor) -> torch.Tensor:
    """Probability of the anomalous class: softmax over the two cosines *without temperature*, as the authors have it.

    The softmax of two cosines is the sigmoid of their difference. All values lie near 0.5, and means over views or
    neighbours are nearly means of cosine differences.

    Args:
        difference: (...), cosine with the anomalous class minus cosine with the normal one.

    Returns:
        (...), between 0.119 and 0.881, which differences of -2 and 2 give.
    """
    return difference.sigmoid()


def mean_filter(maps: torch.Tensor, size: int) -> torch.Tensor:
    """Mean over ``size`` x ``size`` neighbours, the border repeated.

    Args:
        maps: (N, h, w).
        size: Odd number of patches; 1 leaves the maps as they are.

    Returns:
        (N, h, w).
    """
    if size == 1:
        return maps
    margin = size // 2
    padded = F.pad(maps.unsqueeze(1), (margin, margin, margin, margin), mode="replicate")
    return F.avg_pool2d(padded, size, stride=1).squeeze(1)


def upsample(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear upsampling of (N, C, h, w) to (N, C, *size), the corners aligned, as the authors have it."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=True)
