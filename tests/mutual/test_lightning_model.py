"""MutualClip inside anomalib's Engine: images of a run, and single images against a saved pool."""

import csv
import logging
from pathlib import Path

import pytest
import torch
from anomalib import LearningType
from anomalib.data import Folder
from safetensors import safe_open
from safetensors.torch import save_file

from anoclip_anomalib import MutualClip, TestTimeAdaptation
from anoclip_anomalib.cli.main import main
from anoclip_anomalib.data import FolderImages
from anoclip_anomalib.evaluation import PredictionsCsv
from anoclip_anomalib.mutual.pool import FeaturePool, peaks
from anoclip_anomalib.mutual.run import tell_what_is_seen
from anoclip_anomalib.zeroshot.features import Features
from anoclip_anomalib.zeroshot.neighbourhoods import feature_sets
from anoclip_anomalib.zeroshot.normal_reference import NormalReference
from anoclip_anomalib.zeroshot.tiling import TileLayout
from tests.anoclip.test_lightning_model import engine, mvtec, root  # noqa: F401
from tests.mutual.test_scoring import plain


@pytest.fixture
def mutual(weight_file):
    def make(**arguments: object) -> MutualClip:
        defaults = {"backbone": "tiny", "pretrained": weight_file("tiny"), "visualizer": False, "post_processor": False}
        return MutualClip(**{**defaults, **arguments})

    return make


def predicted(model, runner, folder: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    found = {}
    for batch in runner.predict(model, dataset=FolderImages(folder)):
        for path, score, one in zip(batch.image_path, batch.pred_score, batch.anomaly_map, strict=True):
            found[path] = (score, one)
    return found


def assert_alike(one: dict, two: dict, paths=None) -> None:
    for path in paths or one:
        for a, b in zip(one[path], two[path], strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def test_maps_are_the_plain_double_loop_over_all_depths_and_neighbourhoods(mutual, engine, root):  # noqa: F811
    folder = root / "bottle/test"
    model = mutual(neighbourhoods=[1, 3], similar=[1])
    found = predicted(model, engine(), folder)
    paths = sorted(found)
    from anoclip_anomalib.data import read_image

    with torch.no_grad():
        features = model.model.encode(torch.cat([model.pre_processor.transform(read_image(path)[None]) for path in paths]))
        sets = feature_sets(features.levels, features.grid, (1, 3)).flatten(2, 3)
        expected = torch.stack([plain(one) for one in sets]).mean(dim=0).float()
        maps = model.model.as_batch(expected.unsqueeze(1), expected.amax(dim=1), features).anomaly_map
    for path, one in zip(paths, maps, strict=True):
        torch.testing.assert_close(found[path][1].squeeze(), one.squeeze(), atol=1e-4, rtol=0)
    highest = maps.flatten(1).amax(dim=1)
    scores = torch.stack([found[path][0] for path in paths])
    torch.testing.assert_close(scores, (highest - highest.min()) / (highest.max() - highest.min()), atol=1e-3, rtol=0)


def test_a_data_set_is_measured_and_says_that_it_sees_the_test_images(mutual, engine, root):  # noqa: F811
    model = mutual(post_processor=True)
    (figures,) = engine().test(model, datamodule=mvtec(root), verbose=False)
    assert {"raw_ImageAUROC", "raw_PixelAUROC"} <= figures.keys()
    assert model.method_facts.sees_other_test_images
    assert "all test images" in model.method_facts.category_data
    assert model.learning_type == LearningType.ZERO_SHOT
    again = mutual(post_processor=True)
    (other,) = engine("again").test(again, datamodule=mvtec(root, eval_batch_size=1), verbose=False)
    assert other["raw_PixelAUROC"] == pytest.approx(figures["raw_PixelAUROC"], abs=1e-4)


def test_too_few_validation_images_leave_the_test_without_thresholds(mutual, engine, root, caplog):  # noqa: F811
    def data(**arguments: object) -> Folder:
        few = {"val_split_mode": "from_train", "val_split_ratio": 0.5, "name": "few", "root": root / "bottle", **arguments}
        return Folder(normal_dir="train/good", normal_test_dir="test/good", abnormal_dir="test/spot", num_workers=0, **few)

    with caplog.at_level(logging.WARNING):
        (figures,) = engine().test(model := mutual(post_processor=True), datamodule=(few := data()), verbose=False)
    assert 0 < len(few.val_data) < 3
    assert f"The validation split has {len(few.val_data)} images" in caplog.text
    assert model.post_processor.image_threshold.isnan()
    (expected,) = engine("none").test(
        mutual(post_processor=True), datamodule=data(val_split_mode="same_as_test"), verbose=False
    )
    assert figures["raw_ImageAUROC"] == expected["raw_ImageAUROC"]


def test_memory_on_disk_and_encode_batches_change_little(mutual, engine, root):  # noqa: F811
    folder = root / "bottle/test"
    expected = predicted(mutual(), engine("a"), folder)
    assert_alike(expected, predicted(mutual(encode_batch_size=1), engine("b"), folder))
    on_disk = predicted(mutual(memory_gib=1e-9), engine("c"), folder)
    for path in expected:
        torch.testing.assert_close(on_disk[path][1], expected[path][1], atol=5e-3, rtol=0)


def test_with_text_fuses_what_the_same_pass_gives(mutual, engine, root):  # noqa: F811
    folder = root / "bottle/test"
    alone, fused = mutual(), mutual(with_text=True, class_name="bottle")
    first, second = predicted(alone, engine("a"), folder), predicted(fused, engine("b"), folder)
    assert alone.model.text_embeddings.numel() == 0
    assert fused.model.class_name == "bottle"
    assert any(not torch.allclose(first[path][1], second[path][1]) for path in first)
    assert "its name" in fused.method_facts.category_data


@pytest.mark.parametrize("text", [False, True])
def test_a_saved_pool_makes_it_a_model_of_single_images(mutual, engine, root, tmp_path, weight_file, capsys, text):  # noqa: F811
    out = tmp_path / "pool.safetensors"
    words = ["--class_name", "bottle"] if text else []
    folder = root / "bottle/train/good"
    many = tmp_path / "many"
    many.mkdir()
    for name in ("train/good", "test/good"):
        for path in (root / "bottle" / name).glob("*.png"):
            (many / f"{name.replace('/', '-')}-{path.name}").write_bytes(path.read_bytes())
    arguments = ["--backbone", "tiny", "--pretrained", weight_file("tiny"), *words]
    assert main(["pool", "build", str(many), "--out", str(out), *arguments]) == 0
    assert "wrote" in capsys.readouterr().out
    options = {"pool": str(out), "with_text": text, "class_name": "bottle"}
    model = mutual(**options)
    together, alone = predicted(model, engine("a"), root / "bottle/test"), {}
    for path in together:
        alone |= predicted(mutual(**options), engine(Path(path).stem), Path(path))
    assert_alike(together, alone)
    assert not model.method_facts.sees_other_test_images
    exported = torch.load(model.to_torch(tmp_path), weights_only=False)["model"].eval()
    images = torch.rand(2, 3, *model.model.image_size)
    with torch.no_grad():
        torch.testing.assert_close(exported(images).pred_score, model.eval()(images).pred_score)
    assert folder.is_dir()


def test_the_onnx_export_scores_against_the_pool(mutual, engine, root, tmp_path):  # noqa: F811
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    out = str(tmp_path / "pool.safetensors")
    assert main(["pool", "build", str(root / "bottle/test"), "--out", out, "--backbone", "demo", "--image_size", "32"]) == 0
    model = mutual(backbone="demo", pretrained=None, image_size=32, pool=out)
    path = engine("export").export(model, export_type="onnx")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    for count in (1, 3):
        images = torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(count))
        outputs = dict(zip(names, session.run(None, {session.get_inputs()[0].name: images.numpy()}), strict=True))
        with torch.no_grad():
            expected = model.eval()(images)
        for name in ("pred_score", "anomaly_map"):
            torch.testing.assert_close(torch.from_numpy(outputs[name]), getattr(expected, name), atol=1e-3, rtol=0)


def test_one_engine_again_a_second_model_and_half_precision(mutual, engine, root):  # noqa: F811
    folder, runner = root / "bottle/test", engine("same")
    first = mutual()
    found = predicted(first, runner, folder)
    other = predicted(mutual(neighbourhoods=[1]), runner, folder)
    assert any(not torch.allclose(found[path][1], other[path][1]) for path in found)
    assert_alike(found, predicted(first, runner, folder))
    half = predicted(mutual(), engine("half", precision="bf16-true"), folder)
    assert all(score.isfinite() and one.isfinite().all() for score, one in half.values())


def test_a_pool_is_built_with_other_settings(mutual, engine, root, tmp_path, weight_file):  # noqa: F811
    out, features = str(tmp_path / "pool.safetensors"), tmp_path / "features"
    features.mkdir()
    settings = ["--depths", "1", "2", "--neighbourhoods", "3", "--tiling", "square", "--memory_gib", "1e-9"]
    arguments = ["--out", out, "--backbone", "tiny", "--pretrained", weight_file("tiny"), *settings]
    assert main(["pool", "build", str(root / "bottle/test"), *arguments, "--features_folder", str(features)]) == 0
    assert not list(features.iterdir())
    model = mutual(pool=out, depths=[1, 2], neighbourhoods=[3], tiling="square")
    assert len(predicted(model, engine(), root / "bottle/test")) > 0
    with pytest.raises(ValueError, match="another depths"):
        mutual(pool=out, depths=[2], neighbourhoods=[3], tiling="square")


def test_a_pool_of_another_encoder_or_of_nothing_is_refused(mutual, root, tmp_path, weight_file, capsys):  # noqa: F811
    out = tmp_path / "pool.safetensors"
    arguments = ["--out", str(out), "--backbone", "tiny", "--pretrained", weight_file("tiny")]
    assert main(["pool", "build", str(root / "bottle/test"), *arguments]) == 0
    with pytest.raises(ValueError, match="was made with another encoder"):
        mutual(backbone="demo", pretrained=None, pool=str(out))
    with pytest.raises(ValueError, match="another neighbourhoods"):
        mutual(neighbourhoods=[1], pool=str(out))
    with pytest.raises(ValueError, match=r"another lowest \(0\.3; tiny\), not 0\.5"):
        mutual(lowest=0.5, pool=str(out))
    with pytest.raises(ValueError, match=r"another class \(none; tiny\), not cable"):
        mutual(with_text=True, class_name="cable", pool=str(out))
    with pytest.raises(ValueError, match="No pool at .*: build one with"):
        mutual(pool=str(tmp_path / "no.safetensors"))
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is no pool that"):
        mutual(pool=str(tmp_path / "bad.safetensors"))
    (tmp_path / "empty").mkdir()
    assert main(["pool", "build", str(tmp_path / "empty"), *arguments]) == 2
    assert "No images in" in capsys.readouterr().err
    assert main(["pool", "build", str(tmp_path / "nowhere"), *arguments]) == 2
    assert "is no folder" in capsys.readouterr().err


def test_fewer_than_three_images_and_no_room_on_the_disk(mutual, engine, root, tmp_path, monkeypatch):  # noqa: F811
    with pytest.raises(ValueError, match="at least 3 images that can score each other; there are 2"):
        engine().predict(mutual(), dataset=FolderImages(root / "bottle/train/good"))
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("anoclip_anomalib.mutual.pool.shutil.disk_usage", lambda _: usage)
    with pytest.raises(ValueError, match="has 0.0 GiB free: name another features_folder"):
        engine("b").predict(mutual(memory_gib=1e-9), dataset=FolderImages(root / "bottle/test"))


def test_an_unreadable_file_is_left_out_of_the_pool(mutual, engine, root, tmp_path):  # noqa: F811
    for path in (root / "bottle/test").rglob("*.png"):
        (tmp_path / f"{path.parent.name}-{path.name}").write_bytes(path.read_bytes())
    expected = predicted(mutual(), engine("a"), tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert_alike(expected, predicted(mutual(), engine("b"), tmp_path))


def test_without_a_pool_nothing_is_exported(mutual, tmp_path):
    with pytest.raises(ValueError, match="Only a model with a saved pool"):
        mutual().to_torch(tmp_path)


def test_ranks_among_a_pool_are_no_verdicts(mutual, engine, root, tmp_path):  # noqa: F811
    callback = PredictionsCsv(tmp_path / "out")
    engine("ranks", callbacks=[callback]).predict(mutual(), dataset=FolderImages(root / "bottle/test"))
    with callback.path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == [""] * len(rows)
    assert rows[0]["threshold_rule"].startswith("none; ")


def test_subsets_divide_without_labels_and_all_images_get_a_score(mutual, engine, root):  # noqa: F811
    pool = FeaturePool(10)
    pool.filled = 10
    parts = pool.subsets(3)
    assert sorted(torch.cat(parts).tolist()) == list(range(10))
    assert [len(part) for part in parts] == [4, 3, 3]
    with pytest.raises(ValueError, match="subsets=4 of 10 images"):
        pool.subsets(4)
    folder = root / "bottle/test"
    assert len(predicted(mutual(subsets=2), engine(), folder)) == len(list(folder.rglob("*.png")))


def test_few_images_are_warned_of(mutual, engine, root, caplog):  # noqa: F811
    with caplog.at_level(logging.WARNING):
        predicted(mutual(), engine(), root / "bottle/test")
    assert "takes for normal what most images share" in caplog.text


@pytest.mark.parametrize(("budget", "dtype"), [(240, torch.float32), (239, torch.float16)])
def test_a_pool_is_on_disk_where_float32_does_not_fit_the_budget(tmp_path, budget, dtype):
    levels = 1e6 * torch.randn(1, 3, 1, 4, 5)  # 60 values; half precision would not hold them as they are
    pool = FeaturePool(3, budget, tmp_path)
    pool.add(Features(torch.randn(1, 3, 1, 4), torch.empty(0), (2, 2), TileLayout((8, 8), (8, 8), ((0, 0),)), levels))
    assert pool.levels.dtype == dtype
    expected = torch.nn.functional.layer_norm(levels, levels.shape[-2:])
    torch.testing.assert_close(pool.levels.float(), expected, atol=2e-3, rtol=0)
    pool.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("unlike", "warned"), [(11, True), (10, False), (3, False)])
def test_a_pool_of_which_most_are_unlike_the_others_is_warned_of(caplog, unlike, warned):
    with caplog.at_level(logging.WARNING):
        tell_what_is_seen(torch.cat([torch.zeros(20 - unlike), torch.ones(unlike)]))
    assert (f"{unlike} look unlike the others" in caplog.text) == warned


@torch.no_grad()
def test_a_single_image_is_compared_with_every_image_of_the_pool(mutual):
    """None of them is the image itself: of ten images the nearest three count, one more than they have among themselves."""
    model = mutual(neighbourhoods=[1], similar=[1]).model.eval()
    features = model.encode(torch.randn(11, 3, *model.image_size, generator=torch.Generator().manual_seed(0)))
    model.pool = features.levels[:, :10]
    model.pool_images, model.pool_tokens = torch.linspace(0, 1, 10), torch.randn(10, features.class_tokens.shape[-1])
    own = features._replace(levels=features.levels[:, 10:], class_tokens=features.class_tokens[:, 10:])
    sets = feature_sets(features.levels, features.grid, (1,)).flatten(2, 3).double()
    nearest = torch.stack([torch.cdist(one[10], one[:10]).amin(dim=-1) for one in sets])  # (S, 10, L)
    expected = nearest.sort(dim=1).values[:, :3].mean(dim=(0, 1))
    found = model.score(own)
    highest = peaks(expected.float()[None, None], own.grid, own.layout.tile)
    torch.testing.assert_close(found.pred_score, highest, atol=1e-4, rtol=0)


def test_a_pool_knows_the_activation_of_its_encoder(mutual, root, tmp_path, weight_file):  # noqa: F811
    """Two activations of the same weights have one digest, see LoadedClip.architecture."""
    out = tmp_path / "pool.safetensors"
    assert (
        main(
            [
                "pool",
                "build",
                str(root / "bottle/test"),
                "--out",
                str(out),
                "--backbone",
                "tiny",
                "--pretrained",
                weight_file("tiny"),
            ]
        )
        == 0
    )
    with safe_open(out, "pt") as file:
        facts, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert facts["architecture"] == mutual().model._clip.clip.architecture == "GELU, 4 heads"
    save_file(tensors, tmp_path / "quick.safetensors", metadata=facts | {"architecture": "QuickGELU, 4 heads"})
    with pytest.raises(ValueError, match="was made with another architecture"):
        mutual(pool=str(tmp_path / "quick.safetensors"))
    del facts["architecture"]
    save_file(tensors, tmp_path / "earlier.safetensors", metadata=facts)
    assert mutual(pool=str(tmp_path / "earlier.safetensors")).model.has_pool
    del facts["encoder"]  # which every version tells
    save_file(tensors, tmp_path / "nobody.safetensors", metadata=facts)
    with pytest.raises(ValueError, match="another encoder"):
        mutual(pool=str(tmp_path / "nobody.safetensors"))


def test_adaptation_needs_text_that_is_read(mutual):
    with pytest.raises(TypeError, match="needs an AnoClip model"):
        TestTimeAdaptation().attach(mutual().model)
    model = mutual(with_text=True, class_name="bottle").model
    TestTimeAdaptation().attach(model)
    assert model.adapter is not None


def test_a_model_that_an_earlier_version_exported_knows_its_depths(mutual, anoclip):
    for model in (mutual(depths=[1, 2]).model, anoclip(depths=[1, 2]).model):
        state = {name: value for name, value in model.__dict__.items() if name != "depths"}
        state["_modules"] = {**state["_modules"], "reference": NormalReference((1, 2))}
        again = type(model).__new__(type(model))
        again.__setstate__(state)
        assert again.depths == (1, 2)
