"""Defects as real parts have them: small, thin or faint, at an edge or across a part; for training adapters.

They join those of ``defects.py``. Like all training defects they know nothing of the looks in ``held_out.py``.
"""

import cv2
import numpy as np

from anoclip_anomalib.demo import by_name
from anoclip_anomalib.demo.defects import DEFECTS, changed, contrasting, lines, place, region, turned_about
from anoclip_anomalib.demo.noise import Field, Image, Rng, blur, emboss, mix, near_colour, smooth_noise, step
from anoclip_anomalib.demo.scene import Defect, Mask, Scene


def _shade(rng: Rng, scene: Scene, coverage: Field, low: float, high: float) -> np.ndarray:
    """A colour that differs from what the region shows by ``low`` to ``high``: mostly darker or lighter, at times tinted."""
    present = (scene.image * coverage[..., None]).sum((0, 1)) / max(float(coverage.sum()), 1e-3)
    if rng.random() < 0.25:
        return contrasting(rng, scene.image, coverage, low)
    return near_colour(rng, present.astype(np.float32), rng.uniform(low, high))


def _centre(rng: Rng, scene: Scene, at_edge: float = 0.0) -> tuple[float, float]:
    """A pixel (row, column) on the part; with probability ``at_edge`` on its outline, if it has one."""
    if rng.random() < at_edge and not scene.foreground.all():
        inner = cv2.erode(scene.foreground.astype(np.uint8), np.ones((3, 3), np.uint8))
        rows, columns = np.nonzero(scene.foreground & (inner == 0))
        if len(rows):
            index = int(rng.integers(len(rows)))
            return float(rows[index]), float(columns[index])
    return place(rng, scene)


def _blotch(rng: Rng, scene: Scene, radius: float, at_edge: float = 0.0) -> tuple[Field, Field]:
    """Coverage of an irregular small region and its signed distance in image widths (negative inside)."""
    u, v = turned_about(rng, scene.size, _centre(rng, scene, at_edge), 0.4)
    rough = smooth_noise(rng, scene.size, rng.uniform(0.3, 0.8) / radius, 2) - 0.5
    distance = np.hypot(u, v) - np.float32(radius) * (1 + np.float32(rng.uniform(0.2, 1.0)) * rough)
    return step(distance, 1.5 / scene.size) * scene.foreground, distance


def hairline(rng: Rng, scene: Scene) -> tuple[Image, Mask]:
    """One to three thin scratches, straight or bent, of little contrast."""
    row, column = place(rng, scene)
    angle = rng.uniform(0, np.pi)
    paths = []
    for _ in range(int(rng.integers(1, 4))):
        along = np.linspace(-0.5, 0.5, 16)
        heading = angle + rng.normal(0, 0.1) + rng.normal(0, 0.5) * along
        path = np.stack([np.cos(heading), np.sin(heading)], 1) * along[:, None] * rng.uniform(0.1, 0.7) * scene.size
        paths.append(path + rng.normal(0, 0.02, 2) * scene.size + np.array([column, row]))
    coverage = lines(scene.size, paths, rng.uniform(0.004, 0.014) * scene.size) * scene.foreground
    colour = _shade(rng, scene, coverage, 0.12, 0.5)
    return changed(scene, mix(scene.image, colour, coverage * np.float32(rng.uniform(0.6, 1))), coverage, 0.15)


def fissure(rng: Rng, scene: Scene) -> tuple[Image, Mask]:
    """A thin crack through the part, often from edge to edge, that opens and closes along its way."""
    size = scene.size
    row, column = place(rng, scene)
    angle, reach = rng.uniform(0, np.pi), rng.uniform(0.15, 1.2) * size
    count = 60
    wander = np.cumsum(rng.normal(0, 1, count)) * rng.uniform(0.002, 0.02) + rng.normal(0, 0.006, count)
    along = np.linspace(-0.5, 0.5, count)[:, None] * reach
    across = (wander - wander[count // 2])[:, None] * size
    path = along * [np.cos(angle), np.sin(angle)] + across * [-np.sin(angle), np.cos(angle)] + [column, row]
    width = rng.uniform(0.006, 0.03) * size
    gape = np.interp(np.linspace(0, 1, count - 1), np.linspace(0, 1, 6), rng.uniform(0.3, 1, 6)) * width
    coverage: Field = np.zeros((size, size), np.float32)
    for thickness in np.unique(np.round(gape, 1)):
        pieces = [path[i : i + 2] for i in np.flatnonzero(np.round(gape, 1) == thickness)]
        coverage = np.maximum(coverage, lines(size, pieces, float(thickness)))
    coverage = coverage * scene.foreground
    image = mix(scene.image, scene.image * np.float32(rng.uniform(0.1, 0.6)), coverage * np.float32(rng.uniform(0.7, 1)))
    image = image + emboss(blur(coverage, 0.004 * size), rng.uniform(0, 6.3), rng.uniform(0, 0.08))[..., None]
    return changed(scene, image, coverage, 0.2)


def split(rng: Rng, scene: Scene) -> tuple[Image, Mask]:
    """The part is broken through: one side is moved off, and a dark gap with ragged edges stays."""
    size = scene.size
    row, column = place(rng, scene)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    normal = np.array([np.cos(angle), np.sin(angle)], np.float32)
    side = normal[0] * (x - np.float32(column)) + normal[1] * (y - np.float32(row))
    side = side + np.float32(rng.uniform(0.01, 0.12) * size) * (smooth_noise(rng, size, rng.uniform(4, 16), 3) - 0.5)
    width = rng.uniform(0.01, 0.05) * size
    turn = cv2.getRotationMatrix2D((float(column), float(row)), rng.normal(0, 4), 1.0)
    turn[:, 2] += normal * width
    moved = cv2.warpAffine(scene.image, turn, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    cover = cv2.warpAffine(scene.foreground.astype(np.float32), turn, (size, size), flags=cv2.INTER_LINEAR)
    beyond = step(np.float32(width) - side, 1.5)
    gap = step(-side, 1.5) * (1 - beyond) * np.maximum(scene.foreground, cover)
    depth = np.float32(rng.uniform(0, 1)) * scene.background + np.float32(rng.uniform(0, 0.1))
    image = mix(mix(scene.image, scene.background, beyond * scene.foreground), moved, beyond * cover)
    return changed(scene, mix(image, depth * np.float32(rng.uniform(0.2, 0.9)), gap), gap, 0.4)


def chip(rng: Rng, scene: Scene) -> tuple[Image, Mask]:
    """A small piece has come off at the outline or the surface; the break is rough, of another tone, and shaded."""
    coverage, distance = _blotch(rng, scene, rng.uniform(0.02, 0.09), at_edge=0.75)
    if rng.random() < 0.4:
        image = mix(scene.image, scene.background, coverage)
    else:
        grain = smooth_noise(rng, scene.size, rng.uniform(16, 40), 2) - 0.5
        broken = _shade(rng, scene, coverage, 0.1, 0.45) + (np.float32(rng.uniform(0, 0.4)) * grain)[..., None]
        image = mix(scene.image, broken.astype(np.float32), coverage * np.float32(rng.uniform(0.7, 1)))
    relief = emboss(np.clip(-distance * 12, 0, 1), rng.uniform(0, 6.3), rng.uniform(0, 0.2)) * coverage
    return changed(scene, image + relief[..., None], coverage)


def pinholes(rng: Rng, scene: Scene) -> tuple[Image, Mask]:
    """One to three small pits or specks."""
    total: Field = np.zeros((scene.size, scene.size), np.float32)
    image = scene.image
    for _ in range(int(rng.integers(1, 4))):
        coverage, _ = _blotch(rng, scene, rng.uniform(0.012, 0.04))
        image = mix(image, _shade(rng, scene, coverage, 0.15, 0.6), coverage * np.float32(rng.uniform(0.7, 1)))
        total = np.maximum(total, coverage)
    return changed(scene, image, total)


def faint_stain(rng: Rng, scene: Scene) -> tuple[Image, Mask]:
    """A discoloured spot of low contrast with a soft or hard edge; the structure below shows through."""
    coverage = region(rng, scene, rng.uniform(0.03, 0.16), rng.uniform(0.2, 0.8), rng.uniform(0.01, 0.06))
    factor = 1 + np.float32(rng.choice([-1, 1]) * rng.uniform(0.12, 0.4)) * (1 + rng.normal(0, 0.35, 3)).astype(np.float32)
    return changed(scene, mix(scene.image, scene.image * factor, coverage), coverage)


def bump(rng: Rng, scene: Scene) -> tuple[Image, Mask]:
    """A bulge or hollow of the surface, seen by light and shade and by bent structure."""
    coverage, distance = _blotch(rng, scene, rng.uniform(0.03, 0.12))
    height = np.exp(-np.square(np.clip(distance + 0.04, 0, None) / rng.uniform(0.02, 0.05)))
    light = emboss(blur(height, 0.01 * scene.size), rng.uniform(0, 6.3), 1.0)
    light = light / max(float(np.abs(light).max()), 1e-6)
    image = scene.image + np.float32(rng.uniform(0.12, 0.45)) * (light * scene.foreground)[..., None]
    return changed(scene, image, np.maximum(coverage, np.abs(light) * scene.foreground), 0.3)


def deposit(rng: Rng, scene: Scene) -> tuple[Image, Mask]:
    """Foreign matter: lumps, crumbs or a smeared film that lie on the part and throw a small shadow."""
    size = scene.size
    total: Field = np.zeros((size, size), np.float32)
    row, column = place(rng, scene)
    spread = rng.uniform(0.0, 0.06) * size
    y, x = np.mgrid[:size, :size].astype(np.float32)
    rough = smooth_noise(rng, size, rng.uniform(8, 30), 2) - 0.5
    for _ in range(int(rng.integers(1, 6))):
        u, v = x - np.float32(column + rng.normal(0, spread)), y - np.float32(row + rng.normal(0, spread))
        radius = np.float32(rng.uniform(0.012, 0.05) * size)
        stretch = np.float32(rng.uniform(0.4, 1))
        total = np.maximum(total, step(np.hypot(u * stretch, v) - radius * (1 + 1.5 * rough), 1.5))
    total = total * scene.foreground
    body = _shade(rng, scene, total, 0.15, 0.6) * (1 + np.float32(rng.uniform(0, 0.8)) * rough)[..., None]
    offset = np.round(rng.uniform(-0.015, 0.015, 2) * size).astype(int)
    shadow = np.roll(blur(total, 0.006 * size), tuple(offset), (0, 1)) * scene.foreground
    image = scene.image * (1 - np.float32(rng.uniform(0, 0.5)) * shadow)[..., None]
    return changed(scene, mix(image, body.astype(np.float32), total * np.float32(rng.uniform(0.6, 1))), total)


def displaced(rng: Rng, scene: Scene) -> tuple[Image, Mask]:
    """A region shows other structure: the part's own surface turned, enlarged or mirrored, or worn smooth."""
    size = scene.size
    coverage = region(rng, scene, rng.uniform(0.04, 0.14), rng.uniform(0.2, 0.6), 0.015)
    if rng.random() < 0.4:
        other = blur(scene.image, rng.uniform(0.01, 0.05) * size) + np.float32(rng.normal(0, 0.06))
    else:
        matrix = cv2.getRotationMatrix2D((size / 2, size / 2), rng.uniform(20, 340), rng.uniform(0.5, 2.0))
        matrix[:, 2] += rng.uniform(-0.3, 0.3, 2) * size
        other = cv2.warpAffine(scene.image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return changed(scene, mix(scene.image, other, coverage), coverage)


FINE_DEFECTS: dict[str, Defect] = by_name(hairline, fissure, split, chip, pinholes, faint_stain, bump, deposit, displaced)
"""Defect kind -> what it does to a scene."""

TRAINING_DEFECTS: dict[str, Defect] = {**DEFECTS, **FINE_DEFECTS}
"""All defects that adapters are trained on."""
