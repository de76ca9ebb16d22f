import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anomalib import LearningType
from anomalib.data import ImageBatch
from anomalib.data.utils import ValSplitMode
from anomalib.metrics import F1AdaptiveThreshold
from anomalib.post_processing import PostProcessor

from anoclip_anomalib.evaluation.curves import UndefinedMetricError, count_scores, f1_at
from anoclip_anomalib.evaluation.reference import ScoreReference
from anoclip_anomalib.evaluation.thresholds import (
    Threshold,
    ThresholdRule,
    adaptive_threshold,
    choose_threshold,
    conformal_threshold,
    is_held_out,
    natural_threshold,
    post_processor_threshold,
)

SCORES = 0.5 + 0.003 * np.random.default_rng(0).normal(size=200)


def reference(scores=SCORES):
    filled = ScoreReference()
    filled.update(scores)
    return filled


@pytest.mark.parametrize(
    ("rule", "value", "words"),
    [
        (ThresholdRule(), SCORES.mean() + 3 * SCORES.std(), "mean + 3 std of normal images"),
        (ThresholdRule(k=2.5), SCORES.mean() + 2.5 * SCORES.std(), "mean + 2.5 std of normal images"),
        (ThresholdRule("quantile", q=0.95), np.quantile(SCORES, 0.95, method="inverted_cdf"), "0.95 quantile"),
        (ThresholdRule("fixed", value=0.7), 0.7, "fixed at 0.7"),
        (ThresholdRule("natural"), 0.5, "natural zero-shot threshold 0.5"),
    ],
)
def test_rules(rule, value, words):
    threshold = rule.fit(reference())
    assert threshold.value == pytest.approx(value)
    assert words in threshold.rule
    assert (threshold.label(value + 1), threshold.label(value - 1)) == (1, 0)


def test_adaptive_equals_anomalibs():
    rng = np.random.default_rng(1)
    labels = rng.random(100) < 0.3
    scores = (0.5 + 0.01 * (labels + rng.normal(size=100))).astype(np.float32)
    metric = F1AdaptiveThreshold(fields=["pred_score", "gt_label"])
    metric.update(
        ImageBatch(image=torch.zeros(100, 3, 2, 2), pred_score=torch.from_numpy(scores), gt_label=torch.from_numpy(labels))
    )
    threshold = adaptive_threshold(scores, labels)
    assert threshold.value == pytest.approx(float(metric.compute()))
    assert "adaptive" in threshold.rule


def test_without_reference_zero_shot_models_get_the_natural_threshold_and_others_none():
    zero_shot, one_class = SimpleNamespace(learning_type=LearningType.ZERO_SHOT), SimpleNamespace(learning_type="one_class")
    natural = choose_threshold(ThresholdRule(), ScoreReference(), natural_threshold(zero_shot))
    assert natural.value == 0.5
    assert "natural" in natural.rule
    assert "no normal images" in natural.rule
    nothing = choose_threshold(ThresholdRule(), ScoreReference(), natural_threshold(one_class))
    assert math.isnan(nothing.value)
    assert nothing.label(0.3) is None
    assert nothing.rule.startswith("none")
    asked = choose_threshold(ThresholdRule("natural"), reference(), natural_threshold(one_class))
    assert math.isnan(asked.value)
    assert asked.rule == "none; natural not possible: without data this model is nowhere undecided"
    normal_alone = (np.array([0.1, 0.2]), np.array([0, 0]))
    assert math.isnan(choose_threshold(ThresholdRule("adaptive"), reference(), None, normal_alone).value)


def test_a_models_own_natural_threshold_comes_first():
    model = SimpleNamespace(learning_type=LearningType.ZERO_SHOT, natural_threshold=0.25)
    for rule in (ThresholdRule(), ThresholdRule("natural")):
        threshold = choose_threshold(rule, ScoreReference(), natural_threshold(model))
        assert threshold.value == 0.25
        assert threshold.rule.startswith("natural zero-shot threshold 0.25")
        assert "softmax" not in threshold.rule


def test_the_smallest_and_the_largest_score_may_be_the_threshold():
    for q, expected in ((0.0, SCORES.min()), (1.0, SCORES.max())):
        assert ThresholdRule("quantile", q=q).fit(reference()).value == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "best"}, "Unknown threshold rule"),
        ({"kind": "fixed"}, "needs a finite value"),
        ({"kind": "quantile", "q": 2}, "q=2 must lie"),
        ({"k": float("nan")}, "k=nan must be"),
    ],
)
def test_wrong_rules_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ThresholdRule(**options)


def test_validation_images_that_are_test_images_are_not_held_out():
    for mode in set(ValSplitMode) - {ValSplitMode.SAME_AS_TEST}:
        assert is_held_out(SimpleNamespace(val_split_mode=mode)), mode
    assert not is_held_out(SimpleNamespace(val_split_mode=ValSplitMode.SAME_AS_TEST))
    assert not is_held_out(None)


def test_a_score_at_the_threshold_is_normal():
    """As in anomalib's post-processing: anomalous is what scores more."""
    threshold = ThresholdRule("fixed", value=0.25).fit(reference())
    assert [threshold.label(score) for score in (0.25, np.nextafter(0.25, 1), np.nextafter(0.25, 0))] == [0, 1, 0]
    assert f1_at(count_scores(np.array([0.1, 0.25, 0.3]), np.array([0, 1, 1])), 0.25) == pytest.approx(2 / 3)


def fitted(low=0.2, high=0.8, threshold=0.45, **settings):
    post_processor = PostProcessor(**settings)
    for name, value in (("image_min", low), ("image_max", high), ("_image_threshold", threshold)):
        getattr(post_processor, name).fill_(value)
    return SimpleNamespace(post_processor=post_processor)


@pytest.mark.parametrize("sensitivity", [0.5, 0.2, 0.9])
@pytest.mark.parametrize("threshold", [0.45, math.nan])
def test_the_post_processors_decision_in_raw_scores(sensitivity, threshold):
    model = fitted(threshold=threshold, image_sensitivity=sensitivity)
    scores = torch.linspace(0.1, 0.9, 401) + 1e-4
    batch = ImageBatch(image=torch.zeros(401, 3, 2, 2), pred_score=scores.clone(), anomaly_map=torch.zeros(401, 2, 2))
    model.post_processor.post_process_batch(batch)
    found = post_processor_threshold(model, held_out=True)
    assert [found.label(score) for score in scores.tolist()] == batch.pred_label.int().tolist()
    assert 0 < batch.pred_label.sum() < 401
    assert found.rule == "anomalib's own: best F1 on validation images"
    assert post_processor_threshold(model, held_out=False).rule.endswith("which are the test images")


@pytest.mark.parametrize(
    "model",
    [
        fitted(low=math.nan),
        fitted(high=math.nan),
        fitted(enable_thresholding=False),
        fitted(enable_normalization=False),
        SimpleNamespace(post_processor=None),
        object(),
    ],
)
def test_without_a_decision_of_anomalibs_there_is_none(model):
    assert post_processor_threshold(model, held_out=True) is None


@pytest.mark.parametrize(
    ("count", "rank", "rate"), [(4, 4, 1 / 5), (16, 16, 1 / 17), (19, 19, 1 / 20), (39, 38, 2 / 40), (99, 95, 5 / 100)]
)
def test_conformal_rank_and_what_it_promises(count, rank, rate):
    scores = np.random.default_rng(0).permutation(count).astype(float)
    found = conformal_threshold(scores, 0.05)
    assert (found.value, found.false_alarms) == (rank - 1, pytest.approx(rate))
    assert f"{rate:.1%}" in found.rule


def test_conformal_promise_holds_on_average():
    generator = np.random.default_rng(1)
    draws = [generator.normal(size=40) for _ in range(2000)]
    exceeded = np.mean([draw[39] > conformal_threshold(draw[:39], 0.1).value for draw in draws])
    assert 0.07 < exceeded < 0.12


def test_conformal_bad_input():
    with pytest.raises(UndefinedMetricError):
        conformal_threshold(np.zeros(0))
    with pytest.raises(ValueError, match="must lie between 0 and 1, got 0"):
        conformal_threshold(np.zeros(3), 0)
    with pytest.raises(ValueError, match="finite"):
        conformal_threshold(np.array([1.0, np.nan]))


def test_a_models_own_threshold_comes_before_the_natural_one():
    own = Threshold(0.7, "of normal images")
    found = choose_threshold(ThresholdRule(), ScoreReference(), 0.5, own=own)
    assert found.value == 0.7
    assert found.rule.startswith("of normal images; mean_std not possible")


def test_rounding_does_not_raise_the_conformal_rank():
    assert 50 * (1 - 0.42) > 29  # in floating point
    assert conformal_threshold(np.arange(49.0), 0.42).value == 29 - 1


@pytest.mark.parametrize(("of_normal_images", "rule"), [(0.45, "of normal images"), (0.4, "best F1 on validation images")])
def test_a_threshold_of_normal_images_is_named_until_validation_images_have_replaced_it(of_normal_images, rule):
    model = fitted(threshold=0.45)
    model.image_threshold = Threshold(of_normal_images, "of normal images")
    found = post_processor_threshold(model, held_out=True)
    assert found.value == pytest.approx(0.45)
    assert found.rule.endswith(rule)
