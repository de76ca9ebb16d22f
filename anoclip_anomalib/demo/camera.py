"""What light and camera do to a finished picture, good part or bad: framing, sharpness, colour, noise, compression."""

import cv2
import numpy as np

from anoclip_anomalib.demo.noise import Image, Rng, blur, coordinates, smooth_noise, step
from anoclip_anomalib.demo.scene import Mask


def frame(rng: Rng, images: list[Image], mask: Mask, size: int, keep: bool = True) -> tuple[list[Image], Mask]:
    """The same window of pictures of one scene: turned, zoomed, shifted, perhaps mirrored.

    What lies outside the picture is filled by its mirror image, so that a wide window shows several parts.

    Args:
        rng: Random numbers.
        images: Pictures (H, H, 3) of one size.
        mask: (H, H), goes along.
        size: Side of the window's picture in pixels.
        keep: Draw the window again (a few times) while it shows less than a third of the mask.

    Returns:
        The pictures (size, size, 3) and the mask (size, size).
    """
    side = mask.shape[0]
    for _ in range(6):
        zoom = np.exp(rng.normal(0.05, 0.25)) * size / side
        turn = rng.choice([0.0, 90.0, 180.0, 270.0]) + rng.normal(0, 12) if rng.random() < 0.7 else rng.uniform(0, 360)
        matrix = cv2.getRotationMatrix2D((side / 2, side / 2), turn, zoom)
        matrix[:, 2] += (size - side) / 2 + rng.normal(0, 0.08, 2) * size
        if rng.random() < 0.5:
            matrix[0] = -matrix[0]
            matrix[0, 2] += size - 1
        window = _warp(mask.astype(np.float32), matrix, size) > 0.5
        if not keep or not mask.any() or window.sum() >= mask.sum() * zoom**2 / 3:
            break
    soften = 0.45 / zoom if zoom < 0.8 else 0.0
    return [_warp(blur(image, soften), matrix, size) for image in images], window


def _warp(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def light(rng: Rng, size: int) -> Image:
    """Uneven light as a factor (size, size, 1): a slope, a vignette, soft or sharp-edged shadows, a lamp's reflection."""
    x, y = coordinates(rng, size)
    factor = 1 + np.float32(rng.uniform(0, 0.3)) * x - np.float32(rng.uniform(0, 0.15)) * (x * x + y * y)
    if rng.random() < 0.3:
        edge = x + np.float32(0.2) * (smooth_noise(rng, size, 3, 1) - 0.5) - np.float32(rng.uniform(-0.8, 0.8))
        factor = factor * (1 - np.float32(rng.uniform(0.05, 0.45)) * step(edge, rng.uniform(0.03, 0.5)))
    if rng.random() < 0.3:
        u, v = x - np.float32(rng.uniform(-0.8, 0.8)), y - np.float32(rng.uniform(-0.8, 0.8))
        gleam = np.exp(-(np.square(u / rng.uniform(0.1, 0.8)) + np.square(v / rng.uniform(0.1, 0.8))))
        factor = factor + np.float32(rng.uniform(0.05, 0.5)) * gleam
    return np.clip(factor, 0.15, 2)[..., None].astype(np.float32)


class Camera:
    """One draw of a camera's properties, applied alike to each picture that it takes, but for fresh noise.

    Args:
        rng: Random numbers.
        size: Side of the pictures in pixels.
    """

    def __init__(self, rng: Rng, size: int) -> None:
        self.light = light(rng, size)
        self.gain = (rng.uniform(0.7, 1.25) * (1 + rng.normal(0, 0.06, 3))).astype(np.float32)
        self.gamma = np.float32(np.exp(rng.normal(0, 0.18)))
        self.offset = np.float32(rng.normal(0, 0.025))
        self.sigma = rng.uniform(0.3, 1.1) if rng.random() < 0.4 else 0.0
        self.sharpen = rng.uniform(0.3, 1.2) if rng.random() < 0.2 else 0.0
        self.noise = rng.uniform(0, 0.035) * (rng.random() < 0.6)
        self.grain = float(rng.choice([0.0, 0.0, 0.7]))
        self.quality = int(rng.integers(45, 96)) if rng.random() < 0.4 else 0
        self.channels = rng.permutation(3) if rng.random() < 0.35 else np.arange(3)
        self.grey = rng.random() < 0.08

    def take(self, rng: Rng, image: Image) -> np.ndarray:
        """Photograph a picture (H, W, 3) with values of about 0 to 1: uint8."""
        image = blur(image[..., self.channels], self.sigma)
        image = np.clip(image * self.light * self.gain + self.offset, 0, 1) ** self.gamma
        if self.grey:
            image = np.repeat(image.mean(2, keepdims=True), 3, 2)
        if self.noise:
            noise = rng.standard_normal(image.shape, dtype=np.float32)
            image = image + np.float32(self.noise) * (blur(noise, self.grain) * (1 + 2 * self.grain))
        if self.sharpen:
            image = image + np.float32(self.sharpen) * (image - blur(image, 1.0))
        picture = np.clip(255 * image + 0.5, 0, 255).astype(np.uint8)
        if self.quality:
            _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, self.quality])
            picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
        return picture
