"""Few normal images beside the text, inside anomalib's Engine."""

import csv
import logging
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from anomalib import LearningType
from anomalib.data import PredictDataset
from PIL import Image

from anoclip_anomalib import AnoClip
from anoclip_anomalib.data import FolderImages
from anoclip_anomalib.evaluation import PredictionsCsv
from anoclip_anomalib.zeroshot import text_model
from anoclip_anomalib.zeroshot.few_shot import FewShot
from anoclip_anomalib.zeroshot.normal_images import images_of_datamodule, warn_of_sizes
from tests.anoclip.test_lightning_model import engine, mvtec, root  # noqa: F401
from tests.mvtec_files import write_mvtec


@pytest.fixture
def good(root) -> Path:  # noqa: F811
    return root / "bottle/train/good"


def predicted(model, runner, folder: Path) -> dict[str, float]:
    batches = runner.predict(model, dataset=FolderImages(folder))
    return {path: float(score) for batch in batches for path, score in zip(batch.image_path, batch.pred_score, strict=True)}


def test_without_normal_images_nothing_is_read_and_nothing_changes(anoclip, engine, root):  # noqa: F811
    model = anoclip(class_name="bottle")
    predicted(model, engine(), root / "bottle/test/good")
    assert len(model.model.reference) == 0
    assert model.learning_type == LearningType.ZERO_SHOT
    assert not [name for name in model.state_dict() if "reference" in name]
    assert model.method_facts.category_data == "its name"
    assert model.model.encode(torch.zeros(1, 3, *model.model.image_size)).levels is None


def test_a_folder_of_good_parts_gives_verdicts(anoclip, engine, root, good, tmp_path):  # noqa: F811
    model = anoclip(class_name="bottle", normal_images=str(good))
    table = PredictionsCsv(folder=str(tmp_path))
    engine(callbacks=[table]).predict(model, dataset=FolderImages(root / "bottle/test"))
    with table.path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    count = len(list(good.glob("*.png")))
    threshold = model.image_threshold
    assert len(model.model.reference) == count
    assert threshold.false_alarms == pytest.approx(1 / (count + 1))
    assert {float(row["threshold"]) for row in rows} == {threshold.value}
    assert [int(row["label"]) for row in rows] == [int(float(row["score"]) > threshold.value) for row in rows]
    assert f"{count} normal images" in rows[0]["threshold_rule"]
    assert model.post_processor._pixel_threshold.item() == pytest.approx(model.model.reference.pixel_threshold.value)
    assert model.learning_type == LearningType.FEW_SHOT
    assert model.method_facts.category_data == f"its name and {count} normal images"


def test_images_are_encoded_as_those_of_the_run_and_do_not_touch_each_other(anoclip, engine, root, good):  # noqa: F811
    model = anoclip(class_name="bottle", normal_images=str(good), post_processor=False)
    together = predicted(model, engine("together"), root / "bottle/test")
    files = sorted(together)
    alone = predicted(model, engine("alone"), Path(files[-1]))
    assert alone[files[-1]] == pytest.approx(together[files[-1]], abs=1e-4)
    again = predicted(model, engine("normal"), good)  # an image finds itself: below what it gets when it is left out
    left_out = model.model.reference.left_out[0]
    assert all(score < float(own) for score, own in zip((again[name] for name in sorted(again)), left_out, strict=True))


def test_k_images_of_the_training_split_by_seed(anoclip, engine, root):  # noqa: F811
    chosen = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1), ("d", 2), ("e", 3)):
        model = anoclip(k_shot=1, k_seed=seed)
        (figures,) = engine(name).test(model, datamodule=mvtec(root), verbose=False)
        chosen[name] = model.normals._remembered
        assert len(model.model.reference) == 1
        assert all("train/good" in path for path in chosen[name])
        assert "raw_ImageAUROC" in figures
    assert chosen["a"] == chosen["b"]
    assert len({tuple(paths) for paths in chosen.values()}) == 2


def test_another_category_gets_its_own_images(anoclip, engine, root):  # noqa: F811
    model = anoclip(k_shot=2)
    for category in ("bottle", "cable"):
        engine(category).test(model, datamodule=mvtec(root, category), verbose=False)
        assert all(f"{category}/train/good" in path for path in model.normals._remembered)


def test_a_checkpoint_holds_the_memory_and_needs_no_folder(anoclip, engine, tmp_path, weight_file):  # noqa: F811
    folder = write_mvtec(tmp_path / "data", ("bottle",)) / "bottle"
    model, runner = anoclip(class_name="bottle", normal_images=str(folder / "train/good"), post_processor=False), engine("a")
    before = predicted(model, runner, folder / "test")
    runner.trainer.save_checkpoint(tmp_path / "few.ckpt", weights_only=False)
    (folder / "train").rename(tmp_path / "gone")
    loaded = AnoClip.load_from_checkpoint(tmp_path / "few.ckpt", weights_only=True, visualizer=False, post_processor=False)
    assert len(loaded.model.reference) == len(model.model.reference)
    assert predicted(loaded, engine("b"), folder / "test") == before
    assert loaded.learning_type == LearningType.FEW_SHOT
    with pytest.raises(ValueError, match="remembers images as other CLIP weights saw them"):
        AnoClip.load_from_checkpoint(tmp_path / "few.ckpt", weights_only=True, backbone="demo", pretrained="demo")


def test_the_exported_model_scores_alike(anoclip, engine, root, good, tmp_path):  # noqa: F811
    model = anoclip(class_name="bottle", normal_images=str(good))
    path = model.to_torch(tmp_path)
    exported = torch.load(path, weights_only=False)["model"].eval()
    images = torch.rand(2, 3, *model.model.image_size)
    with torch.no_grad():
        assert torch.equal(exported(images).pred_score, model.eval()(images).pred_score)
    assert len(model.model.reference) > 0


def test_the_onnx_export_compares_with_the_normal_images(anoclip, engine, root, good):  # noqa: F811
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = anoclip("tiny-patch8", class_name="bottle", normal_images=str(good), post_processor=False)
    path = engine("export").export(model, export_type="onnx")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    assert len(model.model.reference) > 0
    for count in (1, 3):
        images = torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(count))
        outputs = dict(zip(names, session.run(None, {session.get_inputs()[0].name: images.numpy()}), strict=True))
        with torch.no_grad():
            expected = model.eval()(images)
        for name in ("pred_score", "anomaly_map"):
            torch.testing.assert_close(torch.from_numpy(outputs[name]), getattr(expected, name), atol=1e-3, rtol=1e-4)


def test_normal_images_do_not_need_the_text_tower(anoclip, engine, good, root, monkeypatch):  # noqa: F811
    calls = []
    original = text_model.embed_class
    monkeypatch.setattr(text_model, "embed_class", lambda *args, **kwargs: calls.append(args) or original(*args, **kwargs))
    counts = []
    for name, arguments in {"text alone": {}, "with images": {"normal_images": str(good)}}.items():
        calls.clear()
        predicted(anoclip(class_name="bottle", **arguments), engine(name), root / "bottle/test/good")
        counts.append(len(calls))
    assert counts[0] == counts[1] > 0


def test_leakage_is_refused_in_a_test_and_named_in_a_prediction(anoclip, engine, root, caplog):  # noqa: F811
    model = anoclip(normal_images=str(root / "bottle/test/good"))
    with pytest.raises(ValueError, match="Leakage: .* images to be scored are among the .* normal images: .*good"):
        engine().test(model, datamodule=mvtec(root), verbose=False)
    with caplog.at_level(logging.WARNING):
        predicted(anoclip(normal_images=str(root / "bottle/test/good")), engine("again"), root / "bottle/test/good")
    assert "Leakage" in caplog.text


def test_one_normal_image_works_and_says_how_little_it_is(anoclip, engine, root, tmp_path, good, caplog):  # noqa: F811
    (tmp_path / "one").mkdir()
    (tmp_path / "one/only.png").write_bytes(next(iter(good.glob("*.png"))).read_bytes())
    model = anoclip(class_name="bottle", normal_images=str(tmp_path / "one"))
    with caplog.at_level(logging.INFO):
        engine().predict(model, dataset=PredictDataset(root / "bottle/test/good"))
    assert "One normal image tells little" in caplog.text
    assert model.image_threshold.false_alarms == 0.5
    assert len(model.model.reference) == 1


def test_turned_copies_and_a_coreset(anoclip, engine, root, good):  # noqa: F811
    sizes = {}
    for name, options in {"plain": {}, "turned": {"turned_normals": True}, "coreset": {"coreset": 0.25}}.items():
        model = anoclip(class_name="bottle", normal_images=str(good), **options)
        predicted(model, engine(name), root / "bottle/test/good")
        sizes[name] = len(model.model.reference.memory)
    assert sizes["turned"] == 8 * sizes["plain"]
    assert sizes["coreset"] == sizes["plain"] / 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"folder": "/no/such/folder"}, "normal_images='/no/such/folder' is no folder"),
        ({"folder": "x", "k": 2}, "not both"),
        ({"k": -1}, "k_shot, 0 or more"),
    ],
)
def test_bad_choices(arguments, message):
    with pytest.raises(ValueError, match=message):
        FewShot(**arguments)


def test_k_without_a_data_set_and_k_too_large(anoclip, engine, root):  # noqa: F811
    with pytest.raises(ValueError, match="k_shot=2 takes normal images from a data set's training split"):
        engine().predict(anoclip(class_name="bottle", k_shot=2), dataset=FolderImages(root / "bottle/test/good"))
    with pytest.raises(ValueError, match="k_shot=500, but the training split has"):
        engine().test(anoclip(k_shot=500), datamodule=mvtec(root), verbose=False)


def test_the_choice_depends_on_names_and_seed_alone():
    """Not on the order, the folder above the data, or on other images that a random split took away."""

    def chosen(paths: list[str], seed: int = 0) -> list[str]:
        data = SimpleNamespace(train_data=SimpleNamespace(samples=pd.DataFrame({"image_path": paths})))
        return [path.name for path in images_of_datamodule(data, 3, seed)]

    paths = [f"/data/bottle/train/good/{number:03}.png" for number in range(20)]
    expected = chosen(paths)
    assert chosen(paths[::-1]) == expected == sorted(expected)
    assert chosen([path.replace("/data", "/elsewhere/data") for path in paths]) == expected
    assert chosen([path for path in paths if Path(path).name in expected or path > paths[9]]) == expected
    assert len({tuple(chosen(paths, seed)) for seed in range(5)}) == 5


def test_normal_images_of_another_size_are_warned_of(tmp_path, caplog):
    for name, size in (("a", (40, 30)), ("b", (30, 40)), ("c", (40, 30))):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    a, b, c, broken = (tmp_path / f"{name}.png" for name in ("a", "b", "c", "broken"))
    for normal, tested in (([a], [c]), ([a, b], [c]), ([a], [broken]), ([a], [])):
        warn_of_sizes(normal, tested)
    assert not caplog.records
    warn_of_sizes([a, c], [b, broken])
    assert "another size (40 x 30) than those to be scored (30 x 40)" in caplog.text


def test_half_precision_trainers(anoclip, engine, root, good):  # noqa: F811
    model = anoclip(class_name="bottle", normal_images=str(good), post_processor=False)
    scores = predicted(model, engine(precision="bf16-true"), root / "bottle/test/good")
    assert model.model.reference.memory.patches.dtype == torch.float32
    assert torch.tensor(list(scores.values())).isfinite().all()
