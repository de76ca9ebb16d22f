from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from anoclip_anomalib.evaluation.resolution import (
    image_size,
    map_mask_pairs,
    mask_paths_of,
    path_list,
    read_mask,
    resize_map,
    restored_mask_paths,
    squeeze_channel,
    to_numpy,
)


def test_missing_paths_are_none_however_anomalib_says_it():
    assert path_list(["a", None, "", "None", float("nan")], 5) == ["a", None, None, None, None]
    assert path_list(None, 2) == [None, None]
    assert path_list("a.png", 1) == ["a.png"]


def test_mask_paths_come_back_from_the_dataset_for_the_time_of_the_block():
    samples = pd.DataFrame({"image_path": ["a", "b"], "mask_path": [None, "m"]})
    loader = SimpleNamespace(dataset=SimpleNamespace(samples=samples))
    found = mask_paths_of([loader, SimpleNamespace(dataset=object())])
    assert found == {"b": "m"}
    batch = SimpleNamespace(image=[0, 0], image_path=["a", "b"], mask_path=None)
    with restored_mask_paths(batch, found):
        assert path_list(batch.mask_path, 2) == [None, "m"]
    assert batch.mask_path is None


def test_sizes_masks_and_maps(tmp_path):
    Image.fromarray(np.array([[0, 0, 9], [0, 255, 0]], np.uint8)).save(tmp_path / "mask.png")
    assert image_size(tmp_path / "mask.png") == (2, 3)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), [[0, 0, 1], [0, 1, 0]])
    (tmp_path / "bad.png").write_text("x")
    with pytest.raises(ValueError, match="no readable image"):
        read_mask(tmp_path / "bad.png")
    ramp = np.arange(8, dtype=np.float32) * np.ones((4, 1), np.float32)
    resized = resize_map(ramp, (8, 16))
    np.testing.assert_allclose(resized[3, 1:-1], np.arange(0.25, 7, 0.5))  # bilinear
    assert resize_map(np.zeros((4, 4)), (6, 8)).shape == (6, 8)
    assert to_numpy(torch.zeros(2, dtype=torch.bfloat16)).dtype == np.float32
    assert squeeze_channel(np.zeros((2, 1, 3, 3))).shape == (2, 3, 3)
    with pytest.raises(ValueError, match="Expected"):
        squeeze_channel(np.zeros((2, 3, 3, 3)))
    batch = SimpleNamespace(anomaly_map=torch.zeros(1, 4, 4), gt_mask=torch.zeros(1, 4, 4))
    with pytest.raises(ValueError, match="resolution=.* must be"):
        next(map_mask_pairs(batch, "big"))
