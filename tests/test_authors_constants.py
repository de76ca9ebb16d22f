"""Constants that make our numbers the authors' and the field's, each held once, by closed forms."""

import numpy as np
import pytest
from sklearn.metrics import auc

from anoclip_anomalib.comparison.row import PIXEL_METRICS
from anoclip_anomalib.evaluation import AUPRO, curves
from anoclip_anomalib.evaluation.curves import ScoreCounts
from anoclip_anomalib.evaluation.thresholds import ThresholdRule

# Evaluation: one region of two pixels, ten normal pixels. The PRO curve runs through (0, 0), (0.2, 0.5) and (1, 1).
COARSE = ScoreCounts(
    score=np.array([0.0, 1.0]),
    normal=np.array([8.0, 2.0]),
    anomalous=np.array([1.0, 1.0]),
    overlap=np.array([0.5, 0.5]),
    regions=1.0,
    minimum=0.0,
    maximum=1.0,
)
# At 0.3 it is interpolated to 0.5625, at 0.05 to 0.125.
AREA_03 = (0.2 * 0.5 / 2 + 0.1 * (0.5 + 0.5625) / 2) / 0.3
AREA_005 = 0.125 / 2


def test_aupro_is_interpolated_at_its_limit():
    assert curves.aupro(COARSE.curve, 0.3) == pytest.approx(AREA_03)
    assert curves.aupro(COARSE.curve, 0.05) == pytest.approx(AREA_005)
    assert curves.aupro(COARSE.curve, 0.2) == pytest.approx(0.25)
    assert curves.aupro(COARSE.curve, 1.0) == pytest.approx(0.05 + 0.8 * 0.75)


def test_the_limits_are_mvtecs():
    """0.3 as in MVTec AD's evaluation code, 0.05 as in MVTec AD 2's."""
    assert curves.aupro(COARSE.curve) == pytest.approx(AREA_03)
    assert AUPRO().value(COARSE) == pytest.approx(AREA_03)
    assert AUPRO(fpr_limit=0.05).value(COARSE) == pytest.approx(AREA_005)
    found = {name: compute(COARSE, None) for name, compute in PIXEL_METRICS.items() if name in ("AUPRO", "AUPRO_0.05")}
    assert found == pytest.approx({"AUPRO": AREA_03, "AUPRO_0.05": AREA_005})


def test_aupro_of_the_papers_has_200_thresholds_below_a_rate_of_03():
    """A normal pixel at each of 0, 1, ..., 200, so every threshold is a score: above 140 to 199 lie fewer than 30 %."""
    score = np.arange(201.0)
    overlap = np.where(score >= 170, 1.0, 0.0)
    counts = ScoreCounts(score, np.ones(201), overlap, overlap / overlap.sum(), 1.0, 0.0, 200.0)
    fpr = np.array([(score > threshold).mean() for threshold in range(200)])
    pro = np.array([(overlap * (score > threshold)).sum() / overlap.sum() for threshold in range(200)])
    kept = fpr < 0.3
    assert kept.sum() == 60
    x = (fpr[kept] - fpr[kept].min()) / (fpr[kept].max() - fpr[kept].min())
    assert curves.aupro_paper(counts) == pytest.approx(auc(x, pro[kept]))


def test_thresholds_are_mean_plus_three_std_or_a_probability_of_a_half():
    """MVTec's hint for AD 2; the middle of a two-way softmax."""
    assert (ThresholdRule().kind, ThresholdRule().k) == ("mean_std", 3.0)
    assert ThresholdRule("natural").fit(None).value == 0.5
