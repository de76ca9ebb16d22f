"""AaClip inside anomalib's Engine, in this process."""

import json
import logging

import pytest
import torch
from anomalib.data import PredictDataset
from anomalib.deploy import ExportType
from anomalib.models import get_model

from anoclip_anomalib import AaClip
from tests.anoclip.test_lightning_model import engine, folder, mvtec, root  # noqa: F401


@pytest.fixture
def aaclip(adapters_file):
    def make(name="clean", **arguments) -> AaClip:
        path = adapters_file(name, reference=name == "reference")
        return AaClip(**{"adapters": path, "visualizer": False, **arguments})

    return make


def scores(results) -> dict[str, float]:
    return {path: float(score) for batch in results for path, score in zip(batch.image_path, batch.pred_score, strict=True)}


def raw(model, engine, data, **arguments):  # noqa: F811
    model.post_processor = None
    return scores(engine(**arguments).predict(model, datamodule=data))


def test_anomalib_knows_it(adapters_file):
    assert isinstance(get_model("AaClip", adapters=adapters_file("clean")), AaClip)
    with pytest.raises(ValueError, match="adapters=demo"):
        AaClip()


def test_test_predict_and_checkpoint(aaclip, engine, root, tmp_path):  # noqa: F811
    model = aaclip()
    result = engine().test(model, datamodule=mvtec(root))[0]
    assert any(name.startswith("raw_") for name in result)
    assert model.model.class_name == "bottle"
    weights = json.loads((next(tmp_path.rglob("weights.json"))).read_text())
    assert weights["adapters"].endswith("clean.safetensors")
    assert weights["mode"] == "clean"
    assert weights["weights_digest"] == model.weights_digest != weights["adapters_digest"]
    size = sum(tensor.numel() for tensor in model.state_dict().values())
    path = tmp_path / "model.ckpt"
    model.trainer.save_checkpoint(path)
    content = torch.load(path, weights_only=False)
    kept = sum(tensor.numel() for tensor in content["state_dict"].values())
    assert kept < 1000 < size
    assert content["anoclip"]["adapters_digest"] == weights["adapters_digest"]
    again = AaClip.load_from_checkpoint(path)
    assert torch.equal(again.model.text_embeddings, model.model.text_embeddings)
    assert again.hparams["adapters"] == model.hparams["adapters"]


def test_a_score_does_not_depend_on_batches_in_clean_mode(aaclip, engine, root):  # noqa: F811
    runs = [raw(aaclip(), engine, mvtec(root, eval_batch_size=size), name=str(size)) for size in (1, 4)]
    assert runs[0].keys() == runs[1].keys()
    assert len(runs[0]) == 6
    assert [runs[0][path] for path in runs[0]] == pytest.approx([runs[1][path] for path in runs[0]], abs=1e-6)


def test_the_reference_range_is_that_of_all_test_images(aaclip, engine, root):  # noqa: F811
    model = aaclip("reference")
    found = raw(model, engine, mvtec(root, eval_batch_size=4), name="four")
    assert found == pytest.approx(raw(aaclip("reference"), engine, mvtec(root, eval_batch_size=1), name="one"), abs=1e-5)
    bounds = model.model.score_range
    maps, detection = [], []
    for batch in engine("again").predict(aaclip("reference", post_processor=False), datamodule=mvtec(root, eval_batch_size=6)):
        own_maps, own_scores = model.model.raw_scores(model.model.encode(batch.image))
        maps.append(own_maps)
        detection.append(own_scores)
    assert float(bounds.map_low) == pytest.approx(float(torch.cat(maps).min()), abs=1e-3)
    assert float(bounds.map_high) == pytest.approx(float(torch.cat(maps).max()), abs=1e-3)
    assert float(bounds.score_low) == pytest.approx(float(torch.cat(detection).min()), abs=1e-4)
    assert float(bounds.score_high) == pytest.approx(float(torch.cat(detection).max()), abs=1e-4)
    assert model.method_facts.sees_other_test_images


def test_each_stage_has_its_range(aaclip, engine, root):  # noqa: F811
    model = aaclip("reference")
    own = engine()
    own.test(model, datamodule=mvtec(root))
    first = model.model.score_range
    own.test(model, datamodule=mvtec(root, "cable"))
    assert model.model.score_range != first
    assert model.model.class_name == "cable"


def test_the_source_is_refused_as_target(adapters_file, engine, root, caplog):  # noqa: F811
    path = adapters_file("mvtec", source="MVTec AD")
    with pytest.raises(ValueError, match=r"The data set MVTec AD.*not be zero-shot.*allow_source_overlap"):
        engine().test(AaClip(adapters=path, visualizer=False), datamodule=mvtec(root))
    allowed = AaClip(adapters=path, visualizer=False, allow_source_overlap=True)
    with caplog.at_level(logging.WARNING):
        engine("allowed").test(allowed, datamodule=mvtec(root))
    assert "not zero-shot" in caplog.text
    assert allowed.method_facts.auxiliary_data.endswith("; tested on its own source (the data set MVTec AD)")


def test_images_of_the_source_are_known_in_a_folder(adapters_file, engine, root):  # noqa: F811
    from anoclip_anomalib.data.samples import image_digest

    digests = [image_digest(image) for image in (root / "bottle/test/spot").glob("*.png")]
    path = adapters_file("digests", source="elsewhere", image_digests=digests)
    with pytest.raises(ValueError, match=r"[123] of the \d images"):
        engine().test(AaClip(adapters=path, visualizer=False, class_name="bottle"), datamodule=folder(root))


def test_export(aaclip, engine, root, tmp_path):  # noqa: F811
    from anomalib.deploy import TorchInferencer

    model = aaclip(class_name="bottle")
    path = engine().export(model, ExportType.TORCH, export_root=tmp_path)
    image = torch.rand(3, 64, 64)
    expected = model.model(model.pre_processor(image[None])).pred_score
    import os

    os.environ["TRUST_REMOTE_CODE"] = "1"
    try:
        own = TorchInferencer(path, device="cpu").predict(image)
    finally:
        del os.environ["TRUST_REMOTE_CODE"]
    assert float(own.pred_score) == pytest.approx(float(expected), abs=1e-5)
    with pytest.raises(ValueError, match="mode 'reference'.*--model.mode clean"):
        engine("reference").export(aaclip("reference", class_name="bottle"), ExportType.TORCH, export_root=tmp_path)
    with pytest.raises(ValueError, match="knows no class"):
        aaclip().to_torch(tmp_path)


@pytest.mark.slow
def test_onnx_graph_scores_alike(aaclip, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = aaclip(class_name="bottle", post_processor=False)
    path = model.to_onnx(tmp_path, input_size=(64, 64))
    image = torch.rand(1, 3, 64, 64)
    graph = onnxruntime.InferenceSession(str(path))
    outputs = dict(
        zip(
            [one.name for one in graph.get_outputs()], graph.run(None, {graph.get_inputs()[0].name: image.numpy()}), strict=True
        )
    )
    own = model(image)
    torch.testing.assert_close(torch.from_numpy(outputs["anomaly_map"]), own.anomaly_map, atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.from_numpy(outputs["pred_score"]).flatten(), own.pred_score, atol=1e-4, rtol=0)


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_half_precision_trainers(aaclip, engine, root, precision):  # noqa: F811
    exact = raw(aaclip("reference"), engine, mvtec(root), name="exact")
    half = raw(aaclip("reference"), engine, mvtec(root), name="half", precision=precision)
    assert max(abs(exact[path] - half[path]) for path in exact) < 0.15
    assert all(0 <= score <= 1 for score in half.values())


def test_folder_prediction_without_datamodule(aaclip, engine, root):  # noqa: F811
    results = engine().predict(aaclip(class_name="bottle"), dataset=PredictDataset(path=root / "bottle/test/good"))
    assert len(scores(results)) == 3


def test_a_job_of_a_comparison(adapters_file, tmp_path):
    from anoclip_anomalib.comparison.run.run_job import run_job
    from tests.comparison.run.test_run_job import one_job

    models = f"\n  - class_path: AaClip\n    init_args: {{adapters: '{adapters_file('clean')}'}}\n"
    row, _ = run_job(one_job(tmp_path, models), threads=1)
    assert row["status"] == "done", row.get("error")
    facts = row["provenance"]["method"]
    assert facts["auxiliary_data"] == "VisA test split, with masks"
    assert facts["sees_other_test_images"] is False
    assert row["provenance"]["learning_type"] == "zero_shot"


@pytest.mark.slow
def test_a_submission_from_the_command_line(tmp_path, capsys):
    from anoclip_anomalib.cli.submit import main
    from tests.submission.ad2_files import write_dataset

    data = write_dataset(tmp_path / "data", {"sheet_metal": 142}, size=(24, 72))
    command = [
        "mvtec-ad2",
        "--model",
        "AaClip",
        "--model.adapters",
        "demo",
        "--model.image_size",
        "64",
        "--objects",
        "sheet_metal",
    ]
    command += ["--data.root", str(data), "--data.num_workers", "0", "--data.eval_batch_size", "71"]
    command += ["--model.text_cache_dir", str(tmp_path / "text"), "--name", "aa", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert "aa: valid; 568 files checked" in capsys.readouterr().out
    provenance = json.loads((tmp_path / "out/aa.provenance.json").read_text())
    assert provenance["settings"]["configuration"]["model"]["class_path"].endswith(".AaClip")
    assert provenance["settings"]["configuration"]["model"]["init_args"]["adapters"] == "demo"
    assert provenance["objects"]["sheet_metal"]["method"]["auxiliary_data"].endswith("with masks")
    assert main([*command, "--evaluate-public"]) == 0
    assert 0 <= json.loads((tmp_path / "out/aa.public.json").read_text())["mean"]["au_pro"] <= 1
