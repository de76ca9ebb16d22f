"""Small numeric helpers of the image generator: smooth noise, coordinates, colours, shading.

Everything is float32, drawn from the generator that the caller passes, and sized in fractions of the image,
so that one seed gives the same scene at every resolution up to sampling.
"""

from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Image: TypeAlias = NDArray[np.float32]
"""An image (H, W, 3), RGB, values 0 to 1."""
Field: TypeAlias = NDArray[np.float32]
"""A scalar field (H, W)."""
Colour: TypeAlias = NDArray[np.float32]
"""An RGB colour (3,), values 0 to 1."""
Rng: TypeAlias = np.random.Generator


def smooth_noise(rng: Rng, size: int, cells: float = 4, octaves: int = 3, gain: float = 0.5, stretch: float = 1.0) -> Field:
    """Sum of bicubically enlarged random grids, rescaled to 0..1: (size, size).

    Args:
        rng: Source of randomness.
        size: Side of the square field in pixels.
        cells: Grid cells across the image in the first octave; each further octave doubles them.
        octaves: Number of grids.
        gain: Amplitude of each octave relative to the one before.
        stretch: More than 1 draws the noise out along x (grain, brushing).
    """
    total: Field = np.zeros((size, size), np.float32)
    amplitude = 1.0
    for octave in range(octaves):
        rows = int(np.clip(round(cells * 2**octave), 2, size))
        columns = int(np.clip(round(rows / stretch), 2, size))
        grid = rng.random((rows + 1, columns + 1), dtype=np.float32)
        total += amplitude * cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
        amplitude *= gain
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


def coordinates(
    rng: Rng, size: int, angle: float | None = None, scale: float = 1.0, shift: float = 0.0, warp: float = 0.0
) -> tuple[Field, Field]:
    """Rotated, scaled and slightly bent image coordinates x, y; -1..1 spans the image: two fields (size, size)."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1.0
    grid: tuple[Field, Field] = np.meshgrid(axis, axis)
    x, y = grid
    if shift:
        x, y = x - np.float32(rng.uniform(-shift, shift)), y - np.float32(rng.uniform(-shift, shift))
    x, y = turned(x, y, rng.uniform(0, 2 * np.pi) if angle is None else angle, scale)
    if warp:
        x = x + np.float32(warp) * (smooth_noise(rng, size, 3, 2) - 0.5)
        y = y + np.float32(warp) * (smooth_noise(rng, size, 3, 2) - 0.5)
    return x, y


def turned(x: Field, y: Field, angle: float, scale: float = 1.0) -> tuple[Field, Field]:
    """Coordinates x, y of the same points along axes turned by ``angle``, divided by ``scale``."""
    cosine, sine = np.float32(np.cos(angle) / scale), np.float32(np.sin(angle) / scale)
    return cosine * x + sine * y, cosine * y - sine * x


def random_colour(rng: Rng, value: tuple[float, float] = (0.15, 0.95)) -> Colour:
    """A colour of random hue, mostly muted saturation and the given range of brightness."""
    return hsv(rng.random(), rng.beta(1.1, 2.2), rng.uniform(*value))


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """RGB of one HSV colour, all in 0..1: (3,)."""
    ramp = np.abs((hue * 6.0 + np.array([0.0, 4.0, 2.0])) % 6.0 - 3.0) - 1.0
    return (value * (1.0 - saturation + saturation * np.clip(ramp, 0, 1))).astype(np.float32)


def near_colour(rng: Rng, colour: Colour, distance: float) -> Colour:
    """A colour about ``distance`` (0..1) lighter or darker, with a small change of hue."""
    sign = -1.0 if float(colour.mean()) > rng.uniform(0.25, 0.75) else 1.0
    return np.clip(colour + sign * distance + rng.normal(0, 0.25 * distance, 3), 0, 1).astype(np.float32)


def mix(first: Image | Colour, second: Image | Colour, weight: Field) -> Image:
    """``first`` where ``weight`` is 0 and ``second`` where it is 1; weight (H, W), result (H, W, 3)."""
    return first + (second - first) * weight[..., None]


def step(field: Field, width: float) -> Field:
    """Anti-aliased indicator of ``field < 0`` with an edge ``width`` wide in the field's units: 0..1."""
    return np.clip(0.5 - field / max(width, 1e-6), 0, 1)


def emboss(height: Field, angle: float, strength: float) -> Field:
    """Brightness change of a relief lit from ``angle``: the directional derivative, (H, W), around 0."""
    gradient_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3)
    gradient_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3)
    return strength * (np.float32(np.cos(angle)) * gradient_x + np.float32(np.sin(angle)) * gradient_y)


def blur(image: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Gaussian blur with ``sigma`` in pixels; nothing happens below 0.2."""
    if sigma < 0.2:
        return image
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
