"""Pixel statistics of maps and masks, gathered image by image in bounded memory."""

import cv2
import numpy as np

from anoclip_anomalib.evaluation.curves import ScoreCounts, UndefinedMetricError
from anoclip_anomalib.evaluation.histogram import ScoreHistogram


def region_weights(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Anomalous pixels of a mask and their share of their region.

    Regions are 8-connected, as in MVTec's evaluation code and in anomalib's AUPRO.

    Args:
        mask: (H, W), non-zero where anomalous.

    Returns:
        Flat positions (K,) of the anomalous pixels, 1 / (area of their region) (K,), and the number of regions.
    """
    mask = np.ascontiguousarray(mask, dtype=np.uint8)
    index = np.flatnonzero(mask)
    if not len(index):
        return index, np.zeros(0), 0
    count, labels = cv2.connectedComponents(mask, connectivity=8)
    labels = labels.reshape(-1)[index]
    areas = np.bincount(labels, minlength=count)
    return index, 1.0 / areas[labels], count - 1


class PixelAccumulator:
    """Normal and anomalous pixels by score, and region overlap by score.

    Args:
        capacity: Number of bins of the histogram, see :class:`ScoreHistogram`.
    """

    def __init__(self, capacity: int = 1 << 19) -> None:
        self.histogram = ScoreHistogram(channels=3, capacity=capacity)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.histogram.reset()
        self.regions = self.images = 0

    def update(self, maps: np.ndarray, masks: np.ndarray) -> None:
        """Add images.

        Args:
            maps: (B, H, W) or (H, W) finite scores.
            masks: Same shape, non-zero where anomalous.

        Raises:
            ValueError: If shapes differ or a score is not finite.
        """
        maps, masks = np.asarray(maps), np.asarray(masks)
        if maps.shape != masks.shape or maps.ndim not in (2, 3):
            raise ValueError(f"Map {maps.shape} and mask {masks.shape} must have the same shape, (B, H, W) or (H, W)")
        if found := [region_weights(mask) for mask in masks.reshape(-1, *masks.shape[-2:])]:
            size = maps.shape[-2] * maps.shape[-1]
            index = np.concatenate([index + number * size for number, (index, _, _) in enumerate(found)])
            weight = np.concatenate([weight for _, weight, _ in found])
            self.histogram.update(maps.reshape(-1), (index, np.ones(len(index))), (index, weight))
            self.regions += sum(count for _, _, count in found)
            self.images += len(found)

    def rows(self) -> np.ndarray:
        """State as (1 + bins, 4) float64 of score, all, anomalous, overlap; concatenating the rows of several merges them.

        The first row is (minimum, maximum, regions, -1): a header, told by its last value.
        """
        header = [self.histogram.minimum, self.histogram.maximum, self.regions, -1.0]
        return np.vstack([np.array([header]), self.histogram.rows()])

    def counts(self) -> ScoreCounts:
        """Counts per score so far.

        Raises:
            UndefinedMetricError: If no pixel was seen.
        """
        return counts_from_rows(self.rows())


def counts_from_rows(rows: np.ndarray) -> ScoreCounts:
    """Read the (concatenated) rows of one or more :class:`PixelAccumulator`.

    Raises:
        UndefinedMetricError: If no pixel was seen.
    """
    headers, bins = rows[rows[:, 3] < 0], rows[rows[:, 3] >= 0]
    if not len(bins):
        raise UndefinedMetricError("no masks")
    if len(headers) > 1:
        bins = bins[np.argsort(bins[:, 0], kind="stable")]
        first = np.flatnonzero(np.append(True, np.diff(bins[:, 0]) > 0))
        bins = np.column_stack([bins[first, 0], np.add.reduceat(bins[:, 1:], first, axis=0)])
    score, total, anomalous, overlap = bins.T
    minimum, maximum, regions = float(headers[:, 0].min()), float(headers[:, 1].max()), float(headers[:, 2].sum())
    return ScoreCounts(score, total - anomalous, anomalous, overlap, regions, minimum, maximum)
