"""From embeddings to probabilities and maps (AnoCLIP's scores without adaptation). Always in float32."""

import torch
import torch.nn.functional as F


def class_cosines(embeddings: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Cosines with the two class embeddings.

    Args:
        embeddings: (..., D), any length.
        text: (2, D) unit vectors, normal then anomalous.

    Returns:
        (..., 2) in [-1, 1].
    """
    return F.normalize(embeddings.float(), dim=-1) @ text.T


def abnormal_probability(cosines: torch.Tensor) -> torch.Tensor:
    """Probability of the anomalous class: softmax over the two cosines *without temperature*, as the authors have it.

    All values lie near 0.5, and means over views or neighbours are nearly means of cosine differences.

    Args:
        cosines: (..., 2).

    Returns:
        (...), between 0.119 and 0.881, the softmax of differences within [-2, 2].
    """
    return cosines.softmax(dim=-1)[..., 1]


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
