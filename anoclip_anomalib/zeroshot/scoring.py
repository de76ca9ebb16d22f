"""From embeddings to probabilities and maps. Always in float32."""

import torch
import torch.nn.functional as F


def differences(features: torch.Tensor, text: torch.Tensor, class_index: torch.Tensor | None = None) -> torch.Tensor:
    """Cosine with the anomalous text minus cosine with the normal one, of unit vectors.

    Args:
        features: (..., D); (B, ..., D) where images have texts of their own.
        text: (2, D) unit vectors, normal then anomalous; (B, 2, D) of each image; (C, 2, D) of C classes, with ``class_index``.
        class_index: (B,) integers, which of the C classes each image shows.

    Returns:
        (...) in [-2, 2].

    Raises:
        ValueError: If there is a class index without classes.
    """
    direction = text[..., 1, :] - text[..., 0, :]
    if class_index is not None:
        if text.ndim != 3:
            raise ValueError(f"Text embeddings of shape {tuple(text.shape)} take no class index; (C, 2, D) do")
        direction = direction[class_index]
    return features @ direction if direction.ndim == 1 else torch.einsum("b...d,bd->b...", features, direction)


def cosine_difference(embeddings: torch.Tensor, text: torch.Tensor, class_index: torch.Tensor | None = None) -> torch.Tensor:
    """:func:`differences` of embeddings of any length: how much closer they are to the anomalous than to the normal class."""
    embeddings = embeddings.float()
    length = torch.linalg.vector_norm(embeddings, dim=-1).clamp_min(1e-12)
    return differences(embeddings, text, class_index) / length


def abnormal_probability(difference: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Probability of the anomalous class: softmax over the two cosines divided by a temperature.

    The softmax of two cosines is the sigmoid of their difference. Without temperature, as AnoCLIP's authors have it, all
    values lie near 0.5, and means over views or neighbours are nearly means of cosine differences. CLIP itself was trained
    with 0.01, which others keep.

    Args:
        difference: (...), cosine with the anomalous class minus cosine with the normal one.
        temperature: Greater than 0; 1 for none.

    Returns:
        (...) in [0, 1]; without temperature between 0.119 and 0.881, which differences of -2 and 2 give.
    """
    return (difference if temperature == 1.0 else difference / temperature).sigmoid()


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


def upsample(maps: torch.Tensor, size: tuple[int, int], *, align_corners: bool = True) -> torch.Tensor:
    """Bilinear upsampling of (N, C, h, w) to (N, C, *size); AnoCLIP's and AA-CLIP's authors align the corners."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=align_corners)


def gaussian(maps: torch.Tensor, margin: int, sigma: float) -> torch.Tensor:
    """Gaussian of ``2 * margin + 1`` places, where it fits: (B, 1, H + 2 * margin, W + 2 * margin) -> (B, 1, H, W).

    Args:
        maps: Maps with a margin of the caller's making.
        margin: Places on each side.
        sigma: Standard deviation in places.
    """
    offsets = torch.arange(-margin, margin + 1, dtype=maps.dtype, device=maps.device)
    weights = torch.exp(-(offsets**2) / (2 * sigma**2))
    weights = weights / weights.sum()
    return F.conv2d(F.conv2d(maps, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))
