import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anomalib.metrics.aupro import _AUPRO
from sklearn.metrics import f1_score, roc_auc_score

from anoclip_anomalib.evaluation.resolution import read_mask, resize_map
from anoclip_anomalib.evaluation.thresholds import ThresholdRule
from anoclip_anomalib.submission.model_config import ModelConfig
from anoclip_anomalib.submission.mvtec_ad2.layout import images_of
from anoclip_anomalib.submission.mvtec_ad2.local_evaluation import (
    METRICS,
    PARTS,
    _evaluate_object,
    as_table,
    write_public_figures,
)
from anoclip_anomalib.submission.mvtec_ad2.predict import PredictSettings, RawMapStore

from ..ad2_files import write_dataset

COUNTS = {"can": 1, "vial": 1}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("ad2") / "data", COUNTS, public=4).resolve()


class Counting:
    def __init__(self):
        self.done = self.total = 0

    def start(self, text, total):
        self.total += total

    def advance(self, count=1):
        self.done += count


def evaluate(dataset, place, **kwargs):
    arguments = ["--model", "tests.submission.fake_model.Brightness", "--data.root", str(dataset), "--data.num_workers", "0"]
    progress = Counting()
    results, path = write_public_figures(
        PredictSettings(ModelConfig(arguments), dataset),
        list(COUNTS),
        place,
        kwargs.pop("rule", ThresholdRule()),
        progress,
        **kwargs,
    )
    assert progress.done == progress.total > 0
    assert path == place.with_name(f"{place.name}.public.json")
    assert path.is_file()
    return results


def test_figures_equal_those_of_other_libraries(dataset, tmp_path):
    results = evaluate(dataset, tmp_path / "mine", keep_raw=True)
    assert [result.object_name for result in results] == ["can", "vial"]
    result = results[0]
    raw = tmp_path / "mine.public.work" / "can"

    def maps(folder):
        return [resize_map(np.load(path)["scores"], (24, 36)) for path in sorted((raw / folder).iterdir())]

    normal, good, bad = (np.stack(maps(folder)) for folder in ("validation/good", "test_public/good", "test_public/bad"))
    threshold = normal.astype(np.float64).mean() + 3 * normal.astype(np.float64).std()
    masks = [read_mask(path) for path in sorted((dataset / "can" / "test_public" / "ground_truth" / "bad").iterdir())]
    scores, truth = np.concatenate([good, bad]), np.concatenate([np.zeros_like(good), np.stack(masks)])
    assert result.threshold == pytest.approx(threshold, abs=1e-9)
    assert result.seg_f1 == pytest.approx(f1_score(truth.ravel(), scores.ravel() > threshold))
    labels = [0] * len(good) + [1] * len(bad)
    assert result.image_auroc == pytest.approx(roc_auc_score(labels, scores.max((1, 2))))
    reference = _AUPRO(fpr_limit=0.05)
    reference.update(torch.from_numpy(scores), torch.from_numpy(truth).int())
    assert result.au_pro == pytest.approx(float(reference.compute()), abs=2e-3)
    assert result.seg_f1 <= result.best_seg_f1 <= 1.0
    table = as_table(results)
    for metric in METRICS:
        assert table["mean"][metric] == pytest.approx(np.mean([getattr(result, metric) for result in results]))


def test_raw_maps_are_removed(dataset, tmp_path):
    evaluate(dataset, tmp_path / "mine")
    assert not list(tmp_path.rglob("*.npz"))


def test_threshold_rule_decides_seg_f1(dataset, tmp_path):
    rules = {"one": ThresholdRule(), "other": ThresholdRule("quantile", q=0.5)}
    one, other = (evaluate(dataset, tmp_path / name, rule=rule) for name, rule in rules.items())
    assert one[0].seg_f1 > other[0].seg_f1
    assert one[0].au_pro == other[0].au_pro


@pytest.mark.parametrize("missing", ["test_public/bad", "test_public/good", "validation/good"])
def test_missing_parts_are_named(dataset, tmp_path, missing):
    root = shutil.copytree(dataset, tmp_path / "data").resolve()
    shutil.rmtree(root / "vial" / missing)
    with pytest.raises(FileNotFoundError, match="vial has no images for"):
        evaluate(root, tmp_path / "work")


def test_missing_mask_is_named(dataset, tmp_path):
    root = shutil.copytree(dataset, tmp_path / "data").resolve()
    (root / "can" / "test_public" / "ground_truth" / "bad" / "002_regular_mask.png").unlink()
    with pytest.raises(FileNotFoundError, match="002_regular.png has no mask"):
        evaluate(root, tmp_path / "work")


def test_the_image_score_is_the_largest_at_the_size_of_the_image(dataset, tmp_path):
    store = RawMapStore(tmp_path, dataset / "can")
    for part in PARTS:
        for image in images_of(dataset, "can", part):
            scores = np.zeros((48, 72), np.float32)
            if "bad" in part:
                scores[:20, :20] = 0.5
            else:
                scores[9, 9] = 1.0  # alone, it is a quarter of that in the middle of four
            store.write(image, scores, 0.0)
    result = _evaluate_object(SimpleNamespace(root=dataset), "can", ThresholdRule(), store, Counting())
    assert result.image_auroc == 1
