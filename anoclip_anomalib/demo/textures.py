"""Textures that the encoder is trained on: each function draws one random sample (size, size, 3).

Held-out textures, which training never sees, live in ``held_out.py``.
"""

from collections.abc import Callable

import cv2
import numpy as np

from anoclip_anomalib.demo import by_name
from anoclip_anomalib.demo.noise import Image, Rng, coordinates, emboss, mix, near_colour, random_colour, smooth_noise, step


def _two_colours(rng: Rng, low: float = 0.1, high: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    first = random_colour(rng)
    return first, near_colour(rng, first, rng.uniform(low, high))


def _wave(field: np.ndarray, cycles: float, phase: float = 0.0) -> np.ndarray:
    """A cosine wave in 0..1 with ``cycles`` periods across the image."""
    return 0.5 + 0.5 * np.cos(np.float32(np.pi * cycles) * field + np.float32(phase))


def woven_cloth(rng: Rng, size: int) -> Image:
    """Over-under threads of two colours."""
    cycles = rng.uniform(4, 13)
    x, y = coordinates(rng, size, warp=rng.uniform(0, 0.06))
    over = (np.floor(x * cycles) + np.floor(y * cycles)) % 2 < 1
    height = np.where(over, _wave(y, 2 * cycles, np.pi), _wave(x, 2 * cycles, np.pi)).astype(np.float32)
    return mix(*_two_colours(rng, 0.02, 0.4), over.astype(np.float32)) * (1 - rng.uniform(0.2, 0.6) * (1 - height))[..., None]


def denim(rng: Rng, size: int) -> Image:
    """Diagonal ribs as in denim, with fine thread noise."""
    x, y = coordinates(rng, size, warp=rng.uniform(0, 0.08))
    ribs = _wave(x, rng.uniform(7, 20))
    threads = smooth_noise(rng, size, size / 4, 1, stretch=4)
    return mix(*_two_colours(rng), np.clip(0.7 * ribs + 0.4 * threads, 0, 1))


def wood(rng: Rng, size: int) -> Image:
    """Straight to wavy grain in browns, greys and painted tones."""
    x, y = coordinates(rng, size, warp=rng.uniform(0.1, 0.6))
    grain = _wave(y + 0.15 * x, rng.uniform(4, 14), rng.uniform(0, 6))
    fibre = smooth_noise(rng, size, rng.uniform(10, 24), 2, stretch=rng.uniform(4, 12))
    hue, value = rng.uniform(0.03, 0.12), rng.uniform(0.35, 0.9)
    base = np.clip(np.array([1.0, 1 - 2.2 * hue, 0.75 - 3 * hue]) * value, 0, 1).astype(np.float32)
    if rng.random() < 0.25:
        base = random_colour(rng)
    dark = base * np.float32(rng.uniform(0.5, 0.85))
    return mix(base, dark, np.clip(rng.uniform(0.2, 0.8) * grain + rng.uniform(0.2, 0.7) * fibre, 0, 1))


def leather(rng: Rng, size: int) -> Image:
    """Embossed pebbles."""
    height = smooth_noise(rng, size, rng.uniform(8, 22), 2, 0.6)
    creases = np.abs(smooth_noise(rng, size, rng.uniform(6, 14), 2) - 0.5) * 2
    relief = emboss(height + 0.5 * np.sqrt(creases), rng.uniform(0, 6.3), rng.uniform(0.08, 0.3))
    return random_colour(rng)[None, None] + relief[..., None]


def grid(rng: Rng, size: int) -> Image:
    """A grid of bars in front of a plain ground."""
    cycles = rng.uniform(2, 8)
    aspect = rng.choice([1.0, 1.0, rng.uniform(0.5, 2)])
    x, y = coordinates(rng, size, warp=rng.uniform(0, 0.04))
    width = rng.uniform(0.12, 0.35)
    bars = np.minimum(np.abs((x * cycles) % 1 - 0.5), np.abs((y * cycles * aspect) % 1 - 0.5)) - width / 2
    alpha = step(bars.astype(np.float32), 2 * cycles / size)
    ground, metal = _two_colours(rng, 0.25, 0.6)
    shade = 1 - 0.35 * np.clip((bars + width / 2) / width, 0, 1)
    return mix(np.broadcast_to(ground, (size, size, 3)), metal * shade[..., None], alpha).astype(np.float32)


def tile(rng: Rng, size: int) -> Image:
    """Tiles with joints, each in its own tone, plain or brick-like offset."""
    cycles = rng.uniform(1.2, 5)
    x, y = coordinates(rng, size, angle=rng.choice([0.0, np.pi / 4, rng.uniform(0, 3)]), shift=0.5)
    offset = rng.choice([0.0, 0.5]) * (np.floor(y * cycles) % 2)
    u, v = x * cycles * rng.choice([1.0, 0.5]) + offset, y * cycles
    joint = np.minimum(0.5 - np.abs(u % 1 - 0.5), 0.5 - np.abs(v % 1 - 0.5)) - rng.uniform(0.03, 0.09)
    tone = rng.random((64, 64), dtype=np.float32)[np.floor(u).astype(int) % 64, np.floor(v).astype(int) % 64]
    base, seam = _two_colours(rng, 0.15, 0.5)
    speckle = smooth_noise(rng, size, rng.uniform(6, 30), 2)
    face = base + (rng.uniform(0, 0.25) * (tone - 0.5) + rng.uniform(0, 0.2) * (speckle - 0.5))[..., None]
    return mix(face.astype(np.float32), seam, step(joint.astype(np.float32), 2 * cycles / size))


def stone(rng: Rng, size: int) -> Image:
    """Granite: grains of three tones."""
    grains = smooth_noise(rng, size, rng.uniform(12, 32), 2, 0.7)
    base, second = _two_colours(rng, 0.1, 0.4)
    third = random_colour(rng)
    image = mix(base, second, step(rng.uniform(0.3, 0.5) - grains, 0.1))
    return mix(image, third, step(rng.uniform(0.65, 0.8) - smooth_noise(rng, size, rng.uniform(12, 32), 1), 0.1))


def marble(rng: Rng, size: int) -> Image:
    """Veins along bent level lines."""
    x, y = coordinates(rng, size, warp=rng.uniform(0.6, 1.6))
    veins = 1 - np.abs(np.sin(x * np.float32(rng.uniform(2, 7)) + y))
    return mix(*_two_colours(rng, 0.1, 0.35), np.clip(veins ** rng.uniform(2, 6) + 0.3 * smooth_noise(rng, size, 6, 3), 0, 1))


def brushed_metal(rng: Rng, size: int) -> Image:
    """Fine parallel brushing with a broad gleam."""
    lines = smooth_noise(rng, size, size / 2, 2, 0.7, stretch=rng.uniform(12, 40))
    x, _ = coordinates(rng, size)
    tone = rng.uniform(0.35, 0.75) + rng.uniform(0.05, 0.25) * (lines - 0.5)
    tone = tone + rng.uniform(0, 0.25) * np.exp(-np.square((x - rng.uniform(-0.5, 0.5)) / 0.5))
    if rng.random() < 0.5:
        tone = tone.T
    return (tone[..., None] * (1 + 0.12 * (random_colour(rng) - 0.5))).astype(np.float32)


def corduroy(rng: Rng, size: int) -> Image:
    """Parallel stripes, soft or hard, one or two widths."""
    cycles = rng.uniform(3, 14)
    x, _ = coordinates(rng, size, warp=rng.uniform(0, 0.06))
    stripes = _wave(x, 2 * cycles) ** rng.uniform(0.5, 3)
    if rng.random() < 0.4:
        stripes = 0.6 * stripes + 0.4 * _wave(x, cycles)
    first, second = _two_colours(rng, 0.1, 0.6)
    fuzz = smooth_noise(rng, size, size / 3, 1)
    return mix(first, second, np.clip(stripes + rng.uniform(0, 0.3) * (fuzz - 0.5), 0, 1))


def carpet(rng: Rng, size: int) -> Image:
    """Dense tufts: fine noise of small tone differences."""
    tufts = smooth_noise(rng, size, rng.uniform(18, 40), 2, 0.8)
    return mix(*_two_colours(rng, 0.1, 0.5), tufts)


def perforated_sheet(rng: Rng, size: int) -> Image:
    """Regular round holes or studs."""
    cycles = rng.uniform(2.5, 8)
    x, y = coordinates(rng, size, warp=rng.uniform(0, 0.03))
    u = x * cycles + rng.choice([0.0, 0.5]) * (np.floor(y * cycles) % 2)
    radius = np.hypot(u % 1 - 0.5, (y * cycles) % 1 - 0.5)
    dots = step(radius.astype(np.float32) - rng.uniform(0.15, 0.36), 2.5 * cycles / size)
    return mix(*_two_colours(rng, 0.2, 0.6), dots) + emboss(dots, rng.uniform(0, 6.3), rng.uniform(0, 0.06))[..., None]


def checked_fabric(rng: Rng, size: int) -> Image:
    """Two-tone checks or plaid."""
    cycles = rng.uniform(2, 9)
    x, y = coordinates(rng, size, warp=rng.uniform(0, 0.05))
    first, second = _two_colours(rng, 0.1, 0.5)
    if rng.random() < 0.5:
        weight = (np.sin(np.pi * cycles * x) * np.sin(np.pi * cycles * y)) > 0
    else:
        weight = 0.5 * (_wave(x, cycles) > 0.5) + 0.5 * (_wave(y, cycles) > 0.5)
    return mix(first, second, cv2.GaussianBlur(weight.astype(np.float32), (3, 3), 0.6))


def knitwear(rng: Rng, size: int) -> Image:
    """Columns of V-shaped stitches."""
    cycles = rng.uniform(3, 9)
    x, y = coordinates(rng, size, angle=rng.uniform(-0.3, 0.3) + rng.choice([0, np.pi / 2]), warp=rng.uniform(0, 0.06))
    column = np.abs((x * cycles) % 1 - 0.5)
    stitch = _wave(y + column * 0.9 / cycles, 3 * cycles) * (0.4 + np.minimum(column, 0.5 - column) * 3)
    return mix(*_two_colours(rng, 0.2, 0.5), np.clip(stitch, 0, 1).astype(np.float32))


def foam(rng: Rng, size: int) -> Image:
    """Cells: distance to the nearest of jittered points."""
    count = int(rng.integers(4, 11))
    cell = np.stack(np.meshgrid(np.arange(-1, count + 1), np.arange(-1, count + 1)), -1).reshape(-1, 2)
    points = (cell + 0.5 + rng.uniform(-0.35, 0.35, cell.shape)) * (size / count)
    canvas: np.ndarray = np.full((size, size), 255, np.uint8)
    columns, rows = np.round(points).astype(int).T
    inside = (columns >= 0) & (columns < size) & (rows >= 0) & (rows < size)
    canvas[rows[inside], columns[inside]] = 0
    distance = cv2.distanceTransform(canvas, cv2.DIST_L2, 3) * np.float32(count / size)
    return mix(*_two_colours(rng, 0.2, 0.5), np.clip(distance**1.5 * rng.uniform(1, 2.5), 0, 1))


def chipboard(rng: Rng, size: int) -> Image:
    """Overlapping strands in random directions."""
    base = random_colour(rng)
    canvas = np.broadcast_to(base, (size, size, 3)).astype(np.float32).copy()
    count = int(rng.integers(60, 130))
    length, width, spread = rng.uniform(0.08, 0.22), rng.uniform(0.02, 0.06), rng.uniform(0.05, 0.18)
    centres = rng.uniform(0, size, (count, 2))
    angles = rng.uniform(0, np.pi, count)
    half = np.stack([np.cos(angles), np.sin(angles)], 1) * length * size / 2
    tones = np.clip(base + rng.normal(0, spread, (count, 1)), 0, 1)
    for centre, arm, tone in zip(centres, half, tones, strict=True):
        start, end = np.round(centre - arm).astype(int), np.round(centre + arm).astype(int)
        cv2.line(canvas, start.tolist(), end.tolist(), tone.tolist(), max(1, round(width * size)))
    return cv2.GaussianBlur(canvas, (3, 3), 0.5)


def painted_panel(rng: Rng, size: int) -> Image:
    """A nearly plain painted surface with a faint orange-peel relief."""
    relief = emboss(smooth_noise(rng, size, rng.uniform(6, 25), 2), rng.uniform(0, 6.3), rng.uniform(0, 0.08))
    return random_colour(rng)[None, None] + relief[..., None]


def tread_plate(rng: Rng, size: int) -> Image:
    """Embossed diamonds or ribs of a tread plate."""
    cycles = rng.uniform(2, 7)
    x, y = coordinates(rng, size)
    lean = np.where(np.floor(y * cycles) % 2 < 1, 1.0, -1.0)
    u, v = (x * cycles) % 1 - 0.5, (y * cycles) % 1 - 0.5
    height = step(np.hypot((u + lean * v) * 0.9, (u - lean * v) * 2.5).astype(np.float32) - 0.4, 0.25)
    base = random_colour(rng)
    return base + emboss(height, rng.uniform(0, 6.3), rng.uniform(0.05, 0.15))[..., None] + 0.1 * height[..., None]


TEXTURES: dict[str, Callable[[Rng, int], Image]] = by_name(
    *(woven_cloth, denim, wood, leather, grid, tile, stone, marble, brushed_metal, corduroy, carpet, perforated_sheet),
    *(checked_fabric, knitwear, foam, chipboard, painted_panel, tread_plate),
)
"""Class word -> generator of one sample. Also the grounds on which objects lie."""
