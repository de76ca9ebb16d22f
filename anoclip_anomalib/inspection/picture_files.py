"""The files that show one result: the picture for people, and photograph and heat for the page."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from anoclip_anomalib.data.images import shrink
from anoclip_anomalib.inspection.contrast import Contrast
from anoclip_anomalib.inspection.inspection import Inspection
from anoclip_anomalib.inspection.pictures import composite, heated

PAGE_SIDE = 1600  # pixels of the longer side, on the page
_QUALITY, _UNDER_HEAT = 92, 75  # of JPEG; the photograph without heat is there to be looked at closely


def write_pictures(inspection: Inspection, contrast: Contrast, picture: Path, page: Path) -> None:
    """Write ``picture``, ``<page>.photo.jpg`` and ``<page>.heat.jpg``; what is there is overwritten.

    Pictures are JPEG: as PNG those of ten thousand photographs of a telephone would take some hundred gigabytes.

    Args:
        inspection: A result without fault.
        contrast: Of the run.
        picture: Ends in ``.jpg``.
        page: Without a suffix.

    Raises:
        OSError: If a file cannot be written.
    """
    picture.parent.mkdir(parents=True, exist_ok=True)
    page.parent.mkdir(parents=True, exist_ok=True)
    heat = heated(inspection, contrast)
    _write(picture, np.asarray(composite(inspection, contrast, heat=heat)))
    _write(page.with_name(f"{page.name}.photo.jpg"), shrink(inspection.photograph, PAGE_SIDE))
    # Not the heat alone: transparency needs PNG, which takes longer to write than all the rest.
    _write(page.with_name(f"{page.name}.heat.jpg"), shrink(heat, PAGE_SIDE), _UNDER_HEAT)


def add_line(picture: Path, text: str) -> None:
    """Write a line below a picture; ranks are known when a run has ended.

    The file's comment says what was written and below which row of pixels: a run that was killed here and goes on writes no
    line twice, and one that has become wrong anew.

    Raises:
        OSError: If the picture has gone, or cannot be written.
    """
    with Image.open(picture) as image:
        above, _, before = image.info.get("comment", b"").decode(errors="replace").partition(" ")
        if before == text:
            return
        width, height = image.width, int(above or image.height)
        size = max(11, round(max(width, height) / 80))
        taller = Image.new("RGB", (width, height + round(1.35 * size)), "white")
        taller.paste(image.crop((0, 0, width, height)), (0, 0))
    ImageDraw.Draw(taller).text((size // 2, height), text, fill=(20, 20, 20), font=ImageFont.load_default(size))
    draft = picture.with_name(".rank.draft")  # one name: what a killed run left is written over by the one that goes on
    taller.save(draft, "JPEG", quality=_QUALITY, comment=f"{height} {text}")
    draft.replace(picture)


def _write(path: Path, pixels: np.ndarray, quality: int = _QUALITY) -> None:
    """RGB pixels to a JPEG. OpenCV encodes without holding up the other threads, the encoder's among them."""
    encoded, content = cv2.imencode(path.suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not encoded:
        raise OSError(f"{path} cannot be encoded: {pixels.shape[1]} x {pixels.shape[0]} pixels")
    path.write_bytes(content.tobytes())
