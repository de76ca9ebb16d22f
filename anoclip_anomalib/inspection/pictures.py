"""Pictures of results: heat and outline over the photograph, at its size and aspect, with a scale and what is said of it."""

from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from anoclip_anomalib.files import printable
from anoclip_anomalib.inspection.contrast import Contrast

if TYPE_CHECKING:
    from anoclip_anomalib.inspection.inspection import Inspection

# From light to dark, so that the order is seen without colours too; (R, G, B) at equal steps.
_STOPS = np.array([(255, 236, 110), (255, 176, 30), (240, 90, 20), (205, 10, 45), (120, 0, 95)], dtype=np.float32)
_OPAQUE = 0.72  # of the highest heat; what is below must still be seen
_LINE, _CASING = (0, 255, 255), (10, 10, 10)
_PAPER = 255
_INK, _DIM = (20, 20, 20), (110, 110, 110)
_VERDICTS = {"defect": (190, 20, 30), "good": (20, 120, 60), "": _INK}
_SMALLEST = 11  # pixels of text, to be read on a photograph of 200


@lru_cache(maxsize=1)
def _table() -> np.ndarray:
    """RGBA (256, 4) uint8 of the shares 0 to 1."""
    table = np.linspace(0, 1, 256, dtype=np.float32)
    colours = np.stack([np.interp(table, np.linspace(0, 1, len(_STOPS)), _STOPS[:, channel]) for channel in range(3)], axis=1)
    alpha = 255 * _OPAQUE * table**1.4  # ordinary places stay as they are
    return np.concatenate([colours, alpha[:, None]], axis=1).round().astype(np.uint8)


@lru_cache(maxsize=1)
def _blending() -> tuple[np.ndarray, np.ndarray]:
    """What the heat adds to a photograph, and the 255ths that it leaves of it; each (256, 1, 3) uint8."""
    colours, alpha = _table()[:, None, :3], _table()[:, None, 3:]
    added = (colours * (alpha / 255)).round().astype(np.uint8)
    return added, (255 - alpha).repeat(3, axis=2)


def _steps(values: np.ndarray, contrast: Contrast) -> np.ndarray:
    """Values to the table's 256 steps, uint8."""
    low, high = contrast
    steps = np.asarray(values, np.float32) - np.float32(low)
    steps *= np.float32(255 / max(high - low, 1e-12))
    return np.clip(steps, 0, 255, out=steps).astype(np.uint8)


def heat_colours(values: np.ndarray, contrast: Contrast) -> np.ndarray:
    """Values (H, W) -> RGBA (H, W, 4) uint8: nothing up to the contrast's low end, full colour from its high end on."""
    return _table()[_steps(values, contrast)]


def heated(inspection: "Inspection", contrast: Contrast | None = None) -> np.ndarray:
    """The photograph under its heat, with an outline around what is above the pixel threshold.

    Args:
        inspection: A result without fault.
        contrast: Of the run; ``None`` for the result's.

    Returns:
        RGB (H, W, 3) uint8 at the photograph's size.
    """
    heatmap = inspection.heatmap
    steps = _steps(heatmap, contrast or inspection.contrast)
    # OpenCV neither holds up the other threads, the encoder's among them, nor makes copies in floats.
    added, left = (cv2.applyColorMap(steps, table) for table in _blending())
    shown = cv2.add(cv2.multiply(inspection.photograph, left, scale=1 / 255), added)
    if inspection.pixel_threshold is not None:
        above = (heatmap > inspection.pixel_threshold).astype(np.uint8)
        contours, _ = cv2.findContours(above, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        width = max(1, round(max(heatmap.shape) / 350))
        for colour, thickness in ((_CASING, 3 * width), (_LINE, width)):
            cv2.drawContours(shown, contours, -1, colour, thickness)
    return np.asarray(shown)


def composite(
    inspection: "Inspection", contrast: Contrast | None = None, caption: str | None = None, heat: np.ndarray | None = None
) -> Image.Image:
    """The photograph, beside it the photograph under its heat, the scale, and below what is said.

    Panels have the photograph's size; wide ones are stacked.

    Args:
        inspection: A result without fault.
        contrast: Of the run; ``None`` for the result's.
        caption: What to say besides score and verdict, such as "rank 3 of 212".
        heat: From :func:`heated`, if it is made already.

    Returns:
        An RGB picture.
    """
    photograph = inspection.photograph
    height, width = photograph.shape[:2]
    limits = contrast or inspection.contrast
    font = _font(max(height, width))
    text, gap = font.size, max(2, round(font.size / 2))  # type: ignore[attr-defined]
    stacked = width > 2 * height
    panels = (width, 2 * height + gap) if stacked else (2 * width + gap, height)
    lines = _lines(inspection, caption, limits)
    tall = max(panels[1], 5 * text)
    scale = round(2.2 * text + max(font.getlength(_number(value, limits)) for value in limits))
    whole = max(panels[0] + gap + scale, *(round(font.getlength(line)) + 2 * gap for line, _ in lines))
    pixels = np.full((tall + gap + round(len(lines) * text * 1.35), whole, 3), _PAPER, np.uint8)
    pixels[:height, :width] = photograph
    top, left = (height + gap, 0) if stacked else (0, width + gap)
    pixels[top : top + height, left : left + width] = heated(inspection, limits) if heat is None else heat
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    _draw_scale(picture, font, (panels[0] + gap, 0, tall), limits, inspection.pixel_threshold)
    for index, (line, colour) in enumerate(lines):
        draw.text((gap, tall + gap + round(index * text * 1.35)), line, fill=colour, font=font)
    return picture


@lru_cache(maxsize=16)
def _font(side: int) -> ImageFont.ImageFont:
    return ImageFont.load_default(max(_SMALLEST, round(side / 40)))  # type: ignore[return-value]


def _lines(inspection: "Inspection", caption: str | None, contrast: Contrast) -> list[tuple[str, tuple[int, int, int]]]:
    said = f"score {inspection.score:.4g}"
    if inspection.threshold is not None:
        said = f"{inspection.verdict.upper()}   {said}, threshold {inspection.threshold:.4g}"
    lines = [(said, _VERDICTS[inspection.verdict])]
    if inspection.pixel_threshold is not None:
        lines.append((f"outlined: heat above {_number(inspection.pixel_threshold, contrast)}", _DIM))
    return [*lines, (printable(caption), _INK)] if caption else lines


def _number(value: float, contrast: Contrast) -> str:
    """With as many digits as the scale's width needs."""
    width = max(contrast[1] - contrast[0], 1e-9)
    return f"{value:.{int(np.clip(1 - np.floor(np.log10(width)), 0, 6))}f}"


def _draw_scale(
    picture: Image.Image, font: ImageFont.ImageFont, place: tuple[int, int, int], contrast: Contrast, threshold: float | None
) -> None:
    """A bar of the heat's colours with its values; place is (left, top, height)."""
    left, top, height = place
    size: int = font.size  # type: ignore[attr-defined]
    low, high = contrast
    first, count = top + size // 2 + 1, max(2, height - size - 2)
    values = np.linspace(high, low, count, dtype=np.float32)[:, None].repeat(size, axis=1)
    bar = Image.new("RGBA", (size, count), (225, 225, 225, 255))
    bar.alpha_composite(Image.fromarray(heat_colours(values, contrast)))
    picture.paste(bar.convert("RGB"), (left, first))
    draw = ImageDraw.Draw(picture)

    def label(value: float, colour: tuple[int, int, int]) -> None:
        y = first + round((high - value) / (high - low) * (count - 1))
        draw.line([(left + size, y), (left + round(1.4 * size), y)], fill=colour, width=max(1, size // 10))
        draw.text((left + round(1.6 * size), y), _number(value, contrast), fill=colour, font=font, anchor="lm")

    label(high, _INK)
    label(low, _INK)
    if threshold is not None and low < threshold < high:
        y = first + round((high - threshold) / (high - low) * (count - 1))
        line = max(1, size // 8)
        draw.rectangle([left - 1, y - 2 * line, left + size, y + 2 * line], fill=_CASING)
        draw.rectangle([left - 1, y - line, left + size, y + line], fill=_LINE)
        if min(high - threshold, threshold - low) / (high - low) * count > 1.3 * size:
            label(threshold, _INK)
