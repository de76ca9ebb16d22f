"""Variation of good parts that is no defect: materials, natural marks, print, gleams, and what lies around a part.

Each function returns a changed scene. They are applied before a defect is drawn, to good and bad parts alike.
"""

import string

import cv2
import numpy as np

from anoclip_anomalib.demo.defects import contrasting, lines, place
from anoclip_anomalib.demo.noise import Rng, blur, emboss, mix, near_colour, random_colour, smooth_noise, step, turned
from anoclip_anomalib.demo.photo_textures import PhotoTextures
from anoclip_anomalib.demo.scene import Scene, object_scene
from anoclip_anomalib.demo.textures import TEXTURES


def coverage_of(scene: Scene) -> np.ndarray:
    """Anti-aliased coverage 0..1 of the part, (H, W)."""
    return blur(scene.foreground.astype(np.float32), 0.7)


def material(rng: Rng, size: int, photos: PhotoTextures | None, *, even: bool = True) -> np.ndarray:
    """A surface (size, size, 3): photographed if there are photographs (even ones for parts), else drawn."""
    if photos is not None and rng.random() < 0.85:
        return photos.draw(rng, size, even=even)
    return TEXTURES[str(rng.choice(list(TEXTURES)))](rng, size)


def other_material(rng: Rng, scene: Scene, photos: PhotoTextures | None) -> Scene:
    """The part is made of another material; much or little of its own shading stays."""
    own = scene.image.mean(2, keepdims=True) / max(float(scene.image[scene.foreground].mean()), 0.05)
    shading = 1 + np.float32(rng.uniform(0.1, 0.9)) * (np.clip(own, 0.3, 1.8) - 1)
    image = material(rng, scene.size, photos) * shading
    return Scene(mix(scene.background, image.astype(np.float32), coverage_of(scene)), scene.foreground, scene.background)


def other_ground(rng: Rng, scene: Scene, photos: PhotoTextures | None) -> Scene:
    """The part lies on another ground, with a shadow."""
    cover = coverage_of(scene)
    ground = material(rng, scene.size, photos, even=rng.random() < 0.7)
    if rng.random() < 0.5:
        ground = ground + np.float32(rng.uniform(0.2, 0.8)) * (ground.mean((0, 1)) - ground)
    shift = tuple(np.round(rng.uniform(-0.04, 0.04, 2) * scene.size).astype(int))
    shadow = np.roll(blur(cover, rng.uniform(0.008, 0.05) * scene.size), shift, (0, 1))
    ground = (ground * (1 - np.float32(rng.uniform(0, 0.7)) * shadow)[..., None]).astype(np.float32)
    return Scene(mix(ground, scene.image, cover), scene.foreground, ground)


def relief(rng: Rng, scene: Scene) -> Scene:
    """The whole part is rough: crumbs, pores, wrinkles or natural furrows, everywhere alike."""
    height = smooth_noise(rng, scene.size, rng.uniform(6, 40), 3, 0.7)
    image = scene.image + (emboss(height, rng.uniform(0, 6.3), rng.uniform(0.02, 0.2)) * scene.foreground)[..., None]
    if rng.random() < 0.5:
        furrows = np.abs(smooth_noise(rng, scene.size, rng.uniform(4, 12), 3, 0.6) - 0.5)
        depth = np.exp(-furrows / rng.uniform(0.006, 0.03)) * (smooth_noise(rng, scene.size, 4, 1) > rng.uniform(0.2, 0.6))
        image = image * (1 - np.float32(rng.uniform(0.1, 0.5)) * depth * scene.foreground)[..., None]
    return Scene(image.astype(np.float32), scene.foreground, scene.background)


def marks(rng: Rng, scene: Scene) -> Scene:
    """Many marks of one kind all over the part: inclusions, dots, holes, studs; in rows or strewn."""
    canvas: np.ndarray = np.zeros((scene.size, scene.size), np.uint8)
    count = int(rng.integers(3, 7))
    pitch = scene.size / count
    jitter = rng.choice([0.02, 0.12, 0.45])
    radius = rng.uniform(0.08, 0.3) * pitch
    shape = int(rng.integers(3))
    for row, column in np.ndindex(count + 2, count + 2):  # also beyond the picture's edges
        if rng.random() < 0.25 * (jitter > 0.1):
            continue
        centre = (np.array([column, row]) - 0.5 + rng.uniform(-jitter, jitter, 2)) * pitch
        radii = radius * rng.uniform(0.6, 1.3, 2) if jitter > 0.1 else np.array([radius, radius])
        point, reach = np.round(centre * 16).astype(int), np.maximum(1, np.round(radii * 16)).astype(int)
        if shape == 0:
            cv2.rectangle(canvas, (point - reach).tolist(), (point + reach).tolist(), 255, -1, cv2.LINE_AA, 4)
        else:
            cv2.ellipse(canvas, point.tolist(), reach.tolist(), rng.uniform(0, 180), 0, 360, 255, -1, cv2.LINE_AA, 4)
    cover = canvas.astype(np.float32) / 255 * cv2.erode(scene.foreground.astype(np.uint8), np.ones((5, 5), np.uint8))
    image = mix(scene.image, contrasting(rng, scene.image, cover, 0.15), cover * np.float32(rng.uniform(0.5, 1)))
    image = image + emboss(blur(cover, 0.004 * scene.size), rng.uniform(0, 6.3), rng.uniform(0, 0.12))[..., None]
    return Scene(image.astype(np.float32), scene.foreground, scene.background)


def lettering(rng: Rng, scene: Scene) -> Scene:
    """A printed or engraved text in the middle of the part."""
    canvas: np.ndarray = np.zeros((scene.size, scene.size), np.uint8)
    rows, columns = np.nonzero(scene.foreground)
    text = "".join(rng.choice(list(string.ascii_uppercase + string.digits), int(rng.integers(2, 8))))
    scale = rng.uniform(0.5, 1.5) * scene.size / 256
    anchor = (int(columns.mean() - 9 * scale * len(text)), int(rows.mean() + rng.uniform(-0.2, 0.2) * scene.size))
    cv2.putText(canvas, text, anchor, int(rng.choice([0, 2, 3, 4])), scale, 255, max(1, round(2 * scale)), cv2.LINE_AA)
    cover = canvas.astype(np.float32) / 255 * scene.foreground
    image = mix(scene.image, contrasting(rng, scene.image, cover, 0.2), cover * np.float32(rng.uniform(0.4, 1)))
    return Scene(image, scene.foreground, scene.background)


def gleams(rng: Rng, scene: Scene) -> Scene:
    """Soft highlights and streaks of light on a glossy part."""
    size = scene.size
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    total: np.ndarray = np.zeros((size, size), np.float32)
    angle = rng.uniform(0, np.pi)
    for _ in range(int(rng.integers(1, 4))):
        row, column = place(rng, scene)
        u, v = x - np.float32(column / size), y - np.float32(row / size)
        along, across = turned(u, v, angle)
        gleam = np.exp(-np.square(along / rng.uniform(0.05, 0.6)) - np.square(across / rng.uniform(0.03, 0.15)))
        total += np.float32(rng.uniform(0.1, 0.5)) * gleam
    image = scene.image + (total * coverage_of(scene))[..., None]
    return Scene(image.astype(np.float32), scene.foreground, scene.background)


def _axis(rng: Rng, scene: Scene) -> np.ndarray:
    """A coordinate along or across the part, -1 to 1 from one end of it to the other, (H, W)."""
    angle = float(rng.choice([0.0, np.pi / 2])) if rng.random() < 0.6 else rng.uniform(0, np.pi)
    y, x = np.mgrid[: scene.size, : scene.size].astype(np.float32)
    where, _ = turned(x, y, angle)
    low, high = (float(end) for end in np.quantile(where[scene.foreground], (0.0, 1.0)))
    return (2 * (where - np.float32(low)) / np.float32(max(high - low, 1.0)) - 1).astype(np.float32)


def sections(rng: Rng, scene: Scene) -> Scene:
    """The part is made of pieces in a row, or bears bands of paint: other colours, the part's own shading."""
    along = _axis(rng, scene)
    centre = np.abs(along) if rng.random() < 0.5 else along  # the same at both ends, or not
    image = scene.image
    for _ in range(int(rng.integers(1, 4))):
        low, width = rng.uniform(-1, 0.9), rng.uniform(0.05, 0.5)
        band = step(np.abs(centre - np.float32(low + width / 2)) - np.float32(width / 2), 3 / scene.size)
        shade = image.mean(2, keepdims=True) / max(float(image[scene.foreground].mean()), 0.05)
        colour = random_colour(rng) * (1 + np.float32(rng.uniform(0.2, 1)) * (np.clip(shade, 0.4, 1.6) - 1))
        image = mix(image, colour.astype(np.float32), band * coverage_of(scene))
    return Scene(image, scene.foreground, scene.background)


def rounded(rng: Rng, scene: Scene) -> Scene:
    """The part is round across an axis: darker towards both sides, with a narrow line of light along it."""
    across = _axis(rng, scene) - np.float32(rng.uniform(-0.3, 0.3))
    shading = 1 - np.float32(rng.uniform(0.1, 0.6)) * np.clip(np.square(across), 0, 1.2)
    shine = np.exp(-np.square((across - np.float32(rng.uniform(-0.5, 0.5))) / np.float32(rng.uniform(0.05, 0.3))))
    factor = shading + np.float32(rng.uniform(0, 0.4)) * shine
    image = scene.image * (1 + coverage_of(scene) * (factor - 1))[..., None]
    return Scene(image.astype(np.float32), scene.foreground, scene.background)


def clutter(rng: Rng, scene: Scene) -> Scene:
    """Around the part: edges of trays and tables, bars, crumbs, reflections; the part itself is left alone."""
    size = scene.size
    y, x = np.mgrid[:size, :size].astype(np.float32)
    ground = scene.background.copy()
    kind = rng.random()
    if kind < 0.6:
        for _ in range(int(rng.integers(1, 4))):
            where, _ = turned(x, y, float(rng.choice([0.0, np.pi / 2])) + rng.normal(0, 0.1))
            low, width = rng.uniform(-0.1, 1.1) * size, rng.uniform(0.01, 0.25) * size
            bar = step(np.abs(where - np.float32(low)) - np.float32(width / 2), rng.uniform(1, 4))
            ground = mix(ground, random_colour(rng, (0.0, 1.0)), bar * np.float32(rng.uniform(0.4, 1)))
    if kind > 0.4:
        canvas: np.ndarray = np.zeros((size, size), np.uint8)
        for _ in range(int(rng.integers(2, 25))):
            centre = np.round(rng.uniform(0, size, 2) * 16).astype(int).tolist()
            cv2.circle(canvas, centre, round(rng.uniform(0.5, 3) * size / 16), 255, -1, cv2.LINE_AA, 4)
        if rng.random() < 0.4:
            path = np.cumsum(rng.normal(0, 0.04, (20, 2)), 0) * size + rng.uniform(0, size, 2)
            canvas = np.maximum(canvas, (255 * lines(size, [path], rng.uniform(1, 6))).astype(np.uint8))
        ground = mix(ground, near_colour(rng, ground.mean((0, 1)), rng.uniform(0.1, 0.6)), canvas.astype(np.float32) / 255)
    return Scene(mix(ground.astype(np.float32), scene.image, coverage_of(scene)), scene.foreground, ground.astype(np.float32))


def several(rng: Rng, scene: Scene) -> Scene:
    """Some copies of the part, each turned and at its own place on the ground."""
    size = scene.size
    cover: np.ndarray = np.zeros((size, size), np.float32)
    ground, image = scene.background, scene.background
    cells = int(rng.integers(2, 4))
    scale = rng.uniform(0.8, 1.1) / cells
    part = blur(scene.image, 0.4 / scale)
    alpha = coverage_of(scene)
    spin = rng.choice([0.0, 20.0, 180.0])
    angle = rng.uniform(0, 360)
    for index in range(cells * cells):
        if rng.random() < 0.15:
            continue
        matrix = cv2.getRotationMatrix2D((size / 2, size / 2), angle + rng.uniform(-1, 1) * spin, scale)
        centre = (np.array([index % cells, index // cells]) + 0.5) / cells - 0.5
        matrix[:, 2] += (centre + rng.normal(0, 0.01, 2)) * size
        copy = cv2.warpAffine(part, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        over = cv2.warpAffine(alpha, matrix, (size, size), flags=cv2.INTER_LINEAR)
        image = mix(image, copy, over)
        cover = np.maximum(cover, over)
    return Scene(image, cover > 0.5, ground) if (cover > 0.5).any() else scene


def loaf(rng: Rng, size: int) -> Scene:
    """A lump of something natural or baked: irregular outline, rough skin, a darker rim, at times inclusions."""
    y, x = (np.mgrid[:size, :size].astype(np.float32) - size / 2) / (size / 2)
    x, y = x - np.float32(rng.normal(0, 0.08)), y - np.float32(rng.normal(0, 0.08))
    theta = np.arctan2(y, x)
    u, v = turned(x, y, rng.uniform(0, np.pi))
    stretch, power = np.float32(rng.uniform(1, 1.7)), rng.uniform(2, 5)
    radius = (np.abs(u) ** power + np.abs(v * stretch) ** power) ** (1 / power)
    wobble = sum(
        np.float32(rng.normal(0, 0.05) / k) * np.cos(k * theta + np.float32(rng.uniform(0, 6.3))) for k in (2, 3, 5, 8)
    )
    ragged = np.float32(rng.uniform(0, 0.12)) * (smooth_noise(rng, size, 12, 3) - 0.5)
    distance = radius - np.float32(rng.uniform(0.45, 0.8)) + wobble + ragged
    colour = random_colour(rng, (0.3, 0.95))
    skin = mix(colour, near_colour(rng, colour, rng.uniform(0.05, 0.3)), smooth_noise(rng, size, rng.uniform(3, 12), 4, 0.7))
    rim = np.exp(-np.square(distance / rng.uniform(0.05, 0.3)))
    image = skin * (1 - np.float32(rng.uniform(0, 0.6)) * rim)[..., None]
    scene = relief(rng, object_scene(rng, image.astype(np.float32), step(distance.astype(np.float32), 2 / size)))
    return marks(rng, scene) if rng.random() < 0.4 else scene


OF_THE_PART = ((sections, 0.15), (rounded, 0.15), (relief, 0.25), (marks, 0.12), (lettering, 0.12), (gleams, 0.2))
"""Variation of the part itself, in the order in which it is applied, and its share of the parts."""
AROUND_IT = ((clutter, 0.35), (several, 0.12))
"""The same of what is seen besides."""
