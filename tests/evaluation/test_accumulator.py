import numpy as np
import pytest
from scipy import ndimage

from anoclip_anomalib.evaluation import curves
from anoclip_anomalib.evaluation.accumulator import PixelAccumulator, counts_from_rows, region_weights

from .data import maps_and_masks


def test_regions_are_eight_connected_and_weigh_one_each():
    mask = np.zeros((6, 6), np.uint8)
    mask[0, 0] = mask[1, 1] = mask[2, 2] = 1  # joined by corners
    mask[4:6, 4:6] = 255
    index, weight, count = region_weights(mask)
    assert count == 2 == ndimage.label(mask, np.ones((3, 3)))[1]
    np.testing.assert_array_equal(index, np.flatnonzero(mask))
    assert weight.sum() == pytest.approx(2)
    assert region_weights(np.zeros((3, 3)))[2] == 0


def test_batching_and_order_do_not_matter():
    maps, masks = maps_and_masks("probability")
    together, single = PixelAccumulator(), PixelAccumulator()
    together.update(maps, masks)
    for i in np.random.default_rng(0).permutation(len(maps)):
        single.update(maps[i], masks[i])
    for field in ("score", "normal", "anomalous", "overlap", "regions", "minimum", "maximum"):
        np.testing.assert_allclose(getattr(together.counts(), field), getattr(single.counts(), field), rtol=1e-12)


@pytest.mark.parametrize("kind", ["probability", "wide"])
def test_merged_parts_equal_the_whole(kind):
    maps, masks = maps_and_masks(kind)
    whole, parts = PixelAccumulator(), [PixelAccumulator(), PixelAccumulator(), PixelAccumulator()]
    whole.update(maps, masks)
    for part, rows in zip(parts[:2], (slice(0, 9), slice(9, None)), strict=True):
        part.update(maps[rows], masks[rows])  # the third process saw no image
    merged = counts_from_rows(np.concatenate([part.rows() for part in parts]))
    assert merged.regions == whole.regions
    expected, got = (curves.threshold_curve(counts) for counts in (whole.counts(), merged))
    for metric in (curves.auroc, curves.average_precision, curves.aupro):
        assert metric(got) == pytest.approx(metric(expected), abs=1e-4)
    assert curves.aupro_paper(merged) == pytest.approx(curves.aupro_paper(whole.counts()), abs=1e-4)


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="same shape"):
        PixelAccumulator().update(np.zeros((2, 4, 4)), np.zeros((2, 4, 5)))


def test_extremes_of_several_parts_are_those_of_all():
    """AUPRO_paper spreads its thresholds between them."""
    masks = np.eye(4, dtype=np.uint8)[None]
    parts = []
    for offset in (0.0, -3.0, 5.0):
        part = PixelAccumulator()
        part.update(np.arange(16, dtype=np.float32).reshape(1, 4, 4) + offset, masks)
        parts.append(part.rows())
    counts = counts_from_rows(np.concatenate(parts))
    assert (counts.minimum, counts.maximum, counts.regions) == (-3.0, 20.0, 3.0)
    grown = PixelAccumulator()
    for offset in (0.0, -3.0, 5.0):
        grown.update(np.arange(16, dtype=np.float32).reshape(4, 4) + offset, masks[0])
    assert (grown.counts().minimum, grown.counts().maximum) == (-3.0, 20.0)


def test_a_score_that_several_parts_have_is_one_row_and_images_are_counted():
    parts = [PixelAccumulator(), PixelAccumulator()]
    for part in parts:
        part.update(np.arange(32, dtype=np.float32).reshape(2, 4, 4), np.eye(4, dtype=np.uint8)[None].repeat(2, axis=0))
        assert part.images == 2
    counts = counts_from_rows(np.concatenate([part.rows() for part in parts]))
    assert counts.score.tolist() == list(range(32))
    assert (counts.normal + counts.anomalous).tolist() == [2] * 32
