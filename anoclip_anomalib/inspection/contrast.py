"""The contrast that the heatmaps of a run share: which values are drawn as nothing, and which in full colour."""

import numpy as np

Contrast = tuple[float, float]
MARK = 2 / 3
"""Where the pixel threshold lies on the scale: what is beyond it has the last third for itself."""
_KEPT = 4096  # values that are taken from each map, evenly
_HIGH = 0.999


def contrast_from_good(ordinary: float, pixel_threshold: float) -> Contrast:
    """The contrast that good images give.

    Args:
        ordinary: Value of an ordinary good pixel, drawn as nothing.
        pixel_threshold: What hardly a good pixel reaches.

    Returns:
        (low, high), with the threshold at :data:`MARK` of the way.
    """
    width = (pixel_threshold - ordinary) / MARK
    return ordinary, ordinary + width if width > 0 else ordinary + 1e-6


class RunContrast:
    """The contrast of photographs without good ones: from the median to the 99.9th percentile of the values of all maps.

    Values are kept as a histogram, so that memory does not grow.
    """

    def __init__(self) -> None:
        from anoclip_anomalib.evaluation.reference import ScoreReference

        self._values = ScoreReference(capacity=1 << 16)

    def update(self, anomaly_map: np.ndarray) -> None:
        """Take a map (h, w) into account."""
        flat = anomaly_map.reshape(-1)
        self._values.update(flat[:: max(1, flat.size // _KEPT)])

    @property
    def limits(self) -> Contrast | None:
        """(low, high); ``None`` before the first map."""
        if not self._values.count:
            return None
        low, high = self._values.quantile(0.5), self._values.quantile(_HIGH)
        return low, high if high > low else low + 1e-6
