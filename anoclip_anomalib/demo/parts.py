"""What the drawings of objects share: a random pose, the material of a solid part, painting."""

import numpy as np

from anoclip_anomalib.demo.noise import Field, Image, Rng, coordinates, mix, near_colour, random_colour, smooth_noise, step
from anoclip_anomalib.demo.shapes import bevel


def pose(rng: Rng, size: int, upright: bool = False, low: float = 0.75) -> tuple[Field, Field, float]:
    """Coordinates of a part in a random pose, and the width of one pixel in them."""
    angle = rng.normal(0, 0.08) if upright else None
    scale = rng.uniform(low, 1.15)
    x, y = coordinates(rng, size, angle, scale, shift=0.12)
    return x, y, 2.0 / (size * scale)


def surface(rng: Rng, size: int, distance: Field, colour: np.ndarray | None = None) -> Image:
    """Material of a solid part: a colour with faint mottling and a rounded edge."""
    colour = random_colour(rng) if colour is None else colour
    mottling = smooth_noise(rng, size, rng.uniform(3, 24), 3)
    image = mix(colour, near_colour(rng, colour, rng.uniform(0.02, 0.18)), mottling)
    return image + bevel(distance, rng.uniform(0.05, 0.6), rng.uniform(0, 6.3), rng.uniform(0.03, 0.3))[..., None]


def paint(image: Image, colour: np.ndarray, distance: Field, pixel: float, opacity: float = 1.0) -> Image:
    """Lay a colour over an image where the distance is negative."""
    return mix(image, colour, opacity * step(distance, pixel))
