import math

import numpy as np
import pytest
from anomalib.data import Folder, MVTecAD
from anomalib.engine import Engine
from sklearn.metrics import roc_auc_score

from anoclip_anomalib.evaluation import ImageAUROC, RawEvaluation, SegF1

from .data import batch_of, maps_and_masks
from .scorer import Brightness, write_category


def run(tmp_path, callback, model=None, **data):
    root = write_category(tmp_path / "data")
    options = {"root": root, "category": "plate", "num_workers": 0, "eval_batch_size": 4, "val_split_mode": "from_train"}
    datamodule = MVTecAD(**options | data)
    engine = Engine(default_root_dir=tmp_path / "results", callbacks=[callback], barebones=True, accelerator="cpu", devices=1)
    return engine.test(model or Brightness(), datamodule=datamodule)[0], engine


def test_raw_metrics_beside_anomalibs(tmp_path):
    seen = []

    class Spy(RawEvaluation):
        def on_test_batch_end(self, trainer, pl_module, outputs, batch, *args, **kwargs):
            seen.append((batch.anomaly_map.clone().numpy(), batch.gt_mask.numpy()))
            super().on_test_batch_end(trainer, pl_module, outputs, batch, *args, **kwargs)

    values, _ = run(tmp_path, Spy())
    maps, masks = (np.concatenate([pair[i] for pair in seen]) for i in (0, 1))
    assert maps.min() > 0.49
    assert maps.max() < 0.51
    exact = roc_auc_score(masks.reshape(-1), maps.reshape(-1))
    assert values["raw_PixelAUROC"] == pytest.approx(exact, abs=1e-4)
    assert values["raw_ImageAUROC"] == 1.0
    assert "image_AUROC" in values  # anomalib's own are untouched
    assert sum(name.startswith("raw_") for name in values) == 9


def test_own_metrics_and_original_resolution(tmp_path):
    callback = RawEvaluation(metrics=[ImageAUROC(prefix="mine_"), SegF1(threshold=0.502, resolution="original")])
    values, _ = run(tmp_path, callback)
    assert values["mine_ImageAUROC"] == 1.0
    assert 0 < values["SegF1"] < 1


def test_what_an_interrupted_run_has_left_is_forgotten(tmp_path):
    fresh, _ = run(tmp_path, RawEvaluation())
    used = RawEvaluation()
    maps, masks = maps_and_masks(images=4)
    for metric in used.evaluator.test_metrics:
        metric.update(batch_of(maps, masks))
    values, _ = run(tmp_path, used)
    raw = [name for name in values if name.startswith("raw_")]
    assert {name: values[name] for name in raw} == {name: fresh[name] for name in raw}


def test_the_resolution_is_that_of_every_pixel_metric():
    metrics = RawEvaluation(resolution="original").evaluator.test_metrics
    assert [getattr(metric, "resolution", None) for metric in metrics] == [None] * 3 + ["original"] * 6


def test_a_model_without_image_scores_gets_the_maximum_of_its_map(tmp_path):
    values, _ = run(tmp_path, RawEvaluation(), Brightness(fault="no score", evaluator=False))
    assert values["raw_ImageAUROC"] == 1.0


@pytest.mark.parametrize(("fault", "message"), [("nan", "not finite for .*png"), ("size", "sizes must be equal")])
def test_broken_models_are_named(tmp_path, fault, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, RawEvaluation(), Brightness(fault=fault, evaluator=False, post_processor=False))


def test_only_normal_images_give_nan_not_zero(tmp_path):
    root = write_category(tmp_path / "data")
    datamodule = Folder(
        name="plate",
        root=root / "plate",
        normal_dir="train/good",
        normal_test_dir="test/good",
        val_split_mode="from_train",
        num_workers=0,
    )
    engine = Engine(default_root_dir=tmp_path, callbacks=[RawEvaluation()], barebones=True, accelerator="cpu")
    values = engine.test(Brightness(evaluator=False), datamodule=datamodule)[0]
    assert all(math.isnan(values[name]) for name in ("raw_ImageAUROC", "raw_PixelAUROC", "raw_AUPRO"))


def test_running_behind_the_post_processor_is_refused(tmp_path):
    class Wrong(Brightness):
        def configure_callbacks(self):
            return [*super().configure_callbacks(), RawEvaluation()]

    with pytest.raises(ValueError, match="before the PostProcessor"):
        run(tmp_path, ImageOnly(), Wrong())


class ImageOnly(RawEvaluation):
    """A second instance of another class, as Lightning allows one callback per class from the model."""
