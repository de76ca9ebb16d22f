import numpy as np

from anoclip_anomalib.inspection.regions import Region, find_regions


def test_boxes_areas_and_peaks_of_connected_areas():
    heatmap = np.zeros((20, 30))
    heatmap[2:5, 10:14] = 3
    heatmap[3, 11] = 4
    heatmap[15, 25] = heatmap[16, 26] = 9  # touch at a corner
    assert find_regions(heatmap, 1.0) == (Region((25, 15, 27, 17), 2, 9.0), Region((10, 2, 14, 5), 12, 4.0))
    assert find_regions(heatmap, 3.0) == (Region((25, 15, 27, 17), 2, 9.0), Region((11, 3, 12, 4), 1, 4.0))
    assert find_regions(heatmap, 9.0) == ()


def test_the_peak_is_that_of_the_area_and_not_of_its_box():
    heatmap = np.zeros((10, 10))
    heatmap[0, :] = heatmap[:, 0] = 2  # an L around
    heatmap[5, 5] = 7
    regions = find_regions(heatmap, 1.0)
    assert [(region.area, region.peak) for region in regions] == [(1, 7.0), (19, 2.0)]


def test_as_json():
    assert Region((1, 2, 3, 4), 5, 0.5).as_dict() == {"box": [1, 2, 3, 4], "area": 5, "peak": 0.5}
