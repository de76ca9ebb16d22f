"""AnoClip inside anomalib's Engine, in this process."""

import copy
import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import Folder, MVTecAD, PredictDataset
from anomalib.engine import Engine
from anomalib.metrics import Evaluator
from PIL import Image
from sklearn.metrics import roc_auc_score

from anoclip_anomalib import AnoClip, TestTimeAdaptation
from anoclip_anomalib.clip.local_attention import self_self_attention
from anoclip_anomalib.evaluation import AUPRO, ImageAUROC, StreamingEvaluator
from tests.mvtec_files import write_mvtec


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_mvtec(tmp_path_factory.mktemp("mvtec"), ("bottle", "cable"))


@pytest.fixture
def engine(tmp_path):
    def make(name: str = "results", **arguments: object) -> Engine:
        quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        return Engine(default_root_dir=tmp_path / name, **{**quiet, **arguments})

    return make


def mvtec(root: Path, category: str = "bottle", **arguments: object) -> MVTecAD:
    defaults = {"num_workers": 0, "eval_batch_size": 4, "train_batch_size": 4}
    return MVTecAD(root=root, category=category, **{**defaults, **arguments})


def folder(root: Path, **arguments: object) -> Folder:
    defaults = {
        "name": "folder",
        "root": root / "bottle",
        "normal_dir": "train/good",
        "normal_test_dir": "test/good",
        "abnormal_dir": "test/spot",
        "num_workers": 0,
        "eval_batch_size": 4,
    }
    return Folder(**{**defaults, **arguments})


def raw_scores(model: AnoClip, paths: list[str]) -> torch.Tensor:
    """What AnoClipModel says, past anomalib's post-processor."""
    scores = []
    for path in paths:
        image = torch.from_numpy(np.asarray(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None] / 255
        scores.append(model.model(model.pre_processor(image)).pred_score)
    return torch.cat(scores).detach()


# Test


def test_a_data_set_is_measured_with_raw_scores_beside_anomalibs_figures(anoclip, engine, root):
    model = anoclip()
    (figures,) = engine().test(model, datamodule=mvtec(root), verbose=False)
    assert {"image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score"} <= figures.keys()
    assert {"raw_ImageAUROC", "raw_ImageF1Max", "raw_ImageAP", "raw_PixelAUROC", "raw_AUPRO"} <= figures.keys()
    paths = sorted(map(str, (root / "bottle/test").rglob("*.png")))
    expected = roc_auc_score(["/spot/" in path for path in paths], raw_scores(model, paths))
    assert figures["raw_ImageAUROC"] == pytest.approx(expected, abs=1e-4)


def test_raw_figures_are_not_clamped(anoclip, engine, root):
    """The trap: with a high threshold anomalib normalises most scores to exactly 0 before its own metrics see them."""
    model = anoclip()
    fit = engine()
    (figures,) = fit.test(model, datamodule=mvtec(root), verbose=False)
    model.post_processor.image_min = torch.tensor(0.0)
    model.post_processor._image_threshold = torch.tensor(1.5)
    model.post_processor.image_max = torch.tensor(1.0)
    (clamped,) = fit.trainer.test(model, datamodule=mvtec(root), verbose=False)
    assert clamped["image_AUROC"] == 0.5  # all images have the same score 0 by then
    assert clamped["raw_ImageAUROC"] == pytest.approx(figures["raw_ImageAUROC"])


def test_two_engines_and_two_categories_do_not_mix(anoclip, engine, root):
    alone = {
        name: engine(f"alone {name}").test(anoclip(), datamodule=mvtec(root, name), verbose=False)[0]
        for name in ("bottle", "cable")
    }
    model = anoclip()
    for name in ("bottle", "cable", "bottle"):
        (figures,) = engine(f"again {name}").test(model, datamodule=mvtec(root, name), verbose=False)
        assert model.model.class_name == name
        assert figures == pytest.approx(alone[name], nan_ok=True)


@pytest.fixture
def measured(monkeypatch) -> dict[str, int]:
    """How many images each image metric was given."""
    counts: dict[str, int] = {}
    update = ImageAUROC.update

    def counted(self, batch):
        counts[self.name] = counts.get(self.name, 0) + len(batch)
        update(self, batch)

    monkeypatch.setattr(ImageAUROC, "update", counted)
    return counts


def test_no_order_of_lightnings_sets_can_double_or_drop_a_component(anoclip):
    """Lightning replaces callbacks by comparing types, walking sets of them in any order."""
    types = [type(callback) for callback in anoclip(visualizer=True).configure_callbacks()]
    assert len(types) == 4
    assert not [(one, two) for one in types for two in types if one is not two and issubclass(one, two)]


def test_raw_scores_are_measured_once_however_often_an_engine_is_used(anoclip, engine, root, measured):
    model, shared = anoclip(), engine()
    figures = []
    for _ in range(3):
        measured.clear()
        shared.validate(model, datamodule=mvtec(root), verbose=False)
        figures += shared.test(model, datamodule=mvtec(root), verbose=False)
        assert measured == {"raw_ImageAUROC": 6}
        shared.predict(model, dataset=PredictDataset(root / "bottle/test"))
    assert figures[0] == figures[1] == figures[2]


@pytest.mark.parametrize("second", ["another", "deepcopy", "pickle"])
def test_a_second_model_in_an_engine_is_measured_alone(anoclip, engine, root, measured, second):
    first, shared = anoclip(), engine()
    expected = shared.test(first, datamodule=mvtec(root), verbose=False)
    copies = {"another": anoclip, "deepcopy": lambda: copy.deepcopy(first), "pickle": lambda: pickle.loads(pickle.dumps(first))}  # noqa: S301
    measured.clear()
    assert shared.test(copies[second](), datamodule=mvtec(root), verbose=False) == expected
    assert measured == {"raw_ImageAUROC": 6}
    assert shared.test(first, datamodule=mvtec(root), verbose=False) == expected


def test_anomalib_models_before_and_after_in_one_engine(anoclip, engine, root, measured):
    from tests.evaluation.scorer import Brightness

    model, shared = anoclip(), engine()
    alone = engine("alone").test(anoclip(), datamodule=mvtec(root), verbose=False)
    measured.clear()
    brightness = shared.test(Brightness(), datamodule=mvtec(root), verbose=False)
    assert shared.test(model, datamodule=mvtec(root), verbose=False) == alone
    assert shared.test(Brightness(), datamodule=mvtec(root), verbose=False) == brightness
    assert measured == {"raw_ImageAUROC": 6}


def test_nothing_of_a_model_stays_in_the_engine_beside_another(anoclip, engine, root, tmp_path):
    """Lightning would keep a visualizer whose type is a subclass of the next model's: pictures were drawn twice."""
    from lightning.pytorch import Callback

    from tests.evaluation.scorer import Brightness

    seen = []

    class Seen(Callback):
        def on_test_start(self, trainer, pl_module):
            seen.append([type(callback).__name__ for callback in trainer.callbacks])

    shared = engine(callbacks=[Seen()])
    models = [anoclip(visualizer=True, evaluator=StreamingEvaluator()), Brightness(visualizer=True)]
    for model in (*models, models[0]):
        shared.test(model, datamodule=mvtec(root), verbose=False)
    alone = engine("alone", callbacks=[Seen()])
    alone.test(models[1], datamodule=mvtec(root), verbose=False)
    ours, theirs, again, expected = seen
    assert sorted(theirs) == sorted(expected)
    assert sorted(ours) == sorted(again)
    assert ours.count("ContrastVisualizer") == ours.count("StreamingEvaluator") == 1


def test_a_failed_run_leaves_nothing_in_the_metrics(anoclip, engine, root, measured, monkeypatch):
    model, shared = anoclip(), engine()
    expected = shared.test(model, datamodule=mvtec(root), verbose=False)
    with monkeypatch.context() as patch:
        calls = iter(range(100))
        original = AUPRO.update_batch
        patch.setattr(AUPRO, "update_batch", lambda self, batch: 1 / 0 if next(calls) == 2 else original(self, batch))
        with pytest.raises(ZeroDivisionError):
            shared.test(model, datamodule=mvtec(root), verbose=False)
    assert shared.test(model, datamodule=mvtec(root), verbose=False) == expected


def test_metrics_of_validation_are_measured_too(anoclip, engine, root):
    model = anoclip(raw_evaluator=Evaluator(val_metrics=[ImageAUROC(prefix="mine_")]))
    (figures,) = engine().validate(model, datamodule=mvtec(root), verbose=False)
    assert 0 <= figures["mine_ImageAUROC"] <= 1


def test_two_runs_are_identical(anoclip, engine, root):
    one, two = (engine(str(n)).test(anoclip(views=22), datamodule=mvtec(root), verbose=False)[0] for n in (1, 2))
    assert one == two


def test_half_precision_of_the_trainer_is_undone_for_the_next_run(anoclip, engine, root):
    before = engine("before").test(anoclip(), datamodule=mvtec(root), verbose=False)[0]
    half = anoclip()
    engine("half", precision="bf16-true").test(half, datamodule=mvtec(root), verbose=False)
    assert half.model.text_embeddings.dtype == torch.float32
    assert engine("after").test(anoclip(), datamodule=mvtec(root), verbose=False)[0] == before


def test_tiles_and_views_through_the_engine(anoclip, engine, tmp_path):
    root = write_mvtec(tmp_path / "wide", size=(64, 100))
    (figures,) = engine().test(anoclip(tiling="square", views=22), datamodule=mvtec(root), verbose=False)
    assert 0 <= figures["raw_AUPRO"] <= 1


def test_weights_and_class_are_kept_with_the_results(anoclip, engine, root, tmp_path):
    model = anoclip()
    engine().test(model, datamodule=mvtec(root), verbose=False)
    (file,) = (tmp_path / "results").rglob("weights.json")
    content = json.loads(file.read_text())
    assert content["weights_digest"] == model.weights_digest
    assert content["class_name"] == "bottle"


# The class


def test_the_class_is_the_argument_else_the_category_else_object(anoclip, engine, root, caplog):
    named, by_category = anoclip(class_name="carpet"), anoclip()
    for model, expected in ((named, "carpet"), (by_category, "bottle")):
        engine().test(model, datamodule=mvtec(root), verbose=False)
        assert model.model.class_name == expected
    assert not any("prompts will say 'object'" in record.message for record in caplog.records)
    unnamed = anoclip()
    engine().test(unnamed, datamodule=folder(root), verbose=False)
    assert unnamed.model.class_name == "object"
    assert "prompts will say 'object'" in caplog.text


def test_a_folder_is_predicted_without_checkpoint_and_labels(anoclip, engine, root):
    batches = engine().predict(anoclip(class_name="bottle"), dataset=PredictDataset(root / "bottle/test"))
    assert len(batches) == 6
    assert all(0 <= batch.pred_score.item() <= 1 and batch.anomaly_map.shape[-2:] == (64, 64) for batch in batches)


# Checkpoints


@pytest.fixture
def checkpoint(anoclip, engine, root, tmp_path) -> Path:
    engine("source").test(anoclip(), datamodule=mvtec(root), verbose=False)
    (path,) = (tmp_path / "source").rglob("*.ckpt")
    return path


def test_a_checkpoint_is_small_and_restores_the_model(anoclip, root, checkpoint, caplog):
    assert checkpoint.stat().st_size < 1_000_000
    source, loaded = anoclip(class_name="bottle"), AnoClip.load_from_checkpoint(checkpoint)
    assert loaded.model.class_name == "bottle"
    assert "The checkpoint" not in caplog.text  # neither other weights nor another class
    paths = sorted(map(str, (root / "bottle/test").rglob("*.png")))
    assert torch.equal(raw_scores(loaded, paths), raw_scores(source, paths))
    kept = torch.load(checkpoint, weights_only=False)
    assert not any("visual" in name for name in kept["state_dict"])
    assert kept["anoclip"]["weights_digest"] == source.weights_digest


def test_a_checkpoint_is_tested_and_predicted_with_its_threshold(anoclip, engine, root, checkpoint):
    thresholds = {
        name: value for name, value in torch.load(checkpoint, weights_only=False)["state_dict"].items() if "thresh" in name
    }
    assert thresholds
    tested, predicted = anoclip(), anoclip()
    engine("test").test(tested, datamodule=mvtec(root), ckpt_path=checkpoint, verbose=False)
    batches = engine("predict").predict(predicted, dataset=PredictDataset(root / "bottle/test"), ckpt_path=checkpoint)
    assert len(batches) == 6
    assert predicted.model.class_name == "bottle"
    for model in (tested, predicted):
        assert all(torch.equal(model.state_dict()[name], value) for name, value in thresholds.items())


@pytest.mark.parametrize(("given", "category", "expected"), [("cable", "bottle", "cable"), (None, "cable", "cable")])
def test_the_class_that_is_asked_for_beats_the_checkpoints(
    anoclip, engine, root, checkpoint, caplog, given, category, expected
):
    model = anoclip(class_name=given)
    engine("other").test(model, datamodule=mvtec(root, category), ckpt_path=checkpoint, verbose=False)
    assert model.model.class_name == expected
    assert torch.equal(model.model.text_embeddings, anoclip(class_name=expected).model.text_embeddings)
    assert "The checkpoint is about 'bottle'" in caplog.text


def test_a_checkpoint_of_other_weights_is_noticed(anoclip, checkpoint, weight_file, tmp_path, caplog):
    from safetensors.torch import load_file, save_file

    state = load_file(weight_file())
    save_file({**state, "logit_scale": state["logit_scale"] + 1}, tmp_path / "other.safetensors")
    AnoClip.load_from_checkpoint(checkpoint, pretrained=str(tmp_path / "other.safetensors"))
    assert "other CLIP weights" in caplog.text


# Export


@pytest.fixture(scope="module")
def batch() -> torch.Tensor:
    return torch.rand(2, 3, 70, 90, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("from_checkpoint", [False, True])
def test_the_torch_export_scores_as_the_model(anoclip, engine, checkpoint, batch, monkeypatch, from_checkpoint):
    from anomalib.deploy import TorchInferencer

    model = anoclip(class_name=None if from_checkpoint else "bottle")
    path = engine("export").export(model, export_type="torch", ckpt_path=checkpoint if from_checkpoint else None)
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    inferencer = TorchInferencer(path, device="cpu")
    source = AnoClip.load_from_checkpoint(checkpoint) if from_checkpoint else model
    with torch.no_grad():
        expected, actual = source.eval()(batch), inferencer.model(batch)
    torch.testing.assert_close(actual.pred_score, expected.pred_score)
    torch.testing.assert_close(actual.anomaly_map, expected.anomaly_map)
    embeddings = inferencer.model.model.text_embeddings
    torch.testing.assert_close(embeddings, anoclip(class_name="bottle").model.text_embeddings)


@pytest.mark.parametrize("case", ["fitted post-processor", "views", "tiles"])
def test_the_onnx_export_scores_as_the_model(anoclip, engine, tmp_path, case):
    """Any batch size, any image size, all of pre- and post-processing; three blocks, since tracing takes its time."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    settings = {"views": {"views": 22}, "tiles": {"tiling": "square"}}.get(case, {})
    model = anoclip("tiny-patch8", class_name="bottle", **settings, post_processor=case.startswith("fitted"))
    if model.post_processor:
        engine("fit").test(model, datamodule=mvtec(write_mvtec(tmp_path / "data")), verbose=False)
        assert model.post_processor._image_threshold.isfinite()
    size = (32, 50) if case == "tiles" else None
    path = engine("export").export(model, export_type="onnx", input_size=size)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    shapes = [(1, *(size or (32, 32))), (3, *(size or (70, 90)))]
    for count, height, width in shapes:
        images = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(count))
        outputs = dict(zip(names, session.run(None, {session.get_inputs()[0].name: images.numpy()}), strict=True))
        with torch.no_grad():
            expected = model.eval()(images)
        for name in ("pred_score", "anomaly_map"):
            # The fitted range of scores is narrow, so that the normalisation magnifies differences.
            tolerance = 1e-3 if model.post_processor else 1e-5
            torch.testing.assert_close(torch.from_numpy(outputs[name]), getattr(expected, name), atol=tolerance, rtol=0)
    assert outputs["anomaly_map"].std() > 1e-4  # no graph that scores everything alike
    assert len(set(outputs["pred_score"].tolist())) > 1


def test_tiles_of_unknown_number_are_not_exported(anoclip, engine):
    with pytest.raises(ValueError, match="number of tiles depends on the image's shape.*--input_size"):
        engine("export").export(anoclip(class_name="bottle", tiling="square"), export_type="onnx")


@pytest.mark.parametrize("export_type", ["torch", "onnx", "openvino"])
def test_an_export_without_a_class_is_refused(anoclip, engine, export_type, tmp_path):
    with pytest.raises(ValueError, match=r"knows no class yet: give class_name"):
        engine("export").export(anoclip(), export_type=export_type)
    assert not list(tmp_path.rglob("model.*"))


def test_an_export_takes_the_adapter_out(anoclip):
    model = anoclip(class_name="bottle")
    TestTimeAdaptation().attach(model.model)
    model.prepare_export()
    assert model.model.adapter is None


# Data that lacks something


def test_a_folder_without_masks_is_measured_by_image(anoclip, engine, root, caplog):
    (figures,) = engine().test(anoclip(class_name="bottle"), datamodule=folder(root), verbose=False)
    assert 0 <= figures["raw_ImageAUROC"] <= 1
    assert np.isnan(figures["raw_PixelAUROC"])
    assert "raw_PixelAUROC is undefined: no masks" in caplog.text


@pytest.mark.parametrize("kind", ["folder", "mvtec"])
def test_a_category_without_defects_has_undefined_figures_that_say_why(anoclip, engine, tmp_path, caplog, kind):
    root = write_mvtec(tmp_path / "flawless", defects=0)
    datamodule = folder(root, abnormal_dir=None) if kind == "folder" else mvtec(root)
    (figures,) = engine().test(anoclip(class_name="bottle"), datamodule=datamodule, verbose=False)
    assert np.isnan(figures["raw_ImageAUROC"])
    assert "raw_ImageAUROC is undefined: no anomalous" in caplog.text


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (16, 10000), (10000, 16)])
@pytest.mark.parametrize("tiling", ["none", "square"])
def test_extreme_image_sizes(anoclip, size, tiling):
    if tiling == "square" and max(size) == 10000:
        model = anoclip(class_name="bottle", tiling=tiling, image_size=16, local_blocks=1)
    else:
        model = anoclip(class_name="bottle", tiling=tiling)
    with torch.no_grad():
        result = model(torch.rand(1, 3, *size))
    assert result.pred_score.isfinite().all()
    expected = (64, 64)
    if tiling == "square" and max(size) > 1:
        expected = {30: (64, 1920), 10000: size}[max(size)]
    assert result.anomaly_map.shape[-2:] == expected
    assert result.anomaly_map.isfinite().all()


def test_every_argument_reaches_the_model(anoclip, tmp_path):
    settings = {
        "class_name": "cable",
        "image_size": (96, 96),
        "tiling": "square",
        "local_blocks": 3,
        "text_mean": "after_norm",
        "smoothing": 5,
        "encode_batch_size": 7,
        "text_cache_dir": str(tmp_path / "text"),
    }
    wrapper = anoclip(
        **settings, views=22, local_attention="self-self", precision="bfloat16", prompts={"templates": ["the {}"]}
    )
    assert {name: getattr(wrapper.model, name, None) for name in settings} | {"local_blocks": 3} == settings
    encoder = wrapper.model.visual_encoder
    assert (encoder.local_blocks, encoder.local.attention) == (3, self_self_attention)
    assert encoder.visual.proj.dtype == torch.bfloat16
    assert len(wrapper.model.view_functions) == 21
    assert len(wrapper.model.prompt_bank) == 14
    assert len(list((tmp_path / "text").iterdir())) == 1


def test_a_custom_pre_processor_and_no_components(anoclip):
    model = anoclip(class_name="bottle", pre_processor=False, post_processor=False, evaluator=False, raw_evaluator=False)
    assert model.configure_callbacks() == []
    with torch.no_grad():
        result = model(torch.zeros(1, 3, 64, 64))
    torch.testing.assert_close(result.pred_score, model.model(torch.zeros(1, 3, 64, 64)).pred_score.detach())


def test_the_log_names_the_weights(weight_file, caplog, tmp_path):
    import shutil

    shutil.copy(weight_file(), tmp_path / "copy.safetensors")
    with caplog.at_level(logging.INFO):
        model = AnoClip(backbone="tiny", pretrained=str(tmp_path / "copy.safetensors"))
    assert model.weights_digest in caplog.text
