"""Outlines as signed distances (negative inside) of coordinates x, y; bevels. All (H, W), lengths in half image widths."""

import numpy as np

from anoclip_anomalib.demo.noise import Field, Rng, emboss


def disc(x: Field, y: Field, radius: float) -> Field:
    """A circle around the origin."""
    return np.hypot(x, y) - np.float32(radius)


def box(x: Field, y: Field, half_x: float, half_y: float, corner: float = 0.0) -> Field:
    """A rectangle with rounded corners."""
    u, v = np.abs(x) - np.float32(half_x - corner), np.abs(y) - np.float32(half_y - corner)
    return np.hypot(np.maximum(u, 0), np.maximum(v, 0)) + np.minimum(np.maximum(u, v), 0) - np.float32(corner)


def polygon(x: Field, y: Field, radius: float, sides: int) -> Field:
    """A regular polygon with inscribed radius ``radius``."""
    sector = np.float32(2 * np.pi / sides)
    angle = (np.arctan2(y, x) + sector / 2) % sector - sector / 2
    return np.hypot(x, y) * np.cos(angle) - np.float32(radius)


def gear(x: Field, y: Field, radius: float, teeth: int, depth: float, hardness: float = 2.0) -> Field:
    """A disc with ``teeth`` teeth of height ``depth``."""
    wave = np.tanh(np.float32(hardness) * np.cos(np.float32(teeth) * np.arctan2(y, x)))
    return np.hypot(x, y) - np.float32(radius) - np.float32(depth) * wave


def blob(rng: Rng, x: Field, y: Field, radius: float, roughness: float, orders: int = 5) -> Field:
    """A closed outline whose radius varies smoothly with the angle."""
    angle = np.arctan2(y, x)
    outline = np.full_like(angle, radius)
    for order in range(2, 2 + orders):
        amplitude = np.float32(roughness * radius * rng.normal() / order)
        outline += amplitude * np.cos(order * angle + np.float32(rng.uniform(0, 6.3)))
    return np.hypot(x, y) - outline


def profile(x: Field, y: Field, heights: np.ndarray, widths: np.ndarray) -> Field:
    """A body symmetric about the y axis: half width interpolated from (heights, widths); a bottle, say."""
    sides = np.abs(x) - np.interp(y, heights, widths).astype(np.float32)
    return np.maximum(sides, np.maximum(np.float32(heights[0]) - y, y - np.float32(heights[-1])))


def ring(x: Field, y: Field, radius: float, count: int) -> Field:
    """The distance from the nearest of ``count`` points around the origin, ``radius`` away from it: for holes, say."""
    sector = 2 * np.pi / count
    angle, rho = (np.arctan2(y, x) % sector) - sector / 2, np.hypot(x, y)
    return np.hypot(rho * np.cos(angle) - radius, rho * np.sin(angle))


def bevel(distance: Field, width: float, angle: float, strength: float) -> Field:
    """Shading of an edge rounded over ``width``, from the signed distance to the outline (negative inside)."""
    return emboss(np.sqrt(np.clip(-distance / max(width, 1e-3), 0, 1)), angle, strength)
