"""Categories and defect looks of the demonstration data. The encoder is trained on none of them.

Unlike the training categories, each of these is one product with a fixed look; pose, light and small details vary
from image to image, as on a production line.
"""

import cv2
import numpy as np

from anoclip_anomalib.demo import by_name, shapes
from anoclip_anomalib.demo.defects import about, changed, lines, place, region, turned_about
from anoclip_anomalib.demo.noise import Field, Image, Rng, blur, coordinates, emboss, mix, smooth_noise, step
from anoclip_anomalib.demo.scene import Defect, Draw, Mask, Scene, texture_scene


def _colour(*rgb: float) -> np.ndarray:
    return np.array(rgb, np.float32)


def _on_ground(image: Image, alpha: Field, background: Image) -> Scene:
    shadow = np.roll(blur(alpha, 0.02 * image.shape[0]), image.shape[0] // 50, (0, 1))
    background = background * (1 - np.float32(0.35) * shadow)[..., None]
    return Scene(mix(background, image, alpha), alpha > 0.5, background.astype(np.float32))


def _speckled(rng: Rng, size: int, colour: np.ndarray, amount: float, cells: float) -> Image:
    return (colour + np.float32(amount) * (smooth_noise(rng, size, cells, 3) - 0.5)[..., None]).astype(np.float32)


def herringbone(rng: Rng, size: int) -> Scene:
    """Parquet of oak staves laid in zigzag."""
    x, y = coordinates(rng, size, angle=rng.normal(0, 0.03), shift=0.4)
    pitch = 2.2
    zigzag = np.abs((x * pitch) % 2 - 1)
    u = y * pitch * 1.6 + zigzag * 1.6
    stave = np.floor(u).astype(int) % 97 * 2 + (np.floor(x * pitch) % 2).astype(int)
    tone = rng.random(256, dtype=np.float32)[stave % 256]
    grain = smooth_noise(rng, size, 26, 2, stretch=5)
    oak = mix(_colour(0.72, 0.55, 0.36), _colour(0.52, 0.36, 0.21), np.clip(0.55 * tone + 0.4 * grain, 0, 1))
    seam = np.minimum(0.5 - np.abs(u % 1 - 0.5), 0.5 - np.abs((x * pitch) % 1 - 0.5)) - 0.035
    return texture_scene(mix(oak, _colour(0.25, 0.16, 0.1), step(seam.astype(np.float32), 4 * pitch / size)))


def snakeskin(rng: Rng, size: int) -> Scene:
    """Embossed scales in offset rows."""
    x, y = coordinates(rng, size, angle=rng.normal(0, 0.05), shift=0.3, warp=0.02)
    cycles = 4.5
    height: Field = np.zeros((size, size), np.float32)
    for layer in (0, 1):
        u = (x * cycles + 0.5 * layer) % 1 - 0.5
        v = (y * cycles + 0.5 * layer) % 1
        height = np.maximum(height, np.clip(1 - np.hypot(u * 1.9, v * 1.15), 0, 1))
    base = _speckled(rng, size, _colour(0.36, 0.42, 0.3), 0.08, 12)
    relief = emboss(np.sqrt(height), 0.9 + rng.normal(0, 0.1), 0.06)
    return texture_scene((base * (0.55 + 0.75 * height)[..., None] + relief[..., None]).astype(np.float32))


def metal_nut(rng: Rng, size: int) -> Scene:
    """A hexagonal nut with a chamfer and a threaded bore, seen from above."""
    x, y = coordinates(rng, size, scale=rng.uniform(0.97, 1.03), shift=0.06)
    bore = shapes.disc(x, y, 0.33)
    distance = np.maximum(shapes.polygon(x, y, 0.64, 6), -bore)
    lines_ = smooth_noise(rng, size, size / 3, 2, stretch=15)
    metal = (_colour(0.62, 0.62, 0.66) + np.float32(0.08) * (lines_ - 0.5)[..., None]).astype(np.float32)
    chamfer = shapes.bevel(shapes.disc(x, y, 0.62), 0.05, 0.7, 0.25) + shapes.bevel(distance, 0.08, 0.7, 0.12)
    thread = np.exp(-np.square((bore - 0.03) / 0.025)) * 0.25
    metal = metal + (chamfer - thread)[..., None].astype(np.float32)
    return _on_ground(metal, step(distance, 2.0 / size), _speckled(rng, size, _colour(0.14, 0.15, 0.18), 0.03, 20))


def button(rng: Rng, size: int) -> Scene:
    """A sewing button: rim, dished face, four holes."""
    x, y = coordinates(rng, size, scale=rng.uniform(0.97, 1.03), shift=0.06)
    distance = outline = shapes.disc(x, y, 0.7)
    for column, row in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        distance = np.maximum(distance, -shapes.disc(x - 0.15 * column, y - 0.15 * row, 0.065))
    image = _speckled(rng, size, _colour(0.18, 0.38, 0.55), 0.1, 6)
    relief = shapes.bevel(outline, 0.1, 0.7, 0.18) - shapes.bevel(shapes.disc(x, y, 0.5), 0.08, 0.7, 0.15)
    image = (image + relief[..., None]).astype(np.float32)
    return _on_ground(image, step(distance, 2.0 / size), _speckled(rng, size, _colour(0.8, 0.78, 0.74), 0.05, 25))


def fuse(rng: Rng, size: int) -> Scene:
    """A ceramic cartridge fuse: white body between two metal caps, a printed band."""
    x, y = coordinates(rng, size, angle=np.pi / 2 + rng.normal(0, 0.12), scale=rng.uniform(0.97, 1.03), shift=0.06)
    pixel = 2.0 / size
    body = shapes.box(x, y, 0.24, 0.78, 0.03)
    ends = np.maximum(shapes.box(x, y, 0.275, 0.8, 0.04), np.float32(0.5) - np.abs(y))
    distance = np.minimum(body, ends)
    image = _speckled(rng, size, _colour(0.88, 0.86, 0.8), 0.05, 18)
    image = mix(image, _colour(0.15, 0.35, 0.3), step(np.abs(y) - 0.06, pixel))
    image = mix(image, _colour(0.66, 0.6, 0.48), step(ends, pixel))
    shading = (1 - 0.55 * np.square(np.clip(x / 0.28, -1, 1)) + 0.15 * np.exp(-np.square((x + 0.1) / 0.04)))[..., None]
    image = (image * shading).astype(np.float32)
    return _on_ground(image, step(distance, pixel), _speckled(rng, size, _colour(0.35, 0.33, 0.32), 0.04, 10))


def fibre(rng: Rng, scene: Scene) -> tuple[Image, Mask]:
    """A curled hair or thread lies on the part."""
    size = scene.size
    row, column = place(rng, scene)
    turns = np.cumsum(rng.normal(0, 0.22, 40)) + rng.uniform(0, 6.3) + np.linspace(0, rng.normal(0, 3.0), 40)
    path = np.cumsum(np.stack([np.cos(turns), np.sin(turns)], 1), 0) * (rng.uniform(0.3, 0.6) * size / 40)
    coverage = lines(size, [path - path.mean(0) + np.array([column, row])], max(1.0, 0.012 * size))
    shadow = np.roll(blur(coverage, 0.006 * size), max(1, size // 90), (0, 1))
    image = scene.image * (1 - np.float32(0.4) * shadow)[..., None]
    colour = _colour(0.95, 0.9, 0.85) if scene.image[scene.foreground].mean() < 0.5 else _colour(0.55, 0.05, 0.1)
    return changed(scene, mix(image, colour, coverage), np.maximum(coverage, 0.6 * shadow))


def dent(rng: Rng, scene: Scene) -> tuple[Image, Mask]:
    """A depression that shows by its light and its shadow side alone."""
    coverage = region(rng, scene, rng.uniform(0.08, 0.13), 0.15, 0.1)
    light = emboss(blur(coverage, 0.02 * scene.size), rng.uniform(0, 6.3), 1.0)
    light = light / max(float(np.abs(light).max()), 1e-6)
    return changed(scene, scene.image + np.float32(0.35) * light[..., None], np.maximum(coverage, np.abs(light)))


def scuff(rng: Rng, scene: Scene) -> tuple[Image, Mask]:
    """An abraded area: many short parallel strokes."""
    size = scene.size
    row, column = place(rng, scene)
    angle = rng.uniform(0, np.pi)
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    paths = []
    for _ in range(int(rng.integers(14, 26))):
        centre = np.array([column, row]) + size * (rng.normal(0, 0.045) * along + rng.normal(0, 0.05) * across)
        reach = rng.uniform(0.02, 0.08) * size * along
        paths.append(np.stack([centre - reach, centre + reach]))
    strokes = lines(size, paths, max(1.0, 0.006 * size)) * scene.foreground
    haze = np.clip(blur(strokes, 0.025 * size) * 1.5, 0, 1) * scene.foreground
    colour = _colour(0.92, 0.92, 0.9) if scene.image[scene.foreground].mean() < 0.6 else _colour(0.35, 0.33, 0.32)
    return changed(scene, mix(scene.image, colour, np.clip(0.75 * strokes + 0.3 * haze, 0, 1)), np.maximum(strokes, haze))


def burn(rng: Rng, scene: Scene) -> tuple[Image, Mask]:
    """A scorch mark: charred, uneven core and a brown halo."""
    core = region(rng, scene, rng.uniform(0.05, 0.09), 0.5, 0.04)
    halo = np.clip(blur(core, 0.05 * scene.size) * 1.4, 0, 1) * scene.foreground
    image = mix(scene.image, scene.image * _colour(0.55, 0.36, 0.2), halo)
    char = 0.5 + 0.5 * smooth_noise(rng, scene.size, 30, 2)
    return changed(scene, mix(image, _colour(0.05, 0.04, 0.04), core * char), np.maximum(core, halo), 0.3)


def chipped_rim(rng: Rng, scene: Scene) -> tuple[Image, Mask]:
    """A bite out of the outline whose broken face is rough and lighter."""
    size = scene.size
    contours, _ = cv2.findContours(scene.foreground.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(contours, key=len)[:, 0]
    column, row = outline[int(rng.integers(len(outline)))]
    y, x = np.mgrid[:size, :size].astype(np.float32)
    distance = np.hypot(x - column, y - row) + 0.03 * size * (smooth_noise(rng, size, 10, 2) - 0.5)
    radius = np.float32(rng.uniform(0.08, 0.13) * size)
    bite = step(distance - radius, 1.5) * scene.foreground
    face = step(distance - 1.35 * radius, 1.5) * scene.foreground
    lighter = np.clip(scene.image.mean((0, 1)) * 0.3 + 0.6, 0, 1) * (0.55 + 0.45 * smooth_noise(rng, size, 24, 2))[..., None]
    return changed(scene, mix(mix(scene.image, lighter.astype(np.float32), face), scene.background, bite), face)


def droplet(rng: Rng, scene: Scene) -> tuple[Image, Mask]:
    """A drop of liquid: it magnifies what is below, darkens its edge and carries a highlight."""
    size = scene.size
    row, column = place(rng, scene)
    u, v = about(size, (row, column))
    radius = np.float32(rng.uniform(0.07, 0.12))
    rho = np.hypot(u, v * np.float32(rng.uniform(0.8, 1.2))) / radius
    inside = step(rho - 1, 1.5 / (float(radius) * size))
    pull = np.where(rho < 1, 0.45 + 0.4 * rho * rho, 1).astype(np.float32)
    seen = cv2.remap(
        scene.image, column + u * size * pull, row + v * size * pull, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    shade = 1.05 - 0.45 * np.clip(rho, 0, 1) ** 4
    highlight = np.exp(-(np.square(u / radius + 0.4) + np.square(v / radius + 0.4)) / 0.03)
    image = mix(scene.image, (seen * shade[..., None] + 0.8 * highlight[..., None]).astype(np.float32), inside)
    return changed(scene, image, inside)


def slit(rng: Rng, scene: Scene) -> tuple[Image, Mask]:
    """A straight cut that gapes: a dark lens with light lips."""
    along, across = turned_about(rng, scene.size, place(rng, scene))
    half = rng.uniform(0.1, 0.18)
    opening = np.float32(rng.uniform(0.012, 0.025)) * (1 - np.square(along / half))
    gap = step(np.where(np.abs(along) < half, np.abs(across) - opening, 1.0).astype(np.float32), 1.5 / scene.size)
    gap = gap * scene.foreground
    lips = np.clip(blur(gap, 0.012 * scene.size) * 2, 0, 1) * scene.foreground
    image = mix(scene.image, np.clip(scene.image * 1.2 + 0.2, 0, 1), lips)
    return changed(scene, mix(image, _colour(0.04, 0.03, 0.03), gap), np.maximum(gap, lips))


HELD_OUT_CATEGORIES: dict[str, Draw] = by_name(herringbone, snakeskin, metal_nut, button, fuse, space="_")
"""Category (folder name) -> generator of one scene."""

HELD_OUT_DEFECTS: dict[str, Defect] = by_name(fibre, dent, scuff, burn, chipped_rim, droplet, slit, space="_")
"""Defect kind (folder name) -> what it does to a scene."""

DEFECTS_OF: dict[str, tuple[str, ...]] = {
    "herringbone": ("slit", "burn", "droplet"),
    "snakeskin": ("scuff", "fibre", "slit"),
    "metal_nut": ("dent", "chipped_rim", "fibre"),
    "button": ("chipped_rim", "burn", "scuff"),
    "fuse": ("droplet", "scuff", "burn"),
}
"""Which defect kinds occur on which category."""
