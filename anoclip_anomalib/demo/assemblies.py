"""Objects that the encoder is trained on, part two: those made of many pieces. See ``objects.py``."""

import numpy as np

from anoclip_anomalib.demo import shapes
from anoclip_anomalib.demo.noise import Rng, hsv, mix, near_colour, random_colour, smooth_noise, step
from anoclip_anomalib.demo.parts import paint, pose, surface
from anoclip_anomalib.demo.scene import Scene, object_scene


def circuit_board(rng: Rng, size: int) -> Scene:
    """A board with chips, pads, tracks and holes in a regular arrangement."""
    x, y, pixel = pose(rng, size, upright=True)
    half_x, half_y = rng.uniform(0.6, 0.85, 2)
    distance = shapes.box(x, y, half_x, half_y, 0.05)
    base = hsv(rng.choice([0.33, 0.6, 0.0, rng.random()]), rng.uniform(0.3, 0.8), rng.uniform(0.2, 0.6))
    image = surface(rng, size, distance, base)
    for _ in range(int(rng.integers(2, 7))):
        offset = np.float32(rng.uniform(-0.6, 0.6))
        track = np.abs((x if rng.random() < 0.5 else y) - offset) - rng.uniform(0.01, 0.03)
        image = paint(image, near_colour(rng, base, 0.15), track, pixel)
    cells = int(rng.integers(2, 4))
    for row, column in np.ndindex(cells, cells):
        if rng.random() < 0.3:
            continue
        u = x - np.float32(half_x * ((2 * column + 1) / cells - 1))
        v = y - np.float32(half_y * ((2 * row + 1) / cells - 1))
        width, height = rng.uniform(0.25, 0.75, 2) * np.array([half_x, half_y]) / cells
        if rng.random() < 0.5:
            pins = np.maximum(np.abs(u) - width * 1.25, np.abs(v) - height)
            pins = np.maximum(pins, 0.02 - np.abs((v / (height + 1e-3) * 3) % 1 - 0.5) * 0.08)
            image = paint(image, hsv(0.12, 0.1, 0.8), pins.astype(np.float32), pixel)
        part = shapes.box(u, v, width, height, 0.02) if rng.random() < 0.75 else shapes.disc(u, v, min(width, height))
        image = paint(image, random_colour(rng, (0.05, 0.9)), part, pixel)
    return object_scene(rng, image, step(distance, pixel))


def biscuit(rng: Rng, size: int) -> Scene:
    """A baked disc: browned rim, crumb relief, often chips, pricks or embossed lines."""
    x, y, pixel = pose(rng, size)
    distance = shapes.blob(rng, x, y, rng.uniform(0.55, 0.8), rng.uniform(0, 0.06))
    if rng.random() < 0.2:
        distance = shapes.box(x, y, rng.uniform(0.5, 0.75), rng.uniform(0.5, 0.75), 0.1)
    dough = hsv(rng.uniform(0.06, 0.12), rng.uniform(0.3, 0.7), rng.uniform(0.5, 0.95))
    relief = smooth_noise(rng, size, rng.uniform(6, 14), 3, 0.7)
    image = surface(rng, size, distance, dough) * (1 - rng.uniform(0.05, 0.35) * relief)[..., None]
    rim = np.exp(-np.square(distance / rng.uniform(0.08, 0.25)))
    image = mix(image, dough * np.float32(0.55), np.float32(rng.uniform(0, 0.7)) * rim)
    kind = rng.random()
    if kind < 0.5:
        chip = hsv(rng.uniform(0.0, 0.1), rng.uniform(0.2, 0.7), rng.uniform(0.1, 0.4))
        for _ in range(int(rng.integers(4, 16))):
            angle, radius = rng.uniform(0, 6.3), 0.6 * np.sqrt(rng.random())
            u, v = x - np.float32(radius * np.cos(angle)), y - np.float32(radius * np.sin(angle))
            image = paint(image, chip, shapes.blob(rng, u, v, rng.uniform(0.03, 0.1), 0.3), pixel)
    elif kind < 0.75:
        pricks = np.hypot((x * 4) % 1 - 0.5, (y * 4) % 1 - 0.5) - 0.13
        image = paint(image, dough * np.float32(0.5), np.maximum(pricks / 4, distance + 0.1).astype(np.float32), pixel, 0.8)
    return object_scene(rng, image, step(distance, pixel))


def connector(rng: Rng, size: int) -> Scene:
    """A housing with rows of identical pins or slots."""
    x, y, pixel = pose(rng, size)
    half_x, half_y = rng.uniform(0.55, 0.85), rng.uniform(0.2, 0.5)
    distance = shapes.box(x, y, half_x, half_y, rng.uniform(0, 0.12))
    image = surface(rng, size, distance)
    columns, rows = int(rng.integers(3, 9)), int(rng.integers(1, 4))
    u = (x / half_x * 1.15 + 1) * columns / 2
    v = (y / half_y * 1.25 + 1) * rows / 2
    inside = np.maximum(np.abs(u - columns / 2) - columns / 2, np.abs(v - rows / 2) - rows / 2)
    hole_u, hole_v = np.abs(u % 1 - 0.5) - rng.uniform(0.2, 0.35), np.abs(v % 1 - 0.5) - rng.uniform(0.2, 0.35)
    slots = np.maximum(np.maximum(hole_u, hole_v), inside) * (half_x / columns)
    image = paint(image, near_colour(rng, image.mean((0, 1)), rng.uniform(0.2, 0.5)), slots.astype(np.float32), pixel)
    return object_scene(rng, image, step(distance, pixel))


def cable(rng: Rng, size: int) -> Scene:
    """A cut cable: a sheath around a few wires with cores."""
    x, y, pixel = pose(rng, size)
    outline = shapes.disc(x, y, rng.uniform(0.65, 0.82))
    image = surface(rng, size, outline)
    count = int(rng.integers(2, 6))
    for index in range(count):
        angle = 2 * np.pi * index / count
        u, v = x - np.float32(0.38 * np.cos(angle)), y - np.float32(0.38 * np.sin(angle))
        radius = 0.9 * min(0.38 * np.sin(np.pi / max(count, 2)), 0.3)
        image = paint(image, random_colour(rng), shapes.disc(u, v, radius), pixel)
        image = paint(image, hsv(0.07, 0.55, 0.75), shapes.disc(u, v, radius * 0.6), pixel)
    return object_scene(rng, image, step(outline, pixel))


def casting(rng: Rng, size: int) -> Scene:
    """A part of no particular kind: random outline, rings, rows of holes, printed marks."""
    x, y, pixel = pose(rng, size)
    kind = rng.random()
    radius = rng.uniform(0.5, 0.75)
    if kind < 0.35:
        distance = shapes.blob(rng, x, y, radius, rng.uniform(0.05, 0.35))
    elif kind < 0.6:
        distance = shapes.polygon(x, y, radius, int(rng.integers(3, 9)))
    elif kind < 0.8:
        distance = shapes.box(x, y, radius, radius * rng.uniform(0.3, 1), rng.uniform(0, 0.2))
    else:
        distance = shapes.gear(x, y, radius, int(rng.integers(3, 8)), rng.uniform(0.05, 0.15), 1)
    image = surface(rng, size, distance)
    order = int(rng.integers(3, 9))
    if rng.random() < 0.6:
        mark = shapes.ring(x, y, radius * rng.uniform(0.4, 0.75), order) - rng.uniform(0.03, 0.1)
        image = paint(image, random_colour(rng), mark, pixel, rng.uniform(0.5, 1))
    if rng.random() < 0.5:
        image = paint(image, random_colour(rng), np.abs(distance + rng.uniform(0.08, 0.3)) - 0.025, pixel, rng.uniform(0.4, 1))
    if rng.random() < 0.5:
        image = paint(image, random_colour(rng), shapes.disc(x, y, radius * rng.uniform(0.1, 0.4)), pixel)
    return object_scene(rng, image, step(distance, pixel))


def blister_pack(rng: Rng, size: int) -> Scene:
    """A row of identical parts on a carrier, as in packaging."""
    x, y, pixel = pose(rng, size, low=0.9)
    outline = shapes.box(x, y, 0.85, 0.7, 0.08)
    image = surface(rng, size, outline)
    cells = int(rng.integers(2, 5))
    u, v = ((x / 0.8 + 1) * cells / 2) % 1 - 0.5, ((y / 0.65 + 1) * cells / 2) % 1 - 0.5
    shape = shapes.disc(u, v, 0.33) if rng.random() < 0.6 else shapes.box(u, v, 0.35, 0.28, 0.08)
    unit = np.maximum(shape / cells, outline + 0.04).astype(np.float32)
    image = paint(image, random_colour(rng), unit, pixel)
    return object_scene(rng, image + shapes.bevel(unit, 0.1, rng.uniform(0, 6.3), 0.15)[..., None], step(outline, pixel))
