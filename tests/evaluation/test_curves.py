import numpy as np
import pytest
from skimage.measure import label, regionprops
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score

from anoclip_anomalib.evaluation import curves
from anoclip_anomalib.evaluation.accumulator import PixelAccumulator
from anoclip_anomalib.evaluation.curves import UndefinedMetricError

from .data import KINDS, maps_and_masks


def accumulated(maps, masks, step=5):
    accumulator = PixelAccumulator()
    for start in range(0, len(maps), step):
        accumulator.update(maps[start : start + step], masks[start : start + step])
    return accumulator.counts()


@pytest.mark.parametrize("seed", range(60))
def test_image_metrics_equal_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(-3, 4, 2 + seed // 2) / 7, rng.random(2 + seed // 2) < 0.4  # many ties
    counts = curves.count_scores(scores, labels)
    if labels.all() or not labels.any():
        with pytest.raises(UndefinedMetricError, match="only one class"):
            curves.threshold_curve(counts)
        return
    curve = curves.threshold_curve(counts)
    assert curves.auroc(curve) == pytest.approx(roc_auc_score(labels, scores))
    assert curves.average_precision(curve) == pytest.approx(average_precision_score(labels, scores))
    precision, recall, _ = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best, threshold = curves.f1_max(curve)
    assert best == pytest.approx(f1.max())
    assert curves.f1_at(counts, np.nextafter(threshold, -np.inf)) == pytest.approx(best)


@pytest.mark.parametrize("kind", KINDS)
def test_pixel_metrics_are_within_1e4_of_exact_ones(kind):
    maps, masks = maps_and_masks(kind)
    counts = accumulated(maps, masks)
    curve = curves.threshold_curve(counts)
    scores, labels = maps.reshape(-1), masks.reshape(-1)
    precision, recall, _ = precision_recall_curve(labels, scores)
    f1 = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
    assert curves.auroc(curve) == pytest.approx(roc_auc_score(labels, scores), abs=1e-4)
    assert curves.average_precision(curve) == pytest.approx(average_precision_score(labels, scores), abs=1e-4)
    assert curves.f1_max(curve)[0] == pytest.approx(f1, abs=1e-4)
    for threshold in np.quantile(scores, [0.5, 0.9, 0.99]):
        above = scores > threshold
        exact = 2 * (above & (labels > 0)).sum() / (above.sum() + labels.sum())
        assert curves.f1_at(counts, threshold) == pytest.approx(exact, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_aupro_paper_equals_the_papers_procedure(kind):
    maps, masks = maps_and_masks(kind, images=12, size=64)
    try:
        value = curves.aupro_paper(accumulated(maps, masks))
    except UndefinedMetricError:
        value = None
    # The procedure of the zero-shot papers, region by region and threshold by threshold.
    fprs, pros = [], []
    low, high = float(maps.min()), float(maps.max())
    for step in range(200):
        above = maps.astype(np.float64) > low + (high - low) / 200 * step
        overlaps = [
            above[i][tuple(region.coords.T)].mean() for i, mask in enumerate(masks) for region in regionprops(label(mask))
        ]
        fprs.append((above & (masks == 0)).sum() / (masks == 0).sum())
        pros.append(np.mean(overlaps))
    fprs, pros = np.array(fprs), np.array(pros)
    kept = fprs < 0.3
    if len(np.unique(fprs[kept])) < 2:
        assert value is None
        return
    stretched = (fprs[kept] - fprs[kept].min()) / (fprs[kept].max() - fprs[kept].min())
    assert value == pytest.approx(auc(stretched, pros[kept]), abs=1e-4)


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_aupro_integrates_to_the_limit_and_divides_by_it(limit):
    maps, masks = maps_and_masks("plain")
    curve = curves.threshold_curve(accumulated(maps, masks))
    fpr, overlap = curves.pro_curve(curve)
    grid = np.linspace(0, limit, 200_001)
    assert curves.aupro(curve, limit) == pytest.approx(np.interp(grid, fpr, overlap).mean(), abs=1e-4)


def test_perfect_and_constant_maps():
    _, masks = maps_and_masks("plain", images=4)
    perfect = curves.threshold_curve(accumulated(masks.astype(np.float32), masks))
    assert [curves.auroc(perfect), curves.average_precision(perfect), curves.f1_max(perfect)[0]] == [1, 1, 1]
    assert curves.aupro(perfect) == pytest.approx(1)
    flat = accumulated(np.full(masks.shape, 0.5, np.float32), masks)
    assert curves.auroc(curves.threshold_curve(flat)) == 0.5
    with pytest.raises(UndefinedMetricError, match="all scores are equal"):
        curves.aupro_paper(flat)


def test_undefined_metrics_say_why():
    maps, masks = maps_and_masks("plain", images=4)
    with pytest.raises(UndefinedMetricError, match="no anomalous"):
        curves.threshold_curve(accumulated(maps, np.zeros_like(masks)))
    with pytest.raises(UndefinedMetricError, match="no normal"):
        curves.threshold_curve(accumulated(maps, np.ones_like(masks)))
    with pytest.raises(UndefinedMetricError, match="no masks"):
        PixelAccumulator().counts()
    with pytest.raises(UndefinedMetricError, match="no threshold"):
        curves.f1_at(accumulated(maps, masks), float("nan"))
    with pytest.raises(UndefinedMetricError, match="no scores"):
        curves.count_scores(np.zeros(0), np.zeros(0))
    images = curves.threshold_curve(curves.count_scores(np.array([0.1, 0.2]), np.array([0, 1])))
    with pytest.raises(UndefinedMetricError, match="no anomalous regions"):
        curves.aupro(images)
    with pytest.raises(ValueError, match="fpr_limit"):
        curves.aupro(images, 0.0)


def test_downsampled_curve_keeps_ends_and_area():
    maps, masks = maps_and_masks("plain")
    x, y = curves.roc(curves.threshold_curve(accumulated(maps, masks)))
    fewer_x, fewer_y = curves.downsample(x, y, 100)
    assert len(fewer_x) <= 102
    assert 102 < len(curves.downsample(x, y)[0]) <= 202
    assert (fewer_x[0], fewer_y[0], fewer_x[-1], fewer_y[-1]) == (0, 0, 1, 1)
    assert auc(fewer_x, fewer_y) == pytest.approx(auc(x, y), abs=2e-3)


def test_precision_and_recall_are_scikit_learns():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 20, 200) / 20, rng.random(200) < 0.3
    recall, precision = curves.precision_recall(curves.threshold_curve(curves.count_scores(scores, labels)))
    theirs, their_recall, _ = precision_recall_curve(labels, scores)
    np.testing.assert_allclose(recall, their_recall[::-1][1:])
    np.testing.assert_allclose(precision, theirs[::-1][1:])
    assert recall[-1] == 1


def test_aupro_paper_without_a_threshold_below_the_limit_is_undefined():
    maps, masks = np.ones((1, 4, 4), np.float32), np.zeros((1, 4, 4), np.uint8)
    maps[0, 0, 0], masks[0, 0, 0] = 0.0, 1  # half of all scores are the largest one
    with pytest.raises(UndefinedMetricError, match="fewer than two of the 200 thresholds"):
        curves.aupro_paper(accumulated(maps, masks))


def test_aupro_paper_leaves_out_rates_at_the_limit():
    """The rates 0.4, 0.3 and 0.2 of ten normal pixels: only one is below 0.3."""
    score = np.array([0.0, 1.0, 2.0, 3.0])
    counts = curves.ScoreCounts(score, np.array([6.0, 1.0, 1.0, 2.0]), np.ones(4), np.ones(4) / 4, 1.0, 0.0, 3.0)
    with pytest.raises(UndefinedMetricError, match="fewer than two"):
        curves.aupro_paper(counts)
    assert np.isfinite(curves.aupro_paper(counts, np.nextafter(0.4, 1)))


def test_of_equal_best_f1_the_highest_threshold_is_taken():
    """As anomalib's adaptive threshold on the same scores."""
    counts = curves.count_scores(np.array([0.1, 0.2, 0.2, 0.3]), np.array([1, 0, 0, 1]))
    assert curves.f1_max(curves.threshold_curve(counts)) == (pytest.approx(2 / 3), 0.3)


def test_the_overlap_of_a_whole_region_is_never_more_than_one():
    """Its pixels' shares add up to a little more, where they are rounded up."""
    sums = []
    for size in range(2, 100):
        share = np.full(size, 1 / size)
        sums.append(np.cumsum(share)[-1])
        counts = curves.ScoreCounts(np.arange(float(size)), np.ones(size), np.ones(size), share, 1.0, 0.0, size - 1.0)
        assert curves.pro_curve(counts.curve)[1].max() <= 1
    assert max(sums) > 1


@pytest.mark.parametrize("anomalous", [3, 10, 30, 90])
def test_counts_are_subtracted_before_they_are_divided(anomalous):
    scores = np.arange(100.0)
    counts = curves.count_scores(scores, scores >= 100 - anomalous)
    assert curves.average_precision(counts.curve) == 1.0
