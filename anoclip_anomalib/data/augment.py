"""Augmentation of images and masks together, from a generator of its own (AA-CLIP's, authors' ``dataset/__init__.py``)."""

from dataclasses import dataclass

import torch
from torchvision.transforms.v2 import functional as tv


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How images are varied; the defaults are the authors'.

    Attributes:
        rotation: Largest angle in degrees; with probability 0.5.
        translation: Largest shift as a part of the side; with probability 0.5.
        flips: Whether images are mirrored, in each direction with probability 0.5.
        jitter: Largest relative change of brightness, contrast and saturation, each with probability 0.7; 0 for none.
    """

    rotation: float = 30.0
    translation: float = 0.15
    flips: bool = True
    jitter: float = 0.0

    def recolour(self, image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Change brightness, contrast and saturation of an image (3, H, W) in [0, 1]."""
        if not self.jitter:
            return image
        for change in (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation):
            factor = _uniform(1 - self.jitter, 1 + self.jitter, generator)
            if _chance(0.7, generator):
                image = change(image, factor)
        return image

    def move(self, both: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Turn, shift and mirror an image and its mask alike, to the nearest pixel.

        Args:
            both: (4, H, W), the normalised image and, last, its mask; what comes in from outside is 0: CLIP's mean colour,
                and normal.
            generator: Decides.
        """
        angle = _uniform(-self.rotation, self.rotation, generator)
        if _chance(0.5, generator) and self.rotation:
            both = tv.rotate(both, angle)
        shift = [round(_uniform(-self.translation, self.translation, generator) * side) for side in both.shape[:0:-1]]
        if _chance(0.5, generator) and self.translation:
            both = tv.affine(both, angle=0.0, translate=shift, scale=1.0, shear=[0.0, 0.0])
        for flip in (tv.horizontal_flip, tv.vertical_flip):
            if _chance(0.5, generator) and self.flips:
                both = flip(both)
        return both


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


def _chance(probability: float, generator: torch.Generator) -> bool:
    return _uniform(0, 1, generator) < probability
