import json
import shutil

import pytest
import yaml
from huggingface_hub import ModelCard

from anoclip_anomalib.cli.submit import main
from anoclip_anomalib.submission.model_card import make as cards
from anoclip_anomalib.submission.model_card.summary import provenance_note, summarise
from anoclip_anomalib.submission.provenance import read_json, write_json

DIGEST = "ab" * 32


def row(category, seed=0, model="AnoClip", data="MVTecAD", status="done", **metrics):
    job = {"model": model, "data": data, "category": category, "seed": seed}
    content = {"format": 1, "id": f"{model}-{data}-{category}-{seed}", "job": job, "status": status}
    if status != "done":
        return content | {"error": {"type": "RuntimeError", "message": "out of memory", "traceback": ""}}
    return content | {
        "metrics": {"image_AUROC": None, **metrics},
        "undefined": {},
        "thresholds": {"image": {"value": 0.5, "rule": "mean + 3 std of normal images"}, "pixel": {"value": 0.5, "rule": "x"}},
        "resolution": "model",
        "speed": {},
        "provenance": {
            "method": {"auxiliary_data": "none", "adapts_on_test_images": False},
            "preprocessing": {"image_size": [240, 240], "resize": "bilinear | both sides", "smoothing": "smoothing 3"},
            "weights_digest": DIGEST,
            "versions": {"torch": "2.4.0", "anomalib": "2.7.0"},
            "commit": "0123abc",
            "hardware": {"processor": "Test CPU"},
            "time": f"2026-01-0{seed + 1}T00:00:00+00:00",
            "note": "with --- a line\nand a break" if category == "bottle" else None,
        },
    }


def rows():
    return [
        row("bottle", 0, image_AUROC=0.9, AUPRO=0.6, pixel_AP=0.25),
        row("bottle", 1, image_AUROC=0.8, AUPRO=0.8, pixel_AP=0.25),
        row("cable", 0, image_AUROC=0.5, AUPRO=None, pixel_AP=0.75),
        row("cable", 1, image_AUROC=0.6, AUPRO=0.4, pixel_AP=0.75),
        row("bottle", 0, model="Padim", image_AUROC=0.1),
        row("can", 0, data="MVTecAD2", image_AUROC=0.7),
    ]


@pytest.fixture
def results(tmp_path):
    """A results folder as `anoclip compare` leaves it."""

    def write(content):
        folder = tmp_path / "comparison"
        for item in content:
            write_json(folder / "rows" / f"{item['id']}.json", item)
        write_json(folder / "suite.json", {"format": 1, "name": "test", "jobs": [item["id"] for item in content]})
        return folder

    return write


def test_means_over_seeds_and_categories():
    mvtec, ad2 = summarise(rows(), "AnoClip")
    assert (mvtec.data, ad2.data) == ("MVTecAD", "MVTecAD2")
    assert dict(mvtec.categories)["bottle"] == pytest.approx({"image_AUROC": 0.85, "AUPRO": 0.7, "pixel_AP": 0.25})
    for content in (rows(), rows()[::-1]):  # undefined for one seed, whichever it is: no mean of the other
        categories = {one.data: dict(one.categories) for one in summarise(content, "AnoClip")}
        assert "AUPRO" not in categories["MVTecAD"]["cable"]
    assert mvtec.mean == pytest.approx({"image_AUROC": 0.7, "pixel_AP": 0.5})  # only what every category has
    assert mvtec.seeds == (0, 1)
    assert mvtec.time == "2026-01-02T00:00:00+00:00"


def test_provenance_is_in_the_note():
    note = provenance_note(summarise(rows(), "AnoClip")[0])
    for part in ("mean of 2 categories, seeds 0, 1", "auxiliary data: none", DIGEST, "commit: 0123abc", "torch 2.4.0"):
        assert part in note
    assert "threshold rule: mean + 3 std of normal images" in note


def test_facts_that_differ_are_all_told():
    content = rows()
    content[2]["provenance"]["hardware"] = {"processor": "x", "gpu": "Test GPU"}
    assert summarise(content, "AnoClip")[0].facts["hardware"] == "Test CPU | Test GPU"


@pytest.mark.parametrize("per_category", [False, True])
@pytest.mark.parametrize("source", [None, "https://example.org/results"])
def test_hub_library_reads_what_was_meant(per_category, source):
    summary = summarise(rows(), "AnoClip")
    evals = cards.eval_results(summary, per_category=per_category, source_url=source)
    text = cards.model_card("AnoClip on Hub", summary, evals)
    read = ModelCard(text).data
    assert read.model_name == "AnoClip on Hub"
    assert read.library_name == "anomalib"
    found = {(r.dataset_name, r.metric_name): r for r in read.eval_results}
    assert found["MVTecAD", "image AUROC"].metric_value == 0.7
    assert found["MVTecAD", "image AUROC"].metric_type == "roc_auc"
    assert DIGEST in found["MVTecAD", "image AUROC"].dataset_args["provenance"]
    assert found["MVTecAD", "image AUROC"].source_url == source
    assert (("MVTecAD bottle", "AUPRO (FPR up to 0.3)") in found) == per_category
    index = yaml.safe_load(cards.model_index_yaml("AnoClip on Hub", evals))["model-index"]
    assert index[0]["name"] == "AnoClip on Hub"
    for result in index[0]["results"]:
        assert {"task", "dataset", "metrics"} <= set(result)
        assert all({"type", "value"} <= set(metric) for metric in result["metrics"])
    assert "| cable | 0.5500 | 0.7500 | undefined |" in text
    assert "| **mean** | 0.7000 | 0.5000 | undefined |" in text
    assert "with --- a line and a break" in text


def test_check_notices_another_figure():
    summary = summarise(rows(), "AnoClip")
    evals = cards.eval_results(summary)
    text = cards.model_card("AnoClip", summary, evals)
    with pytest.raises(ValueError, match="were meant"):
        cards.check_model_card(text.replace("value: 0.7", "value: 0.71", 1), "AnoClip", evals)
    with pytest.raises(ValueError, match="were meant"):
        cards.check_model_card(text, "Other", evals)


def test_evaluation_results_yaml():
    mvtec = summarise(rows(), "AnoClip")[0]
    entries = yaml.safe_load(cards.eval_results_yaml(mvtec, "org/mvtec-ad", source_url="https://example.org"))
    assert entries[0]["dataset"] == {"id": "org/mvtec-ad", "task_id": "image_auroc"}
    assert entries[0]["value"] == 0.7
    assert entries[0]["date"] == "2026-01-02T00:00:00+00:00"
    assert entries[0]["source"]["url"] == "https://example.org"
    assert DIGEST in entries[0]["notes"]
    if cards.can_check_eval_results():
        from huggingface_hub import parse_eval_result_entries

        assert parse_eval_result_entries(entries)[0].task_id == "image_auroc"
    with pytest.raises(ValueError, match="namespace/name"):
        cards.eval_results_yaml(mvtec, "mvtec-ad")


def test_command(results, tmp_path, capsys):
    folder, out = results(rows()), tmp_path / "card"
    command = ["model-card", str(folder), "--model", "AnoClip", "--name", "my-model", "--out", str(out)]
    assert main([*command, "--hub-dataset", "MVTecAD=org/mvtec-ad"]) == 0
    said = capsys.readouterr().out
    assert "no evaluation results for MVTecAD2" in said
    assert ModelCard.load(out / "README.md").data.model_name == "my-model"
    assert yaml.safe_load((out / "model-index.yaml").read_text())["model-index"][0]["name"] == "my-model"
    assert yaml.safe_load((out / ".eval_results" / "mvtecad.yaml").read_text())[0]["dataset"]["id"] == "org/mvtec-ad"
    assert read_json(tmp_path / "card.provenance.json")["data"]["MVTecAD"]["weights_sha256"] == DIGEST


def test_command_takes_the_folder_above_as_report_does(results, tmp_path, capsys):
    folder = results(rows())
    command = ["model-card", str(folder.parent), "--model", "AnoClip", "--out", str(tmp_path / "card")]
    assert main(command) == 0
    assert read_json(tmp_path / "card.provenance.json")["results"] == str(folder.resolve())
    shutil.copytree(folder, tmp_path / "second")
    capsys.readouterr()
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "several suites" in error
    assert error.strip().endswith(f"give one: {folder}, {tmp_path / 'second'}")


def test_command_with_bad_input(results, tmp_path, capsys):
    folder = results(rows())
    out = ["--out", str(tmp_path / "card")]

    def fails(*options, message):
        assert main(["model-card", *options, *out]) == 2
        assert message in capsys.readouterr().err

    fails(str(folder), message="Choose one with --model: AnoClip, Padim")
    fails(str(folder), "--model", "Nobody", message="no finished rows of 'Nobody'; there are rows of AnoClip, Padim")
    fails(str(folder), "--model", "AnoClip", "--hub-dataset", "Visa=org/x", message="--hub-dataset names Visa")
    fails(str(folder), "--model", "AnoClip", "--hub-dataset", "Visa", message="is no NAME=ID")
    fails(str(folder / "rows"), message="no results folder")
    (folder / "rows" / "AnoClip-MVTecAD-bottle-0.json").write_text("{")
    fails(str(folder), "--model", "AnoClip", message="Rows are damaged")
    assert not (tmp_path / "card").exists()


def test_failed_jobs_are_not_passed_over_in_silence(results, tmp_path, capsys):
    folder = results([*rows(), row("grid", status="failed")])
    command = ["model-card", str(folder), "--model", "AnoClip", "--out", str(tmp_path / "card")]
    assert main(command) == 2
    assert "1 jobs failed (grid, seed 0: out of memory" in capsys.readouterr().err
    assert main([*command, "--allow-failed"]) == 0
    text = (tmp_path / "card" / "README.md").read_text()
    assert "failed, not in the mean: grid, seed 0: out of memory" in text
    assert "1 jobs failed and are not in the mean" in json.dumps(yaml.safe_load(text.split("\n---\n")[0].removeprefix("---")))
