"""PromptClip inside anomalib's Engine, in this process."""

import json

import pytest
import torch
from anomalib.deploy import ExportType
from anomalib.models import get_model

from anoclip_anomalib import PromptClip
from tests.anoclip.test_lightning_model import engine, mvtec, root  # noqa: F401
from tests.promptlearning.test_torch_model import SECOND


@pytest.fixture
def promptclip(prompts_file):
    def make(method="anomalyclip", name="a", **arguments) -> PromptClip:
        second = SECOND if method == "crane-plus" else {}
        changes = {"source": "MVTec AD"} if name == "mvtec" else {}
        path = prompts_file(method, name, **changes)
        return PromptClip(**{"adapters": path, "visualizer": False, **second, **arguments})

    return make


def scores(results) -> dict[str, float]:
    return {path: float(score) for batch in results for path, score in zip(batch.image_path, batch.pred_score, strict=True)}


def test_anomalib_knows_it(prompts_file):
    assert isinstance(get_model("PromptClip", adapters=prompts_file("crane")), PromptClip)
    with pytest.raises(ValueError, match="adapters='demo'"):
        PromptClip()
    assert PromptClip(adapters="demo", method="crane").model.backbone == "demo"


@pytest.mark.parametrize("method", ["crane", "adaclip"])
def test_test_and_checkpoint(promptclip, engine, root, tmp_path, method, caplog):  # noqa: F811
    model = promptclip(method)
    result = engine().test(model, datamodule=mvtec(root))[0]
    assert any(name.startswith("raw_") for name in result)
    assert model.model.class_name == ("bottle" if method == "adaclip" else None)
    assert "No class name was given" not in caplog.text
    weights = json.loads((next(tmp_path.rglob("weights.json"))).read_text())
    assert weights["method"] == method
    assert weights["weights_digest"] == model.weights_digest != weights["adapters_digest"]
    path = tmp_path / "model.ckpt"
    model.trainer.save_checkpoint(path)
    kept = torch.load(path, weights_only=False)["state_dict"]
    assert sum(tensor.numel() for tensor in kept.values()) < 1000
    assert "model.text_embeddings" in kept
    again = PromptClip.load_from_checkpoint(path)
    assert torch.equal(again.model.text_embeddings, model.model.text_embeddings)
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(again.model(image).pred_score, model.model.eval()(image).pred_score)


@pytest.mark.parametrize("method", ["anomalyclip", "crane", "adaclip"])
def test_text_is_of_the_weights_that_are_there_now(promptclip, prompts_file, method, tmp_path, caplog):
    """The file of adapters was replaced since the checkpoint was made: a score must not pair its text with new weights."""
    model = promptclip(method, "replaced", class_name="bottle")
    model.model.set_class("bottle")
    checkpoint = {"state_dict": dict(model.state_dict())}
    model.on_save_checkpoint(checkpoint)
    new = PromptClip(adapters=prompts_file(method, "replaced", seed=1), class_name="bottle")
    new.model.set_class("bottle")
    expected = new.model.text_embeddings.clone()
    assert new.weights_digest != model.weights_digest
    new.on_load_checkpoint(checkpoint)
    assert "made with other CLIP weights" in caplog.text
    new.load_state_dict(checkpoint["state_dict"], strict=False)
    assert torch.equal(new.model.text_embeddings, expected)
    if method != "adaclip":  # whose prompts are per image
        assert not torch.equal(expected, model.model.text_embeddings)


def test_a_score_does_not_depend_on_batches(promptclip, engine, root):  # noqa: F811
    runs = []
    for size in (1, 4):
        model = promptclip("crane-plus")
        model.post_processor = None
        runs.append(scores(engine(str(size)).predict(model, datamodule=mvtec(root, eval_batch_size=size))))
    assert runs[0] == pytest.approx(runs[1], abs=1e-5)
    assert len(runs[0]) == 6


def test_the_source_is_refused_as_target(promptclip, engine, root):  # noqa: F811
    with pytest.raises(ValueError, match=r"The data set MVTec AD.*not be zero-shot.*allow_source_overlap"):
        engine().test(promptclip(name="mvtec"), datamodule=mvtec(root))
    allowed = promptclip(name="mvtec", allow_source_overlap=True)
    engine("allowed").test(allowed, datamodule=mvtec(root))
    assert allowed.method_facts.auxiliary_data.endswith("; tested on its own source (the data set MVTec AD)")


def test_export_holds_the_static_text(promptclip, engine, tmp_path, monkeypatch):  # noqa: F811
    from anomalib.deploy import TorchInferencer

    model = promptclip("crane")
    path = engine().export(model, ExportType.TORCH, export_root=tmp_path)
    image = torch.rand(3, 64, 64)
    expected = model.model(model.pre_processor(image[None])).pred_score
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    own = TorchInferencer(path, device="cpu").predict(image)
    assert float(own.pred_score) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("adaclip", {"class_name": "bottle"}, "AdaCLIP cannot be exported: it encodes its text anew"),
        ("crane-plus", {"similarity_mean": "batch"}, r"Crane\+ cannot be exported: its scores depend on the other images"),
        ("april-gan", {}, "knows no class"),
    ],
)
def test_what_a_graph_cannot_do_is_refused(promptclip, tmp_path, method, arguments, message):
    with pytest.raises(ValueError, match=message):
        promptclip(method, **arguments).to_torch(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["anomalyclip", "crane", "april-gan"])
def test_onnx_graph_scores_alike(promptclip, tmp_path, method):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = promptclip(method, class_name="bottle", post_processor=False)
    path = model.to_onnx(tmp_path, input_size=(64, 64))
    image = torch.rand(1, 3, 64, 64)
    graph = onnxruntime.InferenceSession(str(path))
    found = graph.run(None, {graph.get_inputs()[0].name: image.numpy()})
    outputs = dict(zip([one.name for one in graph.get_outputs()], map(torch.from_numpy, found), strict=True))
    own = model(image)
    torch.testing.assert_close(outputs["anomaly_map"], own.anomaly_map, atol=1e-4, rtol=0)
    torch.testing.assert_close(outputs["pred_score"].flatten(), own.pred_score, atol=1e-4, rtol=0)


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
@pytest.mark.parametrize("method", ["anomalyclip", "adaclip"])
def test_half_precision_trainers(promptclip, engine, root, precision, method):  # noqa: F811
    model = promptclip(method)
    model.post_processor = None
    found = scores(engine(precision=precision).predict(model, datamodule=mvtec(root)))
    assert len(found) == 6
    assert all(0 <= score <= 1 for score in found.values())


def test_a_job_of_a_comparison(prompts_file, tmp_path):
    from anoclip_anomalib.comparison.run.run_job import run_job
    from tests.comparison.run.test_run_job import one_job

    models = f"\n  - class_path: PromptClip\n    init_args: {{method: crane, adapters: '{prompts_file('crane')}'}}\n"
    row, _ = run_job(one_job(tmp_path, models), threads=1)
    assert row["status"] == "done", row.get("error")
    assert row["provenance"]["method"]["auxiliary_data"] == "VisA test split, with masks"
    assert row["provenance"]["method"]["category_data"] == "nothing"
