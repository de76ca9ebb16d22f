"""Defects that the encoder is trained on: each function damages a scene and returns the image and the changed region.

Held-out looks, which training never sees, live in ``held_out.py``.
"""

import cv2
import numpy as np

from anoclip_anomalib.demo import by_name, shapes
from anoclip_anomalib.demo.noise import Field, Image, Rng, blur, emboss, mix, random_colour, smooth_noise, step, turned
from anoclip_anomalib.demo.scene import Defect, Mask, Scene
from anoclip_anomalib.demo.textures import TEXTURES


def place(rng: Rng, scene: Scene) -> tuple[float, float]:
    """A random pixel (row, column) on the part, away from its outline where the part is wide enough."""
    margin = max(3, scene.size // 16) | 1
    core = cv2.erode(scene.foreground.astype(np.uint8), np.ones((margin, margin), np.uint8))
    rows, columns = np.nonzero(core if core.any() else scene.foreground)
    index = int(rng.integers(len(rows)))
    return float(rows[index]), float(columns[index])


def about(size: int, pixel: tuple[float, float]) -> tuple[Field, Field]:
    """Coordinates x, y from a pixel (row, column), in image widths: two fields (size, size)."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    return (x - np.float32(pixel[1])) / size, (y - np.float32(pixel[0])) / size


def turned_about(rng: Rng, size: int, pixel: tuple[float, float], least: float = 1.0) -> tuple[Field, Field]:
    """As :func:`about`, turned at random, the second one squeezed to between ``least`` and 1 if that is less."""
    x, y = turned(*about(size, pixel), rng.uniform(0, np.pi))
    return x, y / np.float32(rng.uniform(least, 1.0) if least < 1 else 1)


def region(rng: Rng, scene: Scene, radius: float, roughness: float = 0.4, edge: float = 0.03) -> Field:
    """Coverage 0..1 of an irregular closed region of about ``radius`` (fraction of the image) on the part."""
    u, v = turned_about(rng, scene.size, place(rng, scene), 0.5)
    return step(shapes.blob(rng, u, v, radius, roughness, 4), max(edge, 1.5 / scene.size)) * scene.foreground


def contrasting(rng: Rng, image: Image, coverage: Field, low: float = 0.2) -> np.ndarray:
    """A colour at least ``low`` away from what the region shows now, in some channel."""
    present = (image * coverage[..., None]).sum((0, 1)) / max(float(coverage.sum()), 1e-3)
    for _ in range(20):
        colour = random_colour(rng, (0.0, 1.0))
        if np.abs(colour - present).max() >= low:
            return colour
    return np.where(present > 0.5, present - low, present + low).astype(np.float32)


def lines(size: int, paths: list[np.ndarray], thickness: float) -> Field:
    """Anti-aliased polylines (each (n, 2) of column, row in pixels) ``thickness`` pixels wide: coverage 0..1."""
    factor = 16
    canvas: np.ndarray = np.zeros((size, size), np.uint8)
    for path in paths:
        points = np.round(path * factor).astype(np.int32).reshape(-1, 1, 2)
        cv2.polylines(canvas, [points], False, 255, max(1, round(thickness)), cv2.LINE_AA, 4)
    return (canvas.astype(np.float32) / 255) * np.float32(min(1.0, max(thickness, 0.6)))


def changed(scene: Scene, image: Image, coverage: Field, threshold: float = 0.25) -> tuple[Image, Mask]:
    """The damaged image, and the mask of where it is covered and differs."""
    return image.astype(np.float32), (coverage > threshold) & (np.abs(image - scene.image).max(2) > 0.02)


def scratch(rng: Rng, scene: Scene) -> tuple[Image, Mask]:
    """One to four bent strokes, lighter or darker than the surface, often with a raised flank."""
    row, column = place(rng, scene)
    angle = rng.uniform(0, np.pi)
    paths = []
    for _ in range(int(rng.integers(1, 5))):
        length, bend = rng.uniform(0.12, 0.5) * scene.size, rng.normal(0, 0.25)
        along = np.linspace(-0.5, 0.5, 12)
        direction = angle + rng.normal(0, 0.12) + bend * along
        path = np.stack([np.cos(direction), np.sin(direction)], 1) * along[:, None] * length
        paths.append(path + rng.normal(0, 0.03, 2) * scene.size + np.array([column, row]))
    coverage = lines(scene.size, paths, max(1.0, rng.uniform(0.008, 0.03) * scene.size)) * scene.foreground
    image = mix(scene.image, contrasting(rng, scene.image, coverage, 0.3), coverage * np.float32(rng.uniform(0.6, 1)))
    if rng.random() < 0.5:
        image = image + emboss(coverage, angle, rng.uniform(0, 0.1))[..., None]
    return changed(scene, image, coverage, 0.2)


def hole(rng: Rng, scene: Scene) -> tuple[Image, Mask]:
    """An irregular opening, dark or showing the ground, with a lit rim."""
    coverage = region(rng, scene, rng.uniform(0.04, 0.14), rng.uniform(0.1, 0.5))
    inside = np.float32(rng.uniform(0.0, 0.15)) * np.ones(3, np.float32)
    seen = scene.background if rng.random() < 0.3 else np.broadcast_to(inside, scene.image.shape)
    depth = rng.uniform(0.3, 1) * blur(coverage, 0.02 * scene.size)
    image = mix(scene.image, seen * (1 - 0.5 * depth)[..., None], coverage)
    return changed(scene, image + emboss(coverage, rng.uniform(0, 6.3), rng.uniform(0, 0.12))[..., None], coverage)


def crack(rng: Rng, scene: Scene) -> tuple[Image, Mask]:
    """A jagged dark line that branches."""
    size = scene.size
    row, column = place(rng, scene)
    paths: list[np.ndarray] = []
    starts = [(np.array([column, row]), rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.55) * size)]
    while starts and len(paths) < 6:
        start, heading, length = starts.pop()
        count = max(4, int(length / (0.03 * size)))
        headings = heading + np.cumsum(rng.normal(0, 0.35, count)) * 0.6 + rng.normal(0, 0.5, count)
        steps = np.stack([np.cos(headings), np.sin(headings)], 1) * (length / count)
        path = np.vstack([start, start + np.cumsum(steps, 0)])
        paths.append(path)
        if length > 0.15 * size and rng.random() < 0.75:
            fork = int(rng.integers(1, count))
            starts.append((path[fork], headings[fork - 1] + rng.choice([-1, 1]) * rng.uniform(0.5, 1.2), 0.55 * length))
    coverage = lines(size, paths, max(1.0, rng.uniform(0.01, 0.03) * size)) * scene.foreground
    colour = scene.image[scene.foreground].mean(0) * np.float32(rng.uniform(0, 0.4))
    if rng.random() < 0.15:
        colour = contrasting(rng, scene.image, coverage, 0.4)
    return changed(scene, mix(scene.image, colour, coverage * np.float32(rng.uniform(0.75, 1))), coverage, 0.2)


def stain(rng: Rng, scene: Scene) -> tuple[Image, Mask]:
    """A soft-edged discoloured blot, sometimes with a darker rim as it dried."""
    coverage = region(rng, scene, rng.uniform(0.05, 0.2), rng.uniform(0.2, 0.7), rng.uniform(0.02, 0.08))
    colour = contrasting(rng, scene.image, coverage, 0.3)
    uneven = 0.6 + 0.4 * smooth_noise(rng, scene.size, 8, 2)
    opacity = np.float32(rng.uniform(0.45, 0.95)) * coverage * uneven
    if rng.random() < 0.35:
        opacity = np.clip(0.5 * opacity + 0.8 * (4 * coverage * (1 - coverage)), 0, 1)
    return changed(scene, mix(scene.image, colour, opacity), coverage)


def missing_part(rng: Rng, scene: Scene) -> tuple[Image, Mask]:
    """A piece is gone: broken off along a straight or curved line, or cut out, and the ground shows."""
    y, x = np.mgrid[: scene.size, : scene.size].astype(np.float32)
    along, _ = turned(x, y, rng.uniform(0, 2 * np.pi))
    share = rng.uniform(0.05, 0.25)
    rough = rng.uniform(0.0, 0.08) * scene.size * (smooth_noise(rng, scene.size, rng.uniform(4, 14), 2) - 0.5)
    if rng.random() < 0.5 and not scene.foreground.all():
        coverage = step(np.float32(np.quantile(along[scene.foreground], 1 - share)) - along + rough, 1.5) * scene.foreground
    else:
        coverage = region(rng, scene, rng.uniform(0.08, 0.18), rng.uniform(0.1, 0.6), 0.01)
    return changed(scene, mix(scene.image, scene.background, coverage), coverage)


def colour_fault(rng: Rng, scene: Scene) -> tuple[Image, Mask]:
    """Part of the surface has another colour while its structure stays."""
    coverage = region(rng, scene, rng.uniform(0.06, 0.25), rng.uniform(0.2, 0.8), rng.uniform(0.01, 0.08))
    tone = scene.image.mean(2, keepdims=True) / max(float(scene.image[scene.foreground].mean()), 0.05)
    recoloured = contrasting(rng, scene.image, coverage, 0.3) * (0.4 + 0.6 * tone)
    return changed(scene, mix(scene.image, recoloured, coverage * np.float32(rng.uniform(0.5, 1))), coverage)


def speckles(rng: Rng, scene: Scene) -> tuple[Image, Mask]:
    """A loose group of small particles or pores."""
    row, column = place(rng, scene)
    spread = rng.uniform(0.03, 0.12) * scene.size
    canvas: np.ndarray = np.zeros((scene.size, scene.size), np.uint8)
    for _ in range(int(rng.integers(4, 20))):
        centre = np.round((np.array([column, row]) + rng.normal(0, spread, 2)) * 16).astype(int)
        radius = max(0.6, rng.uniform(0.006, 0.022) * scene.size)
        cv2.circle(canvas, centre.tolist(), round(radius * 16), 255, -1, cv2.LINE_AA, 4)
    coverage = (canvas.astype(np.float32) / 255) * scene.foreground
    image = mix(scene.image, contrasting(rng, scene.image, coverage, 0.35), coverage)
    closing = cv2.morphologyEx((coverage > 0.2).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    return image, (closing > 0) & scene.foreground


def distortion(rng: Rng, scene: Scene) -> tuple[Image, Mask]:
    """The surface is bent, swirled or stretched locally."""
    size = scene.size
    coverage = region(rng, scene, rng.uniform(0.1, 0.22), 0.2, 0.15)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    amplitude = np.float32(rng.uniform(0.05, 0.14) * size)
    bend_x, bend_y = smooth_noise(rng, size, 6, 2) - 0.5, smooth_noise(rng, size, 6, 2) - 0.5
    x, y = x + 2 * amplitude * coverage * bend_x, y + 2 * amplitude * coverage * bend_y
    image = cv2.remap(scene.image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    shade = emboss(blur(coverage * bend_x, 0.01 * size), rng.uniform(0, 6.3), rng.uniform(0.0, 0.5))
    return changed(scene, image + shade[..., None], coverage)


def smear(rng: Rng, scene: Scene) -> tuple[Image, Mask]:
    """Structure is wiped out along one direction or melted."""
    coverage = region(rng, scene, rng.uniform(0.08, 0.22), 0.4, 0.04)
    if rng.random() < 0.5:
        length = max(3, int(rng.uniform(0.1, 0.25) * scene.size)) | 1
        kernel: Field = np.zeros((length, length), np.float32)
        arm = np.array([np.cos(a := rng.uniform(0, np.pi)), np.sin(a)]) * (length // 2)
        centre = np.array([length // 2, length // 2])
        cv2.line(kernel, np.round(centre - arm).astype(int).tolist(), np.round(centre + arm).astype(int).tolist(), 1.0, 1)
        wiped = cv2.filter2D(scene.image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT)
    else:
        wiped = blur(scene.image, rng.uniform(0.04, 0.1) * scene.size)
    return changed(scene, mix(scene.image, wiped + np.float32(rng.normal(0, 0.12)), coverage), coverage)


def misplaced_piece(rng: Rng, scene: Scene) -> tuple[Image, Mask]:
    """A piece of the same part, turned and shifted, sits where it does not belong."""
    size = scene.size
    coverage = region(rng, scene, rng.uniform(0.07, 0.18), 0.4, 0.015)
    turn = cv2.getRotationMatrix2D((size / 2, size / 2), rng.uniform(30, 330), rng.uniform(0.7, 1.4))
    turn[:, 2] += rng.uniform(-0.25, 0.25, 2) * size
    moved = cv2.warpAffine(scene.image, turn, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return changed(scene, mix(scene.image, moved * np.float32(rng.uniform(0.7, 1.3)), coverage), coverage)


def foreign_body(rng: Rng, scene: Scene) -> tuple[Image, Mask]:
    """A splinter or flake of another material lies on the part and casts a shadow."""
    size = scene.size
    row, column = place(rng, scene)
    corners = int(rng.integers(3, 8))
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radius = rng.uniform(0.04, 0.13) * size
    points = np.stack([np.cos(angles), rng.uniform(0.3, 1) * np.sin(angles)], 1) * radius * rng.uniform(0.6, 1.3, (corners, 1))
    canvas: np.ndarray = np.zeros((size, size), np.uint8)
    cv2.fillPoly(canvas, [np.round((points + [column, row]) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    coverage = canvas.astype(np.float32) / 255
    if rng.random() < 0.5:
        body = TEXTURES[str(rng.choice(list(TEXTURES)))](rng, size)
    else:
        body = np.broadcast_to(contrasting(rng, scene.image, coverage, 0.35), scene.image.shape)
    offset = np.round(rng.uniform(-0.03, 0.03, 2) * size).astype(int)
    shadow = np.roll(blur(coverage, 0.01 * size), tuple(offset), (0, 1))
    image = scene.image * (1 - rng.uniform(0.1, 0.6) * shadow)[..., None].astype(np.float32)
    return changed(scene, mix(image, body, coverage), coverage)


DEFECTS: dict[str, Defect] = by_name(
    scratch, hole, crack, stain, missing_part, colour_fault, speckles, distortion, smear, misplaced_piece, foreign_body
)
"""Defect kinds of the training images. The captions never name them: they only say normal or abnormal."""


def visible_defect(
    rng: Rng, scene: Scene, defect: Defect, area: float = 0.004, change: float = 0.08, tries: int = 8
) -> tuple[Image, Mask]:
    """Apply ``defect`` until it covers ``area`` of the image and changes it by ``change`` on average within its mask.

    The most visible of ``tries`` attempts is taken if none reaches both.

    Raises:
        RuntimeError: No attempt changed anything.
    """
    best: tuple[float, Image, Mask] | None = None
    for _ in range(tries):
        image, mask = defect(rng, scene)
        if not mask.any():
            continue
        difference = float(np.abs(np.clip(image, 0, 1) - np.clip(scene.image, 0, 1)).max(2)[mask].mean())
        score = min(float(mask.mean()) / area, 1.0) * min(difference / change, 1.0)
        if best is None or score > best[0]:
            best = (score, image, mask)
        if score >= 1.0:
            break
    if best is None:
        raise RuntimeError(f"The defect {defect.__name__} left the scene unchanged in {tries} attempts")
    return best[1], best[2]
