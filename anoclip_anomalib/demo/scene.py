"""From a drawn part to a photograph: background, shadow, light, blur and noise; and the pair normal/defective."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from anoclip_anomalib.demo.noise import Field, Image, Rng, blur, coordinates, mix, near_colour, random_colour, smooth_noise
from anoclip_anomalib.demo.textures import TEXTURES

Mask: TypeAlias = NDArray[np.bool_]
"""A region (H, W)."""


@dataclass(frozen=True)
class Scene:
    """A part before it is photographed.

    Attributes:
        image: The part on its ground, (H, W, 3), about 0 to 1.
        foreground: Where the part is, (H, W) bool. All true for a texture.
        background: What would be seen if the part were not there, (H, W, 3).
    """

    image: Image
    foreground: Mask
    background: Image

    @property
    def size(self) -> int:
        """Side of the square image in pixels."""
        return self.image.shape[0]


Draw: TypeAlias = Callable[[Rng, int], Scene]
"""A category: draws one random sample of it."""
Defect: TypeAlias = Callable[[Rng, Scene], tuple[Image, Mask]]
"""A defect kind: returns the damaged image and the mask of what was changed."""


def ground(rng: Rng, size: int) -> Image:
    """What an object lies on: a plain, lit or weakly textured surface (size, size, 3)."""
    colour = random_colour(rng, (0.02, 0.98))
    choice = rng.random()
    if choice < 0.35:
        return np.broadcast_to(colour, (size, size, 3)).astype(np.float32).copy()
    if choice < 0.7:
        weight = smooth_noise(rng, size, rng.uniform(2, 20), 3)
        return mix(colour, near_colour(rng, colour, rng.uniform(0.02, 0.15)), weight)
    texture = TEXTURES[str(rng.choice(list(TEXTURES)))](rng, size)
    return mix(colour, texture, np.full((size, size), rng.uniform(0.1, 0.6), np.float32))


def texture_scene(image: Image) -> Scene:
    """A scene that is all surface; under it lies a darker shade of its own mean colour."""
    mean = image.reshape(-1, 3).mean(0)
    return Scene(image, np.ones(image.shape[:2], bool), np.broadcast_to(0.4 * mean, image.shape).astype(np.float32))


def object_scene(rng: Rng, image: Image, alpha: Field) -> Scene:
    """Lay a drawn object with coverage ``alpha`` (H, W) on a random ground, with a soft shadow."""
    size = image.shape[0]
    background = ground(rng, size)
    if rng.random() < 0.7:
        offset = np.round(rng.uniform(-0.05, 0.05, 2) * size).astype(int)
        shadow = np.roll(blur(alpha, rng.uniform(0.01, 0.05) * size), tuple(offset), (0, 1))
        background = background * (1 - rng.uniform(0.1, 0.6) * shadow)[..., None]
    return Scene(mix(background, image, alpha), alpha > 0.5, background)


@dataclass(frozen=True)
class Photograph:
    """One set of conditions of light and camera, to be applied to an image and, alike, to its defect-free twin."""

    light: Field
    tint: Image
    gain: float
    offset: float
    sigma: float
    noise: Image

    @classmethod
    def draw(cls, rng: Rng, size: int, strength: float = 1.0) -> "Photograph":
        """Draw conditions; ``strength`` scales how far they depart from even light and a perfect camera."""
        x, y = coordinates(rng, size)
        slope = strength * rng.uniform(0, 0.25)
        vignette = strength * rng.uniform(0, 0.15) * (x * x + y * y)
        gleam = strength * rng.uniform(0, 0.2) * np.exp(-(np.square(x - 0.5) + np.square(y)) / rng.uniform(0.1, 0.6))
        return cls(
            noise=rng.standard_normal((size, size, 3), dtype=np.float32) * np.float32(strength * rng.uniform(0, 0.03)),
            light=(1 + slope * x - vignette + gleam * (rng.random() < 0.4)).astype(np.float32),
            tint=(1 + strength * rng.normal(0, 0.04, (1, 1, 3))).astype(np.float32),
            gain=1 + strength * rng.uniform(-0.25, 0.2),
            offset=strength * rng.uniform(-0.05, 0.05),
            sigma=strength * rng.choice([0.0, rng.uniform(0, 0.008)]) * size,
        )

    def take(self, image: Image) -> np.ndarray:
        """Photograph an image (H, W, 3): uint8."""
        lit = blur(image, self.sigma) * self.light[..., None] * self.tint * np.float32(self.gain)
        return np.clip(255 * (lit + np.float32(self.offset) + self.noise) + 0.5, 0, 255).astype(np.uint8)
