import numpy as np
import pytest

from anoclip_anomalib.inspection.contrast import MARK, RunContrast, contrast_from_good


def test_the_threshold_has_its_place_on_the_scale():
    low, high = contrast_from_good(0.7, 5.2)
    assert low == 0.7
    assert (5.2 - low) / (high - low) == pytest.approx(MARK)


def test_a_threshold_below_the_ordinary_still_gives_a_scale():
    low, high = contrast_from_good(2.0, 1.0)
    assert low == 2.0 < high


def test_a_run_has_the_contrast_of_all_its_maps():
    contrast, rng = RunContrast(), np.random.default_rng(0)
    assert contrast.limits is None
    maps = [rng.normal(index, 1, (64, 64)) for index in range(40)]
    for anomaly_map in maps:
        contrast.update(anomaly_map)
    assert np.allclose(contrast.limits, np.quantile(maps, (0.5, 0.999)), atol=0.05)


def test_a_few_hot_pixels_do_not_decide():
    contrast = RunContrast()
    values = np.random.default_rng(0).random((64, 64))
    values[0, 0] = 1e6
    contrast.update(values)
    assert contrast.limits[1] < 1.01


def test_equal_values_give_a_scale():
    contrast = RunContrast()
    contrast.update(np.ones((8, 8)))
    assert contrast.limits[0] == 1 < contrast.limits[1]


def test_large_maps_are_read_all_over():
    contrast, half = RunContrast(), np.zeros((256, 256))
    half[128:] = 1
    contrast.update(half)
    assert contrast.limits == (0, 1)
