from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anomalib.post_processing import PostProcessor
from lightning.pytorch import Callback

from anoclip_anomalib.evaluation.raw_batch import raw_maps, raw_scores, require_before_post_processor


def batch(**fields):
    return SimpleNamespace(**({"pred_score": None, "anomaly_map": None, "image_path": ["a.png", "b.png"]} | fields))


def test_scores_of_a_batch():
    maps = torch.tensor([[[[0.1, 0.3]]], [[[0.2, 0.0]]]])
    np.testing.assert_allclose(raw_scores(batch(pred_score=torch.tensor([[1.0], [2.0]]))), [1, 2])
    np.testing.assert_allclose(raw_scores(batch(anomaly_map=maps)), [0.3, 0.2], rtol=1e-6)
    assert raw_maps(batch(anomaly_map=maps)).shape == (2, 1, 2)
    assert raw_maps(batch()) is None
    with pytest.raises(ValueError, match="neither"):
        raw_scores(batch())


def test_images_with_bad_scores_are_named():
    with pytest.raises(ValueError, match="not finite for b.png"):
        raw_scores(batch(pred_score=torch.tensor([1.0, float("inf")])))
    with pytest.raises(ValueError, match="not finite for a.png"):
        raw_maps(batch(anomaly_map=torch.tensor([[[float("nan")]], [[0.0]]])))


def test_bad_scores_are_given_where_they_are_asked_for():
    bad = torch.tensor([1.0, float("nan")])
    np.testing.assert_array_equal(raw_scores(batch(pred_score=bad), finite=False), [1, np.nan])
    np.testing.assert_array_equal(raw_maps(batch(anomaly_map=bad.view(2, 1, 1)), finite=False).ravel(), [1, np.nan])


def test_order_of_callbacks():
    mine = Callback()
    require_before_post_processor(mine, [mine, PostProcessor()])
    require_before_post_processor(mine, [mine])
    with pytest.raises(ValueError, match="before the PostProcessor"):
        require_before_post_processor(mine, [PostProcessor(), mine])
