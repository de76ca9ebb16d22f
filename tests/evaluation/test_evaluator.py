import copy
import pickle
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from anomalib.data import ImageBatch
from anomalib.metrics import AUROC
from jsonargparse import ArgumentParser
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from anoclip_anomalib.evaluation import AUPRO, ImageAUROC, PixelAUROC, StreamingEvaluator, standard_metrics

from .data import batch_of, maps_and_masks

YAML = """
evaluator:
  class_path: anoclip_anomalib.evaluation.StreamingEvaluator
  init_args:
    test_metrics:
      - class_path: anoclip_anomalib.evaluation.ImageAUROC
        init_args: {prefix: raw_}
      - class_path: anoclip_anomalib.evaluation.AUPRO
        init_args: {fpr_limit: 0.05}
      - class_path: anomalib.metrics.AUROC
        init_args: {fields: [pred_score, gt_label]}
"""


def test_yaml_as_anomalibs_command_line_reads_it():
    from anomalib.metrics import Evaluator

    parser = ArgumentParser()
    parser.add_argument("--evaluator", type=Evaluator | bool)
    evaluator = parser.instantiate_classes(parser.parse_object(yaml.safe_load(YAML))).evaluator
    assert isinstance(evaluator, StreamingEvaluator)
    assert [metric.name for metric in evaluator.test_metrics] == ["raw_ImageAUROC", "AUPRO_0.05", "AUROC"]


def test_the_standard_metrics_and_their_limits():
    metrics = standard_metrics("raw_", "original")
    names = ["ImageAUROC", "ImageF1Max", "ImageAP", "PixelAUROC", "PixelF1Max", "PixelAP", "AUPRO", "AUPRO_0.05", "AUPRO_paper"]
    assert [metric.name for metric in metrics] == [f"raw_{name}" for name in names]
    assert [metric.fpr_limit for metric in metrics if isinstance(metric, AUPRO)] == [0.3, 0.05]
    assert {metric.resolution for metric in metrics[3:]} == {"original"}


@pytest.mark.parametrize("stage", ["validation", "test"])
def test_repeated_images_of_the_stages_own_loader_are_left_out(stage):
    data = list(range(3))
    plain = DataLoader(data)
    dealt = DataLoader(data, sampler=DistributedSampler(data, num_replicas=2, rank=1, shuffle=False))
    trainer = SimpleNamespace(
        val_dataloaders=dealt if stage == "validation" else plain, test_dataloaders=dealt if stage == "test" else plain
    )
    evaluator = StreamingEvaluator(val_metrics=[ImageAUROC()], test_metrics=[ImageAUROC()])
    for _ in range(3):  # each epoch counts afresh
        getattr(evaluator, f"on_{stage}_epoch_start")(trainer, None)
        for _ in range(2):  # of this process's two images the second is a repeated one
            batch = ImageBatch(image=torch.zeros(1, 3, 2, 2), pred_score=torch.ones(1), gt_label=torch.tensor([1]))
            getattr(evaluator, f"on_{stage}_batch_end")(trainer, None, None, batch, 0)
    counted = {"validation": evaluator.val_metrics, "test": evaluator.test_metrics}
    assert {name: len(metrics[0].scores) for name, metrics in counted.items()} == {"validation": 0, "test": 0} | {stage: 3}


def test_sharing_one_histogram_changes_no_value():
    maps, masks = maps_and_masks("probability")
    shared, alone = list(StreamingEvaluator().test_metrics), standard_metrics()
    assert len({id(metric.accumulator) for metric in shared if hasattr(metric, "accumulator")}) == 1
    for start in range(0, len(maps), 6):
        batch = batch_of(maps[start : start + 6], masks[start : start + 6])
        for metric in [*shared, *alone]:
            metric.update(batch)
    for first, second in zip(shared, alone, strict=True):
        assert first.compute() == second.compute(), first.name


def test_metrics_that_compare_differently_do_not_share():
    evaluator = StreamingEvaluator(test_metrics=[PixelAUROC(), AUPRO(resolution="original"), AUROC(fields=["a", "b"])])
    assert not any(getattr(metric, "shares_accumulator", False) for metric in evaluator.test_metrics)


def test_copies_and_pickles_keep_sharing():
    maps, masks = maps_and_masks(images=4)
    for clone in (copy.deepcopy(StreamingEvaluator()), pickle.loads(pickle.dumps(StreamingEvaluator()))):  # noqa: S301
        for metric in clone.test_metrics:
            metric.update(batch_of(maps, masks))
        assert np.isfinite([float(metric.compute()) for metric in clone.test_metrics]).all()


@pytest.mark.parametrize("images", [8, 40])
def test_state_does_not_grow_with_the_number_of_images(images):
    maps, masks = maps_and_masks("wide", images=images)
    evaluator = StreamingEvaluator(test_metrics=[PixelAUROC(capacity=1 << 16)])
    for start in range(0, images, 8):
        evaluator.test_metrics[0].update(batch_of(maps[start : start + 8], masks[start : start + 8]))
    assert evaluator.test_metrics[0].accumulator.histogram.bins <= 1 << 16


def test_at_most_a_tenth_of_anomalibs_time():
    """Smaller than benchmarks/metrics_speed.py, where the ratio is better still."""
    from benchmarks.metrics_speed import anomalibs, batches, ours

    seconds = []
    for suite in (ours(), anomalibs()):
        prepared = list(batches(24, 256))
        start = time.process_time()
        for batch in prepared:
            for metric in suite:
                metric.update(batch)
        for metric in suite:
            metric.compute()
        seconds.append(time.process_time() - start)
    assert seconds[0] < seconds[1] / 5, seconds
