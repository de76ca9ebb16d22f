import csv
import math
import os
import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import tifffile
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from anomalib.visualization import ImageVisualizer
from lightning.pytorch import Callback

from anoclip_anomalib.data import FolderImages
from anoclip_anomalib.evaluation import PredictionsCsv
from anoclip_anomalib.evaluation.predictions import write_predictions

from .scorer import Brightness, write_category


def engine_for(tmp_path, callback):
    return Engine(default_root_dir=tmp_path / "results", callbacks=[callback], barebones=True, accelerator="cpu")


def read(callback):
    with callback.path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_test_run_with_held_out_normal_images(tmp_path):
    root = write_category(tmp_path / "data", images=10)
    callback = PredictionsCsv(save_maps="tiff", threshold="mean_std")
    datamodule = MVTecAD(root=root, category="plate", num_workers=0, val_split_mode="from_train")
    engine_for(tmp_path, callback).test(Brightness(), datamodule=datamodule)
    rows = read(callback)
    assert len(rows) == 20
    assert {row["threshold_rule"] for row in rows} == {"mean + 3 std of normal images"}
    assert len({row["threshold"] for row in rows}) == 1
    for row in rows:
        assert int(row["label"]) == (float(row["score"]) > float(row["threshold"]))
        anomaly_map = tifffile.imread(callback.path.parent / row["map"])
        assert anomaly_map.dtype == np.float32
        assert anomaly_map.shape == (80, 80)  # the image's size; the model's is 64
        assert 0.49 < float(row["map_min"]) <= anomaly_map.min() <= anomaly_map.max() <= float(row["map_max"]) < 0.51
    assert all(row["label"] == "1" for row in rows if "spot" in row["path"])


class Recorder(Callback):
    """Raw scores of validation and test images, and labels of the first."""

    def __init__(self):
        self.validation, self.test = [], []

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, *args, **kwargs):
        self.validation += zip(batch.pred_score.tolist(), batch.gt_label.tolist(), strict=True)

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, *args, **kwargs):
        self.test += zip(batch.image_path, batch.pred_score.reshape(-1).tolist(), strict=True)


def test_thresholds_come_from_normal_validation_images_only_and_scores_lose_no_digit(tmp_path):
    root = write_category(tmp_path / "data", images=10)
    callback, recorder = PredictionsCsv(threshold="mean_std"), Recorder()
    datamodule = MVTecAD(root=root, category="plate", num_workers=0, val_split_mode="from_test", val_split_ratio=0.5)
    engine = Engine(default_root_dir=tmp_path, callbacks=[callback, recorder], barebones=True, accelerator="cpu")
    engine.test(Brightness(), datamodule=datamodule)
    normal = np.array([score for score, label in recorder.validation if not label])
    assert 1 < len(normal) < len(recorder.validation)  # both kinds were there
    rows = read(callback)
    assert [float(row["threshold"]) for row in rows] == [pytest.approx(normal.mean() + 3 * normal.std(), rel=1e-9)] * len(rows)
    assert {row["path"]: float(row["score"]) for row in rows} == dict(recorder.test)  # to the last bit


def test_folder_predict_without_reference_uses_and_names_the_natural_threshold(tmp_path):
    root = write_category(tmp_path / "data", images=3)
    folder = root / "plate" / "test" / "spot"
    callback = PredictionsCsv(save_maps="png", folder=str(tmp_path / "out"))
    engine_for(tmp_path, callback).predict(Brightness(), data_path=folder)
    rows = read(callback)
    assert callback.path == tmp_path / "out" / "predictions.csv"
    assert len(rows) == 3
    assert all(float(row["threshold"]) == 0.5 and "natural zero-shot" in row["threshold_rule"] for row in rows)
    assert all(row["label"] == "1" for row in rows)
    image = cv2.imread(str(tmp_path / "out" / rows[0]["map"]), cv2.IMREAD_UNCHANGED)
    assert image.dtype == np.uint16


def test_one_decision_one_threshold(tmp_path):
    """The file says what anomalib's post-processor decided in the same run."""
    root = write_category(tmp_path / "data", images=5)
    for mode, words in (("same_as_test", ", which are the test images"), ("from_test", "")):
        callback, labels = PredictionsCsv(), {}

        class Labels(ImageVisualizer):
            def on_test_batch_end(self, trainer, model, outputs, batch, *args, labels=labels):
                labels.update(zip(batch.image_path, batch.pred_label.int().tolist(), strict=True))

        model = Brightness(visualizer=Labels())  # in the visualizer's place, which is after the post-processor
        engine = engine_for(tmp_path, callback)
        engine.test(model, datamodule=MVTecAD(root=root, category="plate", num_workers=0, val_split_mode=mode, seed=1))
        rows = read(callback)
        assert {row["threshold_rule"] for row in rows} == {f"anomalib's own: best F1 on validation images{words}"}
        assert {row["path"]: int(row["label"]) for row in rows} == labels
        assert {float(row["threshold"]) for row in rows} == {model.post_processor.image_threshold.item()}


def test_unreadable_images_are_rows_with_their_fault(tmp_path):
    root = write_category(tmp_path / "data", images=3)
    folder = root / "plate" / "test"
    (folder / "bad.png").write_text("no image")
    for name in ("=cmd|' A1.png", os.fsdecode(b"\xff.png")):
        shutil.copy(folder / "good/000.png", folder / name)
    callback = PredictionsCsv(save_maps="tiff", folder=str(tmp_path / "out"))
    for _ in range(2):  # what the first run has left is put aside
        engine_for(tmp_path, callback).predict(Brightness(), dataset=FolderImages(folder))
    *scored, bad = read(callback)
    assert len(scored) == 8
    assert all(row["score"] and not row["fault"] for row in scored)
    assert bad["path"] == str(folder / "bad.png")
    assert bad["score"] == bad["label"] == bad["threshold"] == ""
    assert f"Cannot read image {folder / 'bad.png'}" in bad["fault"]
    assert callback.faults.keys() == {bad["path"]}
    assert sorted(row["map"] for row in scored)[-1] == "maps/test/spot/002.tiff"
    assert str(folder / r"\xff.png") in {row["path"] for row in scored}
    assert (
        len(list((tmp_path / "out/maps").rglob("*.tiff"))) == len(list((tmp_path / "out/earlier-1/maps").rglob("*.tiff"))) == 8
    )


@pytest.mark.parametrize("field", ["pred_score", "anomaly_map"])
def test_a_score_that_is_no_number_is_a_fault_of_its_image_alone(tmp_path, field):
    class Breaks(Callback):
        def on_predict_batch_end(self, trainer, pl_module, outputs, *args, **kwargs):
            if outputs.image_path[0].endswith("001.png"):
                setattr(outputs, field, getattr(outputs, field) * math.nan)

    folder = write_category(tmp_path / "data", images=3) / "plate/test/spot"
    callback = PredictionsCsv(save_maps="tiff", folder=str(tmp_path / "out"))
    engine = Engine(default_root_dir=tmp_path, callbacks=[Breaks(), callback], barebones=True, accelerator="cpu")
    engine.predict(Brightness(), dataset=FolderImages(folder))
    *scored, bad = read(callback)
    assert [row["path"] for row in scored] == [str(folder / name) for name in ("000.png", "002.png")]
    assert all(row["label"] == "1" and row["map"] for row in scored)
    assert (bad["path"], bad["score"], bad["label"], bad["map"]) == (str(folder / "001.png"), "", "", "")
    assert "not finite" in bad["fault"]
    assert callback.faults.keys() == {bad["path"]}


def test_no_cell_of_the_file_is_a_formula(tmp_path):
    write_predictions(tmp_path / "a.csv", [{"path": "=cmd|'/C calc'!A1.png", "score": "0.5"}])
    assert (tmp_path / "a.csv").read_text().splitlines()[1].startswith("./=cmd")


def test_validation_images_that_are_test_images_give_no_threshold_from_them(tmp_path):
    root = write_category(tmp_path / "data", images=3)
    callback = PredictionsCsv(threshold="mean_std")
    datamodule = MVTecAD(root=root, category="plate", num_workers=0)  # same_as_test, anomalib's default
    engine_for(tmp_path, callback).test(Brightness(), datamodule=datamodule)
    assert all("natural" in row["threshold_rule"] and row["map"] == "" for row in read(callback))


def test_fixed_threshold_and_adaptive_one(tmp_path):
    root = write_category(tmp_path / "data", images=8)
    for options, words in (
        ({"threshold": "fixed", "value": 0.505}, "fixed"),
        ({"threshold": "adaptive"}, "anomalib adaptive"),
    ):
        callback = PredictionsCsv(**options)
        datamodule = MVTecAD(root=root, category="plate", num_workers=0, val_split_mode="from_test")
        engine_for(tmp_path, callback).test(Brightness(), datamodule=datamodule)
        assert all(words in row["threshold_rule"] and math.isfinite(float(row["threshold"])) for row in read(callback))


def test_the_extremes_of_a_map_are_its_own(tmp_path):
    root = write_category(tmp_path / "data", images=3)
    callback = PredictionsCsv(save_maps="tiff")
    engine_for(tmp_path, callback).test(
        Brightness(size=80), datamodule=MVTecAD(root=root, category="plate", num_workers=0, eval_batch_size=6)
    )
    for row in read(callback):
        anomaly_map = tifffile.imread(callback.path.parent / row["map"])  # of the model's size: nothing was resized
        assert (float(row["map_min"]), float(row["map_max"])) == (anomaly_map.min(), anomaly_map.max())


def test_only_the_last_validation_counts():
    callback = PredictionsCsv(threshold="mean_std")
    for scores in ([9.0, 9.5], [1.0, 2.0, 3.0, 80.0]):
        callback.forget_validation()
        callback.read_validation(None, np.array(scores), np.array(scores) > 10)
    assert [labels.tolist() for _, labels in callback._labelled] == [[False, False, False, True]]
    threshold = callback._threshold(None, SimpleNamespace(), callback._labelled)
    assert threshold.value == pytest.approx(2 + 3 * (2 / 3) ** 0.5)


@pytest.mark.parametrize(("processes", "name"), [(1, "maps"), (2, "maps-rank1")])
def test_every_process_writes_maps_into_a_folder_of_its_own(tmp_path, processes, name):
    trainer = SimpleNamespace(
        default_root_dir=tmp_path, world_size=processes, global_rank=processes - 1, is_global_zero=processes == 1,
        strategy=SimpleNamespace(barrier=lambda: None),
    )  # fmt: skip
    callback = PredictionsCsv(save_maps="tiff")
    callback.begin(trainer, None)
    assert callback._maps.folder == tmp_path / name


def test_wrong_options_fail_before_the_run():
    with pytest.raises(ValueError, match="Unknown threshold rule"):
        PredictionsCsv(threshold="best")
    with pytest.raises(ValueError, match="Maps are saved as"):
        PredictionsCsv(save_maps="jpeg")
