import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from anoclip_anomalib.comparison.run.run_job import run_job
from anoclip_anomalib.comparison.suite.suite import jobs_of
from anoclip_anomalib.evaluation.curves import auroc, count_scores, threshold_curve
from tests.comparison.suites import small_suite


def one_job(folder, models, **options):
    return jobs_of(small_suite(folder, models=models, **options))[0]


def model(fault=None, extra=""):
    fault = f"\n    init_args: {{fault: {fault}}}" if fault else ""
    return f"\n  - class_path: tests.evaluation.scorer.Brightness{fault}{extra}\n"


def test_a_row_holds_what_a_reviewer_asks_for(tmp_path):
    job = one_job(tmp_path, model(extra="\n    provenance: {auxiliary_data: nothing at all}"))
    threads = torch.get_num_threads()
    row, pictures = run_job(job, threads=1)
    assert row["status"] == "done", row.get("error")
    assert torch.get_num_threads() == threads
    assert row["id"] == job.id
    assert all(isinstance(row["metrics"][name], float) for name in row["metrics"]), row["undefined"]
    assert row["metrics"]["image_AUROC"] == 1.0
    speed = row["speed"]
    assert speed["timed_images"] == 2
    assert speed["warmup_images"] == 1
    assert 0 < speed["median_s"] <= speed["p95_s"]
    assert speed["images_per_second"] > 0
    assert speed["batch_size"] == 4
    assert speed["threads"] == 1
    assert row["memory"]["cpu_peak_mib"] > 100
    assert row["parameters"] == {"total": 1, "trainable": 0}
    provenance = row["provenance"]
    assert provenance["method"]["auxiliary_data"] == "nothing at all"
    assert provenance["method"]["adapts_on_test_images"] == "not stated"
    assert provenance["preprocessing"]["image_size"] == [64, 64]
    assert provenance["preprocessing"]["resize"] == "bilinear, both sides, aspect not kept"
    assert len(provenance["weights_digest"]) == 64
    assert provenance["versions"]["anomalib"]
    assert provenance["config"]["data"]["spec"]["init_args"]["val_split_mode"] == "from_train"
    assert row["thresholds"]["pixel"]["rule"] == "mean + 3 std of normal images"
    assert row["counts"]["reference_images"] == 2
    scores = np.array([score for _, score, *_ in row["images"]])
    labels = np.array([label for _, _, label, _ in row["images"]])
    assert auroc(threshold_curve(count_scores(scores, labels))) == row["metrics"]["image_AUROC"]
    assert sum(row["histogram"]["normal"]) + sum(row["histogram"]["anomalous"]) == len(scores)
    assert len(row["samples"]) == 4
    assert all(path.startswith("plate/test/") for path, *_ in row["samples"])
    assert pictures.heatmaps.startswith(b"\x89PNG")
    assert pictures.images.startswith(b"\xff\xd8")
    masks = np.asarray(Image.open(io.BytesIO(pictures.masks)))
    assert masks.max() == 255
    assert 0 < (masks > 127).mean() < 0.5


@pytest.mark.parametrize(
    ("fault", "message"),
    [("nan", "not finite"), ("size", "sizes must be equal"), ("raise", "broken on purpose")],
)
def test_a_model_that_breaks_becomes_a_row_with_its_error(tmp_path, fault, message):
    row, pictures = run_job(one_job(tmp_path, model(fault)))
    assert row["status"] == "failed"
    assert message in row["error"]["message"]
    assert "Traceback" in row["error"]["traceback"]
    assert pictures is None


def test_same_seed_same_row_and_original_resolution_differs(tmp_path):
    job = one_job(tmp_path, model())
    rows = [run_job(job)[0] for _ in range(2)]
    assert rows[0]["metrics"] == rows[1]["metrics"]
    path = tmp_path / "suite.yaml"
    path.write_text(path.read_text().replace("protocol: {", "protocol: {resolution: original, "))
    from anoclip_anomalib.comparison.suite.load_suite import load_suite

    row = run_job(jobs_of(load_suite(path))[0])[0]
    assert row["resolution"] == "original"
    assert row["metrics"]["image_AUROC"] == rows[0]["metrics"]["image_AUROC"]
    assert row["metrics"]["pixel_AP"] != rows[0]["metrics"]["pixel_AP"]


def test_without_held_out_images_the_natural_threshold_is_used_and_said(tmp_path):
    small_suite(tmp_path, models=model())
    path = tmp_path / "suite.yaml"
    path.write_text(path.read_text().replace("from_train", "same_as_test"))
    from anoclip_anomalib.comparison.suite.load_suite import load_suite

    row = run_job(jobs_of(load_suite(path))[0])[0]
    assert row["thresholds"]["image"]["value"] == 0.5
    assert "natural" in row["thresholds"]["image"]["rule"]
    assert row["counts"]["reference_images"] == 0


def test_a_trained_model_and_its_trainer_options(tmp_path):
    models = (
        "\n  - class_path: Padim\n    init_args: {backbone: resnet18, layers: [layer1], pre_trained: false, n_features: 10}\n"
    )
    row, _ = run_job(one_job(tmp_path, models), threads=1)
    assert row["status"] == "done", row["error"]
    assert row["speed"]["fit_s"] > 0
    assert row["provenance"]["method"]["category_data"] == "normal training images"
    assert row["provenance"]["learning_type"] == "one_class"
    assert math.isfinite(row["metrics"]["SegF1"])


def test_class_name_of_the_data_reaches_models_that_take_one(tmp_path):
    from dataclasses import replace

    from anoclip_anomalib.comparison.run.run_job import build_model

    models = "\n  - class_path: AnoClip\n    init_args: {backbone: demo, pretrained: random}\n"
    job = one_job(tmp_path, models)
    built, note = build_model(replace(job, data=replace(job.data, class_name="cookie")))
    assert built.class_name == "cookie"
    assert note is None
    named = one_job(tmp_path, models.replace("random}", "random, class_name: biscuit}"))
    assert build_model(replace(named, data=replace(named.data, class_name="cookie")))[0].class_name == "biscuit"


def test_threads_are_those_of_before_however_a_job_ends(tmp_path):
    before = torch.get_num_threads()
    row, _ = run_job(one_job(tmp_path, model("raise")), threads=before + 1)
    assert row["status"] == "failed"
    assert torch.get_num_threads() == before
