"""Test-time adaptation inside anomalib: what it changes, what it leaves alone, and how it fails."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import MVTecAD, PredictDataset
from anomalib.engine import Engine
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from anoclip_anomalib import TestTimeAdaptation
from anoclip_anomalib.anoclip.adapter import AdaptationSettings
from anoclip_anomalib.zeroshot.tiling import plan_tiles
from tests.mvtec_files import write_mvtec


class Collected(Callback):
    """Keeps what the model said, before the post-processor changes it."""

    def __init__(self) -> None:
        self.scores: dict[str, float] = {}
        self.maps: dict[str, torch.Tensor] = {}

    def _keep(self, batch) -> None:
        for path, score, anomaly_map in zip(batch.image_path, batch.pred_score, batch.anomaly_map, strict=True):
            name = "/".join(Path(path).parts[-2:])
            self.scores[name] = float(score)
            self.maps[name] = anomaly_map.clone()

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, *args, **kwargs) -> None:
        self._keep(batch)

    def on_predict_batch_end(self, trainer, pl_module, outputs, batch, *args, **kwargs) -> None:
        self._keep(outputs)


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec(tmp_path_factory.mktemp("mvtec"), good=3, defects=4)


@pytest.fixture
def run_test(anoclip, data_root, tmp_path):
    def run(*callbacks: Callback, batch_size: int = 4, trainer: dict | None = None, **model_arguments):
        collected = Collected()
        engine = Engine(
            callbacks=[*callbacks, collected],
            default_root_dir=tmp_path / "results",
            accelerator="cpu",
            enable_progress_bar=False,
            **(trainer or {}),
        )
        data = MVTecAD(root=data_root, category="bottle", eval_batch_size=batch_size, num_workers=0)
        model = anoclip(**model_arguments)
        results = engine.test(model=model, datamodule=data)
        return model, collected, results[0]

    return run


def assert_same_maps(one: Collected, other: Collected, tolerance: float = 1e-5) -> None:
    assert one.maps.keys() == other.maps.keys()
    for name, anomaly_map in one.maps.items():
        torch.testing.assert_close(anomaly_map, other.maps[name], atol=tolerance, rtol=0)


@pytest.mark.parametrize("adapter", ["text", "linear"])
def test_maps_change_image_scores_do_not_and_nothing_is_left_behind(run_test, adapter) -> None:
    model, plain, _ = run_test()
    adapted_model, adapted, _ = run_test(TestTimeAdaptation(adapter=adapter))
    assert adapted.scores == pytest.approx(plain.scores, abs=1e-7)
    assert all(not torch.allclose(adapted.maps[name], plain.maps[name], atol=1e-6) for name in plain.maps)
    assert adapted_model.model.adapter is None
    assert all(parameter.grad is None for parameter in adapted_model.parameters())
    for (name, one), (_, other) in zip(model.state_dict().items(), adapted_model.state_dict().items(), strict=True):
        if name.startswith("model."):
            assert torch.equal(one, other), name


def test_any_batch_size_gives_the_same_maps_and_so_does_a_second_run(run_test) -> None:
    maps = [run_test(TestTimeAdaptation(), batch_size=size)[1] for size in (3, 1, 3)]
    assert_same_maps(maps[0], maps[1])
    assert_same_maps(maps[0], maps[2], tolerance=0)


def test_zero_steps_and_the_residual_alone_give_the_unadapted_maps(run_test) -> None:
    assert_same_maps(run_test(TestTimeAdaptation(steps=0, residual=1.0))[1], run_test()[1], tolerance=1e-6)


def test_thresholds_are_fitted_on_adapted_maps(run_test) -> None:
    plain, adapted = run_test()[0], run_test(TestTimeAdaptation(residual=0.1))[0]
    assert float(plain.post_processor.pixel_threshold) != pytest.approx(float(adapted.post_processor.pixel_threshold), abs=1e-6)
    assert float(plain.post_processor.image_threshold) == pytest.approx(float(adapted.post_processor.image_threshold), abs=1e-6)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_encoders_are_adapted_in_float32(run_test, precision) -> None:
    _, adapted, _ = run_test(TestTimeAdaptation(), precision=precision)
    _, full, _ = run_test(TestTimeAdaptation())
    assert_same_maps(adapted, full, tolerance=5e-3)
    assert all(anomaly_map.dtype == torch.float32 for anomaly_map in adapted.maps.values())


@pytest.mark.parametrize("adapter", ["text", "linear"])
@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true", "bf16-mixed", "64"])
def test_every_precision_of_the_trainer_is_adapted_in_float32(run_test, precision, adapter) -> None:
    _, adapted, _ = run_test(TestTimeAdaptation(adapter=adapter), trainer={"precision": precision})
    _, full, _ = run_test(TestTimeAdaptation(adapter=adapter))
    assert_same_maps(adapted, full, tolerance=1e-6 if "64" in precision else 5e-3)
    assert all(anomaly_map.dtype == torch.float32 for anomaly_map in adapted.maps.values())


@pytest.mark.parametrize(
    ("encoder", "trainer"),
    [("float16", "bf16-mixed"), ("bfloat16", "16-mixed"), ("float16", "64-true"), ("bfloat16", "16-true")],
)
def test_the_encoders_precision_goes_with_any_of_the_trainer(run_test, encoder, trainer) -> None:
    for callbacks in ([], [TestTimeAdaptation(adapter="linear")]):
        _, half, _ = run_test(*callbacks, precision=encoder, trainer={"precision": trainer})
        _, full, _ = run_test(*callbacks)
        assert_same_maps(half, full, tolerance=5e-3)


def test_folder_prediction_and_tiles(anoclip, data_root, tmp_path) -> None:
    maps = []
    for callbacks in ([], [TestTimeAdaptation(adapter="linear")]):
        collected = Collected()
        engine = Engine(
            callbacks=[*callbacks, collected], default_root_dir=tmp_path, accelerator="cpu", enable_progress_bar=False
        )
        model = anoclip(class_name="bottle", tiling="square", pre_processor=False)
        dataset = PredictDataset(
            data_root / "bottle/test/spot", transform=lambda image: image[:, :, :].repeat(1, 1, 2)[..., :96]
        )
        engine.predict(model=model, dataset=dataset)
        maps.append(collected.maps)
        assert len(plan_tiles(64, 96, "square")) == 2
    assert all(m.shape[-2:] == (64, 96) for m in maps[1].values())
    assert all(not torch.allclose(maps[0][name], maps[1][name], atol=1e-6) for name in maps[0])


def test_losses_go_to_the_logger(run_test, tmp_path, caplog) -> None:
    caplog.set_level("INFO")
    run_test(TestTimeAdaptation(steps=3), trainer={"logger": CSVLogger(tmp_path / "log", name="run", version="0")})
    with (tmp_path / "log/run/0/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    curve = {int(row["step"]): float(row["adaptation_loss"]) for row in rows if row.get("adaptation_loss")}
    assert sorted(curve) == [0, 1, 2, 3]
    assert curve[3] < curve[0]
    batches = [row for row in rows if row.get("adaptation_loss_before")]
    assert all(float(row["adaptation_loss_before"]) > float(row["adaptation_loss_after"]) for row in batches)
    assert f"Adapted 7 images, mean loss {curve[0]:.6f} before, {curve[3]:.6f} after" in caplog.text


def test_the_guard_counts_the_images_of_all_batches(run_test, caplog) -> None:
    caplog.set_level("INFO")
    run_test(TestTimeAdaptation(guard=True, guard_correlation=1.0), batch_size=3)
    assert "; the guard kept 7 unadapted" in caplog.text


def test_what_it_changes_of_the_facts() -> None:
    assert set(TestTimeAdaptation().changed_facts.items()) == {
        ("adapts_on_test_images", True),
        ("sees_other_test_images", False),
        ("order_dependent", False),
    }
    assert all(TestTimeAdaptation(reset_optimizer=False).changed_facts.values())


def test_an_image_that_breaks_is_named_and_the_run_goes_on(run_test, monkeypatch, caplog) -> None:
    from anoclip_anomalib.clip import VisualEncoder

    forward = VisualEncoder.forward

    def with_one_broken(self, images, *taps):
        encoded = forward(self, images, *taps)
        brightest = images.flatten(1).amax(dim=1).argmax()
        encoded.patch_tokens[brightest, 0, 0] = float("nan")
        return encoded

    monkeypatch.setattr(VisualEncoder, "forward", with_one_broken)
    model = None
    with caplog.at_level("WARNING"):
        # NaN in a map would stop the metrics, as it should: they are not what is tested here.
        model, collected, _ = run_test(TestTimeAdaptation(), evaluator=False, raw_evaluator=False, post_processor=False)
    named = [record.getMessage() for record in caplog.records if "keeps its unadapted map" in record.getMessage()]
    assert named
    assert any("000.png" in text or "001.png" in text or "002.png" in text or "003.png" in text for text in named)
    assert len(collected.maps) == 7
    assert sum(bool(m.isfinite().all()) for m in collected.maps.values()) == 7 - len(set(named))
    assert model.model.adapter is None


def test_a_failing_run_leaves_no_adapter(anoclip, data_root, tmp_path) -> None:
    class Fails(Callback):
        def on_test_batch_end(self, *args, **kwargs) -> None:
            msg = "stopped on purpose"
            raise RuntimeError(msg)

    model = anoclip()
    engine = Engine(
        callbacks=[TestTimeAdaptation(), Fails()], default_root_dir=tmp_path, accelerator="cpu", enable_progress_bar=False
    )
    with pytest.raises(RuntimeError, match="on purpose"):
        engine.test(model=model, datamodule=MVTecAD(root=data_root, category="bottle", num_workers=0))
    assert model.model.adapter is None


def test_two_instances_are_refused(run_test) -> None:
    with pytest.raises(MisconfigurationException, match="use one"):
        run_test(TestTimeAdaptation(), TestTimeAdaptation(steps=1))


def test_models_without_a_seam_are_refused(data_root, tmp_path) -> None:
    from tests.evaluation.scorer import Brightness

    engine = Engine(callbacks=[TestTimeAdaptation()], default_root_dir=tmp_path, accelerator="cpu")
    with pytest.raises(TypeError, match="needs an AnoClip model"):
        engine.test(model=Brightness(), datamodule=MVTecAD(root=data_root, category="bottle", num_workers=0))


def test_exported_models_and_models_without_a_class_are_refused(anoclip_model) -> None:
    model = anoclip_model()
    exported = torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2))
    with pytest.raises(TypeError, match="exported ones"):
        TestTimeAdaptation().attach(exported)
    with pytest.raises(RuntimeError, match="no class yet"):
        TestTimeAdaptation().attach(anoclip_model(class_name=None))
    TestTimeAdaptation().attach(model)
    with pytest.raises(RuntimeError, match="adapter already"):
        TestTimeAdaptation().attach(model)
    TestTimeAdaptation.detach(model)
    assert model.adapter is None


def test_export_says_that_it_does_not_adapt(anoclip, tmp_path, caplog) -> None:
    with caplog.at_level("WARNING"):
        anoclip(class_name="bottle").to_torch(tmp_path)
    assert "WITHOUT test-time adaptation" in caplog.text


def test_without_lightning(anoclip_model) -> None:
    model, images = anoclip_model(), torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 64, 64))).float()
    with torch.no_grad():
        before = model(images)
        adaptation = TestTimeAdaptation()
        adaptation.attach(model)
        during = model(images)
        adaptation.detach(model)
        after = model(images)
    assert torch.equal(before.anomaly_map, after.anomaly_map)
    assert not torch.allclose(before.anomaly_map, during.anomaly_map, atol=1e-6)


def test_settings_by_place_and_by_name() -> None:
    assert TestTimeAdaptation("linear", 3, guard=True).settings == AdaptationSettings(adapter="linear", steps=3, guard=True)
    with pytest.raises(TypeError, match="step"):
        TestTimeAdaptation(step=3)
