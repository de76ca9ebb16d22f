from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.data.utils import ValSplitMode
from sklearn.metrics import roc_auc_score

from anoclip_anomalib.comparison.run.measure import Measure, _map_auroc, choose_samples, relative_path
from anoclip_anomalib.comparison.run.row import _curves, _histogram, image_quality
from anoclip_anomalib.comparison.suite.suite import Protocol
from anoclip_anomalib.evaluation.curves import ScoreCounts


def test_samples_depend_on_names_only_and_favour_anomalies():
    paths = [f"{i:03d}" for i in range(90)]
    labels = [int(i % 2) for i in range(90)]
    chosen = choose_samples(paths, labels, 12)
    order = np.random.default_rng(0).permutation(90)
    assert sorted(choose_samples([paths[i] for i in order], [labels[i] for i in order], 12)) == sorted(chosen)
    assert len(chosen) == 12
    assert sum(int(path) % 2 for path in chosen) == 8
    assert len(choose_samples(paths[:3], [0, 0, 0], 12)) == 3
    assert len(choose_samples(paths, [1] * 90, 12)) == 12
    assert choose_samples([], [], 5) == []


def test_paths_in_rows_do_not_tell_where_the_data_are(tmp_path):
    assert relative_path(str(tmp_path / "bottle" / "test" / "1.png"), tmp_path) == "bottle/test/1.png"
    assert relative_path("/a/b/c/d.png", tmp_path) == "b/c/d.png"
    assert relative_path("/a/b/c/d.png", None) == "b/c/d.png"


def test_quality_of_an_image():
    scores, labels = np.array([0.1, 0.2, 0.3, 0.25]), np.array([0, 0, 1, 1])
    assert image_quality(scores, labels, 2) == 1
    assert image_quality(scores, labels, 2, 0.5) == 0.75
    assert image_quality(np.array([0.1, 0.4, 0.3]), np.array([0, 0, 1]), 2) == 0.5
    assert np.isnan(image_quality(np.array([0.1]), np.array([0]), 0))


def test_auroc_inside_a_map():
    rng = np.random.default_rng(0)
    anomaly_map, mask = rng.integers(0, 9, (12, 10)).astype(np.float32), (rng.random((12, 10)) < 0.2).astype(np.uint8) * 255
    assert _map_auroc(anomaly_map, mask) == pytest.approx(roc_auc_score(mask.reshape(-1) > 0, anomaly_map.reshape(-1)))
    assert all(np.isnan(_map_auroc(anomaly_map, other)) for other in (None, mask * 0, mask * 0 + 1))


def test_references_are_normal_validation_images_only():
    batch = ImageBatch(
        image=torch.zeros(3, 3, 4, 4),
        anomaly_map=torch.stack([torch.full((4, 4), value) for value in (0.1, 0.9, 0.3)]),
        pred_score=torch.tensor([0.1, 0.9, 0.3]),
        gt_label=torch.tensor([False, True, False]),
    )
    measure = Measure(Protocol())
    datamodule = SimpleNamespace(val_split_mode=ValSplitMode.FROM_TEST)
    measure.on_validation_batch_end(SimpleNamespace(sanity_checking=False, datamodule=datamodule), None, None, batch)
    assert (measure.result.image_reference.count, measure.result.image_reference.mean) == (2, pytest.approx(0.2))
    assert (measure.result.pixel_reference.count, measure.result.pixel_reference.mean) == (32, pytest.approx(0.2))
    assert measure.result.validation == (pytest.approx([0.1, 0.9, 0.3]), [0, 1, 0])
    measure.on_validation_epoch_start(None, None)  # of a training, whose last validation alone counts
    assert measure.result.image_reference.count == measure.result.pixel_reference.count == 0
    assert measure.result.validation == ([], [])


def test_the_drawn_pro_curve_reaches_beyond_its_limit():
    normal, overlap = np.array([6.0, 2, 1, 1]), np.array([0.0, 0.5, 0.5, 0])
    pixel = ScoreCounts(np.arange(4.0), normal, (overlap > 0).astype(float), overlap, 1, 0.0, 3.0)
    assert _curves({"image": None, "pixel": pixel})["pro"] == {"x": [0, 0.1, 0.2, 0.4], "y": [0, 0, 0.5, 1]}


def test_good_images_fill_up_where_anomalous_ones_are_few():
    chosen = choose_samples([f"{i:03d}" for i in range(90)], [int(i < 3) for i in range(90)], 12)
    assert len(chosen) == 12
    assert {"000", "001", "002"} <= set(chosen)


def test_quality_of_a_normal_image_is_the_share_of_anomalous_ones_above_it():
    scores, labels = np.array([0.1, 0.4, 0.3, 0.2, 0.2]), np.array([0, 1, 1, 1, 0])
    assert image_quality(scores, labels, 0) == 1
    assert image_quality(scores, labels, 4) == pytest.approx((2 + 0.5) / 3)  # one is equal
    turned = [image_quality(-scores, 1 - labels, index) for index in range(5)]
    assert turned == [image_quality(scores, labels, index) for index in range(5)]


def test_the_histogram_tells_the_classes_apart():
    scores = np.array([0.0, 0.0, 0.1, 1.0, 0.9])
    found = _histogram(scores, np.array([0, 0, 0, 1, 1]))
    assert found["edges"] == [0, 1]
    assert (found["normal"][0], sum(found["normal"])) == (2, 3)
    assert (found["anomalous"][-1], sum(found["anomalous"])) == (1, 2)
    assert sum(found["normal"][20:]) == sum(found["anomalous"][:20]) == 0
