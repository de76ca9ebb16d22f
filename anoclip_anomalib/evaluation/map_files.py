"""Pixel maps as files at original size."""

from pathlib import Path

import cv2
import numpy as np
import tifffile

from anoclip_anomalib.evaluation.output_names import OutputNames, below_root
from anoclip_anomalib.evaluation.resolution import resize_map
from anoclip_anomalib.files import atomic_write

SUFFIXES = {"tiff": ".tiff", "png": ".png"}


def to_uint16(anomaly_map: np.ndarray) -> np.ndarray:
    """Stretch a map (H, W) from its own minimum and maximum to 0..65535."""
    low, high = float(anomaly_map.min()), float(anomaly_map.max())
    scale = 65535.0 / (high - low) if high > low else 0.0
    return np.round((anomaly_map.astype(np.float64) - low) * scale).astype(np.uint16)


class MapWriter:
    """Writes maps in ``folder`` as ``<folder of the image>/<stem>.<suffix>``, see :func:`below_root` and :class:`OutputNames`.

    Args:
        folder: Where maps go.
        kind: "tiff" (float32, exact) or "png" (16 bit, stretched between the map's minimum and maximum).
        root: Folder whose subfolders are kept in the names.

    Raises:
        ValueError: Unknown kind.
    """

    def __init__(self, folder: str | Path, kind: str = "tiff", root: Path | None = None) -> None:
        if kind not in SUFFIXES:
            raise ValueError(f'Maps are saved as {" or ".join(SUFFIXES)}, not as "{kind}"')
        self.folder, self.kind, self.root = Path(folder), kind, root
        self._names = OutputNames()

    def write(self, anomaly_map: np.ndarray, image_path: str | Path, size: tuple[int, int]) -> Path:
        """Write a map (h, w) at ``size`` (height, width); returns the file's path relative to ``folder``."""
        relative = self._names.unique(below_root(image_path, self.root), SUFFIXES[self.kind])
        resized = resize_map(anomaly_map, size)
        with atomic_write(self.folder / relative) as temporary:
            if self.kind == "tiff":
                tifffile.imwrite(temporary, resized.astype(np.float32), compression="zlib")
            else:
                temporary.write_bytes(cv2.imencode(".png", to_uint16(resized))[1].tobytes())
        return relative
