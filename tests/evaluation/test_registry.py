import numpy as np
import pytest

from anoclip_anomalib.comparison.report.tables import METRIC_TITLES
from anoclip_anomalib.evaluation import curves
from anoclip_anomalib.evaluation.accumulator import PixelAccumulator
from anoclip_anomalib.evaluation.registry import METRICS


def test_every_table_has_the_same_names():
    assert set(METRIC_TITLES) == set(METRICS)
    for said in ("title", "words"):
        assert len({getattr(metric, said) for metric in METRICS.values()}) == len(METRICS)


def test_names_mean_what_they_say():
    scores, labels = np.array([0.1, 0.4, 0.35, 0.8, 0.5]), np.array([0, 0, 1, 1, 0])
    image = curves.count_scores(scores, labels)
    values = {name: METRICS[name].compute(image, 0.45) for name in METRICS if METRICS[name].level == "image"}
    assert values == pytest.approx({"image_AUROC": 4 / 6, "image_F1Max": 2 / 3, "image_AP": (1 + 2 / 4) / 2, "image_F1": 0.5})
    maps, masks = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8), np.zeros((1, 8, 8), np.uint8)
    masks[0, 6:, 2:7] = masks[0, 1, 1] = 1
    pixels = PixelAccumulator()
    pixels.update(maps, masks)
    counts = pixels.counts()
    values = {name: METRICS[name].compute(counts, 0.9) for name in METRICS if METRICS[name].level == "pixel"}
    flat = curves.threshold_curve(curves.count_scores(maps, masks))
    assert values["pixel_AUROC"] == pytest.approx(curves.auroc(flat), abs=1e-6)
    assert values["pixel_AP"] == pytest.approx(curves.average_precision(flat), abs=1e-6)
    assert values["AUPRO"] == curves.aupro(counts.curve, 0.3) != values["AUPRO_0.05"] == curves.aupro(counts.curve, 0.05)
    assert values["AUPRO_paper"] == curves.aupro_paper(counts)
    assert values["SegF1"] == curves.f1_at(counts, 0.9) < values["pixel_F1Max"]
