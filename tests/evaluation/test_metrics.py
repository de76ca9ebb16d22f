import copy
import math

import anomalib.metrics as theirs_of
import cv2
import numpy as np
import pytest
import torch
from anomalib.metrics import AUPR, AUROC, F1Max
from sklearn.metrics import average_precision_score, roc_auc_score
from torchmetrics import MetricCollection

from anoclip_anomalib.evaluation import (
    AUPRO,
    AUPRO_paper,
    ImageAP,
    ImageAUROC,
    ImageF1Max,
    PixelAP,
    PixelAUROC,
    PixelF1Max,
    SegF1,
    StreamingEvaluator,
    curves,
    standard_metrics,
)
from anoclip_anomalib.evaluation.accumulator import PixelAccumulator
from anoclip_anomalib.evaluation.metrics import StreamingMetric

from .data import batch_of, maps_and_masks

IMAGE, PIXEL = ["pred_score", "gt_label"], ["anomaly_map", "gt_mask"]
PAIRS = [
    (ImageAUROC, AUROC, IMAGE),
    (ImageF1Max, F1Max, IMAGE),
    (ImageAP, AUPR, IMAGE),
    (PixelAUROC, AUROC, PIXEL),
    (PixelF1Max, F1Max, PIXEL),
    (PixelAP, AUPR, PIXEL),
    (AUPRO, theirs_of.AUPRO, PIXEL),
]


@pytest.mark.parametrize(("ours", "theirs", "fields"), PAIRS, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("kind", ["plain", "probability"])
def test_values_equal_anomalibs_within_1e4(ours, theirs, fields, kind):
    maps, masks = maps_and_masks(kind)
    metric, reference = ours(), theirs(fields=fields)
    for start in range(0, len(maps), 7):
        batch = batch_of(maps[start : start + 7], masks[start : start + 7])
        metric.update(batch)
        reference.update(batch)
    # anomalib's AUPR is the trapezoid under the precision-recall curve; on many pixels the two agree.
    tolerance = 0.02 if ours is ImageAP else 1e-4
    assert float(metric.compute()) == pytest.approx(float(reference.compute()), abs=tolerance)


def test_undefined_is_nan_with_a_reason_never_zero():
    maps, masks = maps_and_masks(images=4)
    for metric in (PixelAUROC(), AUPRO(), AUPRO_paper(), SegF1(threshold=0.5)):
        metric.update(batch_of(maps, None, gt_label=torch.tensor([0, 1, 0, 1])))
        assert math.isnan(metric.compute())
        assert metric.reason == "no masks (batches lacked gt_mask)"
    for metric in (ImageAUROC(), PixelAP(), AUPRO()):
        metric.update(batch_of(maps, np.zeros_like(masks)))
        assert math.isnan(metric.compute())
        assert "no anomalous" in metric.reason
    metric = ImageF1Max()
    assert math.isnan(metric.compute())
    assert metric.reason == "no scores"


@pytest.mark.parametrize("compute_groups", [True, False])
def test_a_metric_collection_has_the_values_of_its_metrics(compute_groups):
    """Torchmetrics updates but one of the metrics whose states look alike; a histogram is no state."""
    maps, masks = maps_and_masks(images=9)
    batches = [batch_of(maps[start : start + 3], masks[start : start + 3]) for start in (0, 3, 6)]
    kinds = (ImageAUROC, ImageAP, PixelAUROC, PixelAP, AUPRO, SegF1)
    make = lambda kind: kind(threshold=0.5) if kind is SegF1 else kind()  # noqa: E731
    collection = MetricCollection([make(kind) for kind in kinds], compute_groups=compute_groups)
    expected = {}
    for kind in kinds:
        metric = make(kind)
        for batch in batches:
            metric.update(batch)
        expected[metric.name] = float(metric.compute())
    for _ in range(2):
        for batch in batches:
            collection.update(batch)
        assert {name: float(value) for name, value in collection.compute().items()} == expected
        collection.reset()


def test_reason_is_forgotten_with_the_data():
    maps, masks = maps_and_masks(images=6)
    metric = PixelAUROC()
    metric.update(batch_of(maps, None))
    metric.compute()
    metric.reset()
    metric.update(batch_of(maps, masks))
    assert 0.5 < metric.compute() < 1
    assert metric.reason is None


def test_map_of_another_size_and_nan_are_refused():
    maps, masks = maps_and_masks(images=2)
    batch = batch_of(maps, masks)
    batch.anomaly_map = batch.anomaly_map[:, :50, :50]
    with pytest.raises(ValueError, match="sizes must be equal"):
        PixelAUROC().update(batch)
    maps[0, 3, 3] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        PixelAUROC().update(batch_of(maps, masks))


@pytest.mark.parametrize("options", [{"resolution": "none"}, {"fpr_limit": 0}, {"capacity": 10}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ValueError, match="resolution|fpr_limit|capacity"):
        AUPRO(**options)


def test_names_tell_conventions_apart():
    names = [AUPRO().name, AUPRO(fpr_limit=0.05).name, AUPRO_paper().name, ImageAUROC(prefix="raw_").name]
    assert names == ["AUPRO", "AUPRO_0.05", "AUPRO_paper", "raw_ImageAUROC"]


def test_original_resolution_reads_the_files(tmp_path):
    maps, masks = maps_and_masks(images=4, size=64)
    big = np.stack([cv2.resize(mask, (150, 100), interpolation=cv2.INTER_NEAREST) for mask in masks])
    image_paths, mask_paths = [], []
    for i, mask in enumerate(big):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.zeros((100, 150, 3), np.uint8))
        image_paths.append(str(tmp_path / f"{i}.png"))
        cv2.imwrite(str(tmp_path / f"{i}_mask.png"), mask * 255)
        mask_paths.append(str(tmp_path / f"{i}_mask.png") if mask.any() else None)
    batch = batch_of(maps, masks, image_path=image_paths)
    batch.mask_path = mask_paths
    metric, by_hand = PixelAUROC(resolution="original"), PixelAUROC()
    metric.update(batch)
    resized = np.stack([cv2.resize(m, (150, 100), interpolation=cv2.INTER_LINEAR) for m in maps])
    by_hand.update(batch_of(resized, big))
    assert float(metric.compute()) == pytest.approx(float(by_hand.compute()), abs=1e-4)
    batch.mask_path = [None] * 4
    with pytest.raises(ValueError, match="names no mask file"):
        PixelAUROC(resolution="original").update(batch)


class _Other(StreamingMetric):
    default_fields = ("pred_score",)


@pytest.mark.parametrize("metric_class", [ImageAUROC, PixelAUROC, AUPRO])
def test_two_processes_agree_with_one(metric_class):
    """Torchmetrics' own synchronisation, with the gathering function of a two-process run."""
    maps, masks = maps_and_masks("probability")
    whole, parts = metric_class(), [metric_class(), metric_class()]
    whole.update(batch_of(maps, masks))
    parts[0].update(batch_of(maps[:9], masks[:9]))
    parts[1].update(batch_of(maps[9:], masks[9:]))
    expected = whole.compute()

    states = []
    for part in parts:
        part = copy.deepcopy(part)
        part.sync(dist_sync_fn=lambda x, group=None: [x], distributed_available=lambda: True)
        states.append([torch.as_tensor(getattr(part, name)) for name in part._reductions])
    both = zip(*states, strict=True)
    parts[0].sync(dist_sync_fn=lambda x, group=None: list(next(both)), distributed_available=lambda: True)
    assert float(parts[0].value(parts[0].counts())) == pytest.approx(float(expected), abs=1e-6)


def test_base_class_needs_its_methods():
    with pytest.raises(NotImplementedError):
        _Other().counts()


@pytest.mark.parametrize("metric_class", [ImageAUROC, PixelAUROC, AUPRO, PixelF1Max])
def test_calling_a_metric_adds_the_batch_and_returns_its_own_value(metric_class):
    maps, masks = maps_and_masks(images=12)
    called, updated, alone = metric_class(), metric_class(), metric_class()
    for part in (slice(0, 6), slice(6, 12)):
        batch = batch_of(maps[part], masks[part])
        value = called(batch)
        updated.update(batch)
        alone.reset()
        alone.update(batch)
        assert value == alone.compute()
    assert called.compute() == updated.compute()


def test_calling_metrics_that_share_a_histogram():
    maps, masks = maps_and_masks(images=12)
    shared, alone = list(StreamingEvaluator().test_metrics), standard_metrics()
    for part in (slice(0, 6), slice(6, 12)):
        batch = batch_of(maps[part], masks[part])
        for first, second in zip(shared, alone, strict=True):
            assert first(batch) == second(batch), first.name
    for first, second in zip(shared, alone, strict=True):
        assert first.compute() == second.compute(), first.name


@pytest.mark.parametrize("metric_class", [ImageAUROC, PixelAUROC])
def test_a_process_that_saw_no_image_has_states_to_exchange(metric_class):
    metric = metric_class()
    metric.prepare_exchange()
    states = {name: getattr(metric, name) for name in metric._reductions}
    assert all(len(state) == 1 and torch.is_tensor(state[0]) for state in states.values())
    if metric_class is ImageAUROC:
        assert {name: (state[0].shape, state[0].dtype) for name, state in states.items()} == {"scores": ((0, 2), torch.float64)}


def test_scores_keep_every_digit():
    scores = torch.tensor([0.5, 0.5 + 2**-24, 0.5 + 2**-23, 0.5 - 2**-24])  # neighbours in float32
    batch = batch_of(np.zeros((4, 2, 2), np.float32), np.zeros((4, 2, 2)), gt_label=torch.tensor([0, 1, 1, 0]))
    batch.pred_score = scores
    metric = ImageAUROC()
    metric.update(batch)
    assert metric.compute() == 1.0


def test_the_value_of_a_batch_is_of_this_process_unless_asked_otherwise():
    assert ImageAUROC().empty_copy()._to_sync is False
    assert ImageAUROC(dist_sync_on_step=True).empty_copy()._to_sync is True


def test_what_was_missing_is_forgotten():
    maps, masks = maps_and_masks(images=4)
    metric = PixelAUROC()
    metric.update(batch_of(maps, None))
    metric.reset()
    metric.update(batch_of(maps, np.zeros_like(masks)))
    assert math.isnan(metric.compute())
    assert "lacked" not in metric.reason


def test_fields_of_ones_own_are_read_and_not_mixed_with_others():
    maps, masks = maps_and_masks(images=6)
    batch = batch_of(maps, masks)
    batch.pred_mask = torch.from_numpy(1 - masks).bool()
    metrics = [PixelAUROC(), PixelAUROC(fields=["anomaly_map", "pred_mask"]), PixelAUROC(capacity=1 << 18)]
    evaluator = StreamingEvaluator(test_metrics=metrics)
    for metric in evaluator.test_metrics:
        metric.update(batch)
    first, turned, _ = (float(metric.compute()) for metric in evaluator.test_metrics)
    assert turned == pytest.approx(1 - first, abs=1e-4)
    assert not any(metric.shares_accumulator for metric in metrics)
    with pytest.raises(ValueError, match="original resolution reads"):
        PixelAUROC(fields=["anomaly_map", "pred_mask"], resolution="original")


def test_the_whole_range_may_be_asked_for():
    maps, masks = maps_and_masks(images=6)
    whole, part = AUPRO(fpr_limit=1.0), AUPRO(fpr_limit=0.1)
    for metric in (whole, part):
        metric.update(batch_of(maps, masks))
    assert part.compute() < AUPRO_at(maps, masks, 0.3) < whole.compute()


def AUPRO_at(maps, masks, limit):  # noqa: N802
    metric = AUPRO(fpr_limit=limit)
    metric.update(batch_of(maps, masks))
    return metric.compute()


def test_every_metric_is_what_its_name_says():
    """On scores that tell all figures apart."""
    rng = np.random.default_rng(0)
    maps, masks = maps_and_masks(images=10, seed=1)
    labels, scores = np.arange(10) % 3 == 0, rng.random(10)
    batch = batch_of(maps, masks, gt_label=torch.from_numpy(labels))
    batch.pred_score = torch.from_numpy(scores)
    pixels = PixelAccumulator()
    pixels.update(maps, masks)
    image, pixel = curves.threshold_curve(curves.count_scores(scores, labels)), pixels.counts().curve
    expected = {
        "ImageAUROC": roc_auc_score(labels, scores),
        "ImageF1Max": curves.f1_max(image)[0],
        "ImageAP": average_precision_score(labels, scores),
        "PixelAUROC": roc_auc_score(masks.ravel(), maps.ravel()),
        "PixelF1Max": curves.f1_max(pixel)[0],
        "PixelAP": average_precision_score(masks.ravel(), maps.ravel()),
        "AUPRO": curves.aupro(pixel, 0.3),
        "AUPRO_0.05": curves.aupro(pixel, 0.05),
        "AUPRO_paper": curves.aupro_paper(pixels.counts()),
    }
    assert len({round(value, 3) for value in expected.values()}) == len(expected)
    found = {}
    for metric in standard_metrics():
        metric.update(batch)
        found[metric.name] = float(metric.compute())
    assert found == pytest.approx(expected, abs=1e-4)
