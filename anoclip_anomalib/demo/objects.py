"""Objects that the encoder is trained on: each function draws one random sample as a ``Scene``.

Held-out objects, which training never sees, live in ``held_out.py``.
"""

import numpy as np

from anoclip_anomalib.demo import by_name, shapes
from anoclip_anomalib.demo.assemblies import biscuit, blister_pack, cable, casting, circuit_board, connector
from anoclip_anomalib.demo.noise import Rng, hsv, mix, near_colour, random_colour, smooth_noise, step
from anoclip_anomalib.demo.parts import paint, pose, surface
from anoclip_anomalib.demo.scene import Draw, Scene, object_scene, texture_scene
from anoclip_anomalib.demo.textures import TEXTURES


def washer(rng: Rng, size: int) -> Scene:
    """A flat ring or disc with a bore."""
    x, y, pixel = pose(rng, size)
    outer = rng.uniform(0.55, 0.8)
    distance = np.maximum(shapes.disc(x, y, outer), -shapes.disc(x, y, outer * rng.uniform(0.2, 0.75)))
    return object_scene(rng, surface(rng, size, distance), step(distance, pixel))


def gear(rng: Rng, size: int) -> Scene:
    """A toothed wheel with a bore and often spokes' holes."""
    x, y, pixel = pose(rng, size)
    radius = rng.uniform(0.5, 0.68)
    distance = shapes.gear(x, y, radius, int(rng.integers(8, 24)), rng.uniform(0.04, 0.1), rng.uniform(1, 4))
    distance = np.maximum(distance, -shapes.disc(x, y, radius * rng.uniform(0.15, 0.35)))
    if rng.random() < 0.5:
        holes = shapes.ring(x, y, 0.63 * radius, int(rng.integers(3, 8))) - radius * rng.uniform(0.08, 0.17)
        distance = np.maximum(distance, -holes)
    return object_scene(rng, surface(rng, size, distance), step(distance, pixel))


def pill(rng: Rng, size: int) -> Scene:
    """A round or long tablet with or without a score line, or a two-colour capsule."""
    x, y, pixel = pose(rng, size)
    long, short = rng.uniform(0.45, 0.8), rng.uniform(0.25, 0.5)
    distance = shapes.box(x, y, max(long, short), short, short)
    image = surface(rng, size, distance, random_colour(rng, (0.5, 1.0)))
    kind = rng.random()
    if kind < 0.35:
        image = paint(image, random_colour(rng), -x + np.float32(rng.uniform(-0.1, 0.1)), pixel, 0.9)
    elif kind < 0.7:
        image = paint(image, 0.6 * image.mean((0, 1)), np.abs(x) - 0.02, pixel, 0.7)
    return object_scene(rng, image, step(distance, pixel))


def bolt(rng: Rng, size: int) -> Scene:
    """A screw from the side: head, shaft and thread."""
    x, y, pixel = pose(rng, size)
    length, half, head = rng.uniform(0.6, 0.85), rng.uniform(0.08, 0.18), rng.uniform(0.18, 0.35)
    pitch = rng.uniform(14, 40)
    thread = np.float32(0.02) * np.cos(y * np.float32(pitch) + x * np.float32(rng.uniform(0, 8))) * (y > -0.3 * length)
    shaft = shapes.box(x + thread, y, half, length)
    distance = np.minimum(shaft, shapes.box(x, y + np.float32(length), head, rng.uniform(0.08, 0.2), 0.04))
    image = surface(rng, size, distance, hsv(rng.random(), rng.uniform(0, 0.25), rng.uniform(0.3, 0.85)))
    roundness = 1 - rng.uniform(0.3, 0.7) * np.square(np.clip(x / half, -1, 1))
    ribs = 1 + rng.uniform(0.1, 0.35) * np.cos(y * np.float32(pitch)) * (shaft < 0) * (y > -0.3 * length)
    return object_scene(rng, image * (roundness * ribs)[..., None].astype(np.float32), step(distance, pixel))


def bottle(rng: Rng, size: int) -> Scene:
    """A bottle from the side, with or without label and cap; or from above as nested rings."""
    if rng.random() < 0.35:
        return ceramic_dish(rng, size)
    x, y, pixel = pose(rng, size, upright=True)
    body, neck = rng.uniform(0.25, 0.42), rng.uniform(0.08, 0.16)
    shoulder = rng.uniform(-0.4, -0.05)
    heights = np.array([-0.85, shoulder - 0.15, shoulder + 0.1, 0.85])
    distance = shapes.profile(x, y, heights, np.array([neck, neck, body, body]))
    image = surface(rng, size, distance) + (0.3 * np.exp(-np.square((x + 0.5 * body) / 0.06)))[..., None]
    if rng.random() < 0.6:
        low, high = sorted(rng.uniform(shoulder + 0.15, 0.75, 2))
        label = np.maximum(distance, np.abs(y - np.float32((low + high) / 2)) - np.float32(max(high - low, 0.25) / 2))
        image = paint(image, random_colour(rng, (0.5, 1)), label, pixel)
    if rng.random() < 0.6:
        image = paint(image, random_colour(rng), y + np.float32(rng.uniform(0.65, 0.75)), pixel)
    return object_scene(rng, image, step(distance, pixel))


def ceramic_dish(rng: Rng, size: int) -> Scene:
    """Nested rings of several tones: a decorated plate, a bottle mouth, a lid, a lens."""
    x, y, pixel = pose(rng, size)
    radius = rng.uniform(0.65, 0.85)
    outline = shapes.disc(x, y, radius)
    image = surface(rng, size, outline)
    colour = image.mean((0, 1))
    for ratio in np.sort(rng.uniform(0.2, 0.95, int(rng.integers(1, 5))))[::-1]:
        colour = near_colour(rng, colour, rng.uniform(0.05, 0.4)) if rng.random() < 0.7 else random_colour(rng)
        image = paint(image, colour, shapes.disc(x, y, radius * ratio), pixel, rng.uniform(0.5, 1))
    return object_scene(rng, image, step(outline, pixel))


def coin(rng: Rng, size: int) -> Scene:
    """A medal with a raised rim and an embossed figure."""
    x, y, pixel = pose(rng, size)
    radius = rng.uniform(0.55, 0.82)
    outline = shapes.disc(x, y, radius)
    image = surface(rng, size, outline, hsv(rng.uniform(0.05, 0.15), rng.uniform(0, 0.6), rng.uniform(0.4, 0.9)))
    light = rng.uniform(0, 6.3)
    figure = shapes.blob(rng, x, y, radius * rng.uniform(0.3, 0.55), 0.5)
    if rng.random() < 0.4:
        figure = shapes.gear(x, y, radius * 0.5, int(rng.integers(3, 9)), 0.1)
    rim = np.abs(outline + np.float32(0.08 * radius)) - 0.02
    relief = shapes.bevel(figure, 0.1, light, 0.2) + shapes.bevel(rim, 0.03, light, 0.15)
    return object_scene(rng, image + relief[..., None], step(outline, pixel))


def fruit(rng: Rng, size: int) -> Scene:
    """A rounded natural body with strong shading."""
    x, y, pixel = pose(rng, size)
    distance = shapes.blob(rng, x, y, rng.uniform(0.5, 0.75), rng.uniform(0.02, 0.15), 3)
    colour = hsv(rng.random(), rng.uniform(0.2, 0.9), rng.uniform(0.4, 0.95))
    speckle = smooth_noise(rng, size, rng.uniform(8, 30), 2)
    image = mix(colour, near_colour(rng, colour, 0.1), speckle)
    depth = np.sqrt(np.clip(-distance / 0.6, 0, 1))
    gleam = np.exp(-(np.square(x - 0.2) + np.square(y - 0.2)) / rng.uniform(0.02, 0.1))
    image = image * (0.45 + 0.6 * depth)[..., None] + (rng.uniform(0, 0.4) * gleam)[..., None].astype(np.float32)
    return object_scene(rng, image.astype(np.float32), step(distance, pixel))


def plate(rng: Rng, size: int) -> Scene:
    """A sheet-metal or plastic plate with a pattern of holes and a material of its own."""
    x, y, pixel = pose(rng, size)
    half_x, half_y = rng.uniform(0.4, 0.85, 2)
    distance = shapes.box(x, y, half_x, half_y, rng.uniform(0, 0.25))
    for column in (-1, 1):
        for row in (-1, 1) if rng.random() < 0.7 else (0,):
            u, v = x - np.float32(0.7 * half_x * column), y - np.float32(0.7 * half_y * row)
            distance = np.maximum(distance, -shapes.disc(u, v, 0.14 * min(half_x, half_y)))
    texture = TEXTURES[str(rng.choice(["brushed metal", "painted panel", "wood", "carpet", "perforated sheet"]))]
    image = texture(rng, size) + shapes.bevel(distance, 0.06, rng.uniform(0, 6.3), 0.15)[..., None]
    return object_scene(rng, image, step(distance, pixel))


def cap(rng: Rng, size: int) -> Scene:
    """A cap or lid from above: knurled rim, rings, a printed emblem."""
    x, y, pixel = pose(rng, size)
    radius = rng.uniform(0.6, 0.78)
    outline = shapes.gear(x, y, radius, int(rng.integers(20, 40)), 0.02)
    image = surface(rng, size, outline)
    image = image + shapes.bevel(shapes.disc(x, y, 0.8 * radius), 0.06, rng.uniform(0, 6.3), 0.2)[..., None]
    if rng.random() < 0.7:
        emblem = [shapes.polygon(x, y, 0.35 * radius, int(rng.integers(3, 7))), shapes.box(x, y, 0.5 * radius, 0.15 * radius)]
        image = paint(image, random_colour(rng), emblem[int(rng.integers(2))], pixel)
    return object_scene(rng, image, step(outline, pixel))


def key(rng: Rng, size: int) -> Scene:
    """A key-like part: bow with an eye, blade with teeth."""
    x, y, pixel = pose(rng, size)
    bow = shapes.disc(x + 0.5, y, 0.3) if rng.random() < 0.5 else shapes.polygon(x + 0.5, y, 0.28, 6)
    teeth = np.float32(0.04) * np.sign(np.sin(x * np.float32(rng.uniform(15, 30)))) * (y > 0)
    blade = shapes.box(x - 0.2, y + teeth, 0.6, rng.uniform(0.08, 0.13))
    distance = np.maximum(np.minimum(bow, blade), -shapes.disc(x + 0.55, y, 0.1))
    image = surface(rng, size, distance, hsv(rng.uniform(0.08, 0.16), rng.uniform(0, 0.5), rng.uniform(0.4, 0.9)))
    return object_scene(rng, image, step(distance, pixel))


def _textured(name: str) -> Draw:
    return lambda rng, size: texture_scene(TEXTURES[name](rng, size))


OBJECTS: dict[str, Draw] = by_name(
    *(washer, gear, pill, bolt, bottle, circuit_board, biscuit, coin, connector, fruit, cable, plate, casting, cap, key),
    *(blister_pack, ceramic_dish),
)
"""Class word -> generator of one scene."""

CATEGORIES: dict[str, Draw] = {**OBJECTS, **{name: _textured(name) for name in TEXTURES}}
"""All categories of the training images: objects and textures."""
