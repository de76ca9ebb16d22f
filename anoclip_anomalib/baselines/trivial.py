"""Two detectors that know nothing: what a figure is worth can be seen beside them.

Products lie in the middle of their photographs and so do their defects; many defects are edges. On some data sets that alone
gives pixel AUROCs above 80.
"""

from typing import ClassVar

import torch
from anomalib.data import Batch, InferenceBatch
from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import nn
from torchvision.transforms.v2 import Resize
from torchvision.transforms.v2.functional import gaussian_blur

from anoclip_anomalib.registry import register_model
from anoclip_anomalib.zeroshot.lightning import Untrained
from anoclip_anomalib.zeroshot.method import MethodFacts
from anoclip_anomalib.zeroshot.views import grey

IMAGE_SIZE = (256, 256)


def centre_closeness(size: tuple[int, int]) -> torch.Tensor:
    """How near each pixel is to the image's centre.

    Args:
        size: (H, W).

    Returns:
        (H, W) in [0, 1]: one minus the distance in units of half the diagonal; 0 beyond the corners.
    """
    rows, columns = (side * torch.linspace(-1, 1, side) if side > 1 else torch.zeros(1) for side in size)
    return 1 - (rows[:, None] ** 2 + columns[None] ** 2).sqrt() / (size[0] ** 2 + size[1] ** 2) ** 0.5


def local_contrast(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Difference of each pixel's brightness from its surroundings, itself smoothed.

    Args:
        images: (B, 3, H, W) in [0, 1].
        sigma: Standard deviation of the Gaussian that makes the surroundings, in pixels; of the second smoothing, half of it.

    Returns:
        (B, 1, H, W) in [0, 1].
    """
    brightness = grey(images)[:, :1]
    return _smoothed((brightness - _smoothed(brightness, sigma)).abs(), sigma / 2)


def _smoothed(maps: torch.Tensor, sigma: float) -> torch.Tensor:
    # Reflection at the border needs more pixels than it takes away.
    radius = min(round(3 * sigma), min(maps.shape[-2:]) - 1)
    return gaussian_blur(maps, 2 * radius + 1, sigma) if radius > 0 else maps


class CentreDistanceModel(nn.Module):
    """The same map for every image, highest in the middle; every image score is equal."""

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        """(B, 3, H, W) -> ``pred_score`` (B,), all 1, and ``anomaly_map`` (B, 1, H, W), see :func:`centre_closeness`."""
        closeness = centre_closeness(tuple(images.shape[-2:])).to(images.device, torch.float32)
        maps = closeness.expand(len(images), 1, *closeness.shape)
        return InferenceBatch(pred_score=torch.ones_like(maps[:, 0, 0, 0]), anomaly_map=maps.contiguous())


class LocalContrastModel(nn.Module):
    """Local contrast as the map, and its maximum as the image score.

    Args:
        sigma: See :func:`local_contrast`.

    Raises:
        ValueError: If sigma is not positive.
    """

    def __init__(self, sigma: float = 8.0) -> None:
        super().__init__()
        if not sigma > 0:
            raise ValueError(f"sigma={sigma} must be greater than 0, in pixels of the {IMAGE_SIZE[0]} x {IMAGE_SIZE[1]} image")
        self.sigma = sigma

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        """(B, 3, H, W) in [0, 1] -> ``pred_score`` (B,) and ``anomaly_map`` (B, 1, H, W), see :func:`local_contrast`."""
        maps = local_contrast(images.float(), self.sigma)
        return InferenceBatch(pred_score=maps.amax(dim=(1, 2, 3)), anomaly_map=maps)


class _Trivial(Untrained):
    """What both share of anomalib's wiring."""

    method_facts = MethodFacts(category_data="nothing")
    weights_digest: ClassVar[str] = "no weights"
    natural_threshold: ClassVar[None] = None
    model: nn.Module

    def validation_step(self, batch: Batch, *args: object, **kwargs: object) -> STEP_OUTPUT:
        """Score a validation batch."""
        return batch.update(**self.model(batch.image)._asdict())

    @classmethod
    def configure_pre_processor(cls, image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Resizing to (height, width), 256 x 256 by default; values stay in [0, 1]."""
        return PreProcessor(transform=Resize(image_size or IMAGE_SIZE, antialias=True))


@register_model
class CentreDistance(_Trivial, AnomalibModule):
    """Calls the middle of every image anomalous. It does not look at the image."""

    def __init__(self) -> None:
        super().__init__()
        self.model = CentreDistanceModel()


@register_model
class LocalContrast(_Trivial, AnomalibModule):
    """Calls anomalous what differs from its surroundings in brightness.

    Args:
        sigma: Standard deviation of the Gaussian that makes the surroundings, in pixels of the 256 x 256 image.

    Raises:
        ValueError: If sigma is not positive.
    """

    def __init__(self, sigma: float = 8.0) -> None:
        super().__init__()
        self.model = LocalContrastModel(sigma)
