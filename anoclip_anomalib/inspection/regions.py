"""Connected areas of a heatmap above a threshold."""

from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage


class Region(NamedTuple):
    """A connected area above the pixel threshold.

    Attributes:
        box: (left, top, right, bottom) in pixels of the photograph; right and bottom are the first beyond it.
        area: Pixels above the threshold.
        peak: Highest value of the heatmap in it.
    """

    box: tuple[int, int, int, int]
    area: int
    peak: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"box": list(self.box), "area": self.area, "peak": self.peak}


def find_regions(heatmap: np.ndarray, threshold: float) -> tuple[Region, ...]:
    """The connected areas (8 neighbours) of pixels above a threshold, highest peak first.

    Args:
        heatmap: (H, W).
        threshold: In its units.
    """
    labels, _ = ndimage.label(heatmap > threshold, structure=np.ones((3, 3), dtype=int))
    found = []
    for label, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        own = heatmap[rows, columns][labels[rows, columns] == label]
        found.append(Region((columns.start, rows.start, columns.stop, rows.stop), own.size, float(own.max())))
    return tuple(sorted(found, key=lambda region: (-region.peak, region.box)))
