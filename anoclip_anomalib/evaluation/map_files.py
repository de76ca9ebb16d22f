"""Pixel maps as files at original size."""

from pathlib import Path

import cv2
import numpy as np
import tifffile

from anoclip_anomalib.evaluation.resolution import resize_map
from anoclip_anomalib.files import atomic_write

SUFFIXES = {"tiff": ".tiff", "png": ".png"}


def to_uint16(anomaly_map: np.ndarray) -> np.ndarray:
    """Stretch a map (H, W) from its own minimum and maximum to 0..65535."""
    low, high = float(anomaly_map.min()), float(anomaly_map.max())
    scale = 65535.0 / (high - low) if high > low else 0.0
    return np.round((anomaly_map.astype(np.float64) - low) * scale).astype(np.uint16)


def safe_part(name: str) -> str:
    """A file or folder name that cannot leave its folder: separators and leading dots are replaced."""
    name = "".join("_" if char in '/\\:*?"<>|' or ord(char) < 32 else char for char in name)
    return "_" + name.lstrip(".") if name.startswith(".") or not name else name


class MapWriter:
    """Writes maps below `folder` as `<folder of the image>/<stem>.<suffix>`; equal names get `-2`, `-3`, ...

    Args:
        folder: where maps go.
        kind: "tiff" (float32, exact) or "png" (16 bit, stretched between the map's minimum and maximum).

    Raises:
        ValueError: unknown kind.
    """

    def __init__(self, folder: str | Path, kind: str = "tiff") -> None:
        if kind not in SUFFIXES:
            raise ValueError(f'maps are saved as {" or ".join(SUFFIXES)}, not as "{kind}"')
        self.folder = Path(folder)
        self.kind = kind
        self._used: set[str] = set()

    def write(self, anomaly_map: np.ndarray, image_path: str | Path, size: tuple[int, int]) -> Path:
        """Write a map (h, w) at `size` (height, width); returns the file's path relative to `folder`."""
        image_path = Path(image_path)
        stem, parent = safe_part(image_path.stem), safe_part(image_path.parent.name or "images")
        name, number = f"{parent}/{stem}", 1
        while name.lower() in self._used:  # lower: some file systems do not tell cases apart
            number += 1
            name = f"{parent}/{stem}-{number}"
        self._used.add(name.lower())
        relative = Path(name + SUFFIXES[self.kind])
        resized = resize_map(anomaly_map, size)
        with atomic_write(self.folder / relative) as temporary:
            if self.kind == "tiff":
                tifffile.imwrite(temporary, resized.astype(np.float32), compression="zlib")
            elif not cv2.imwrite(str(temporary), to_uint16(resized)):
                raise OSError(f"could not write {temporary}")
        return relative
