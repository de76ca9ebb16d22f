"""The real command line, with AnoClip and the bundled encoder."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

from anoclip_anomalib.cli.submit import main
from anoclip_anomalib.submission.mvtec_ad2.layout import MAPS, MASKS
from anoclip_anomalib.submission.mvtec_ad2.validate import validate
from tests.submission.ad2_files import write_dataset, write_submission

REPOSITORY = Path(__file__).parents[2]
COUNTS = {"sheet_metal": 142}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("ad2") / "data", COUNTS, size=(24, 72))


@pytest.fixture(scope="module")
def options(dataset, tmp_path_factory):
    """The issue's command: AnoClip with the committed configuration, but for the weights."""
    return [
        *["mvtec-ad2", "--model", "AnoClip", "--config", str(REPOSITORY / "configs" / "anoclip_ad2.yaml")],
        *["--data.root", str(dataset), "--data.num_workers", "0", "--data.eval_batch_size", "71"],
        *["--model.backbone", "demo", "--model.pretrained", "demo", "--model.image_size", "null"],
        *["--model.text_cache_dir", str(tmp_path_factory.mktemp("text"))],
        *["--objects", "sheet_metal"],
    ]


@pytest.fixture(scope="module")
def submitted(options, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    command = [*options, "--name", "my_method", "--out", str(out)]
    result = subprocess.run(
        [sys.executable, "-m", "anoclip_anomalib.cli.main", "submit", *command],
        capture_output=True,
        text=True,
        cwd=out,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    return out, result


def test_submits_anoclip(submitted, dataset):
    out, result = submitted
    assert re.search(r"^sheet_metal: 284 images, threshold 0\.[45]\d+ \(mean \+ 3 std", result.stdout, re.MULTILINE)
    assert "valid but not packed: the leaderboard asks for can, fabric" in result.stdout
    assert "my_method: valid; 568 files checked" in result.stdout
    assert "GPU available" not in result.stderr + result.stdout
    provenance = json.loads((out / "my_method.provenance.json").read_text())
    assert provenance["settings"]["configuration"]["model"]["class_path"].endswith(".AnoClip")
    assert provenance["objects"]["sheet_metal"]["smallest_kendall_tau"] >= 0.999
    low, high = provenance["objects"]["sheet_metal"]["score_range"]
    assert 0.119 < low < high < 0.881  # raw probabilities: softmax of two cosines without temperature
    scores = tifffile.imread(out / "my_method" / MAPS / "sheet_metal" / "test_private" / "003_regular.tiff")
    assert scores.shape == (24, 72)
    assert scores.dtype == np.float16


def test_validates(submitted, dataset, capsys):
    out, _ = submitted
    folder = str(out / "my_method")
    assert main(["mvtec-ad2", "--validate", folder, "--objects", "sheet_metal", "--data.root", str(dataset)]) == 0
    assert main(["mvtec-ad2", "--validate", folder]) == 1
    said = capsys.readouterr().out
    assert "anomaly_images/vial: object 'vial' is missing [missing-object]" in said
    assert "NOT valid, 14 error(s)" in said


def test_other_processes_objects_are_passed_over(submitted):
    out, _ = submitted
    more = out / "my_method" / MAPS / "can" / "test_private" / "000_regular.tiff"
    more.parent.mkdir(parents=True)
    more.touch()  # somebody is writing it
    assert validate(out / "my_method", counts=COUNTS).ok
    shutil.rmtree(out / "my_method" / MAPS / "can")


def test_evaluates_on_public_images(options, tmp_path, capsys):
    command = [*options, "--evaluate-public", "--name", "my_method", "--out", str(tmp_path), "--threshold", "quantile:0.9"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "SegF1" in said
    assert "0.9 quantile of normal images" in said
    written = json.loads((tmp_path / "my_method.public.json").read_text())
    assert 0 <= written["mean"]["au_pro"] <= 1
    assert not (tmp_path / "my_method.public.work").exists()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found in /proc")
@pytest.mark.parametrize("moment", ["as workers start", "as images are predicted"])
def test_ctrl_c_with_workers(tmp_path, moment):
    """Ctrl-C goes to all processes of the terminal: those that read images leave it to the one that was started."""
    data = write_dataset(tmp_path / "data", {"can": 1}, good=64)
    command = ["mvtec-ad2", "--evaluate-public", "--name", "x", "--out", str(tmp_path), "--objects", "can"]
    command += ["--model", "tests.submission.fake_model.Brightness", "--model.seconds", "0.3", "--data.root", str(data)]
    process = subprocess.Popen(
        [sys.executable, "-m", "anoclip_anomalib.cli.main", "submit", *command]
        + ["--data.num_workers", "8", "--data.eval_batch_size", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

    def is_time():
        if moment == "as workers start":
            return len(children.read_text().split()) >= 4
        return len(list((tmp_path / "x.public.work").rglob("*.npz"))) >= 3

    while process.poll() is None and not is_time():
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert errors.strip().splitlines()[-1].startswith("anoclip submit mvtec-ad2: interrupted")
    # PyTorch's destructor may remark that its workers had not all been started; nothing else may show a traceback.
    assert errors.count("Traceback") == errors.count("Exception ignored in")
    assert "Traceback" not in errors or moment == "as workers start"
    assert "DataLoader worker" not in errors


def test_measures_runtime(options, tmp_path, capsys):
    command = [*options, "--runtime", "--out", str(tmp_path), "--device", "cpu", "--count", "2", "--sizes", "48x48", "64x96"]
    assert main([*command, "--model.class_name", "can"]) == 0
    assert "2 images after 0 of warm-up" in capsys.readouterr().out
    with (tmp_path / "runtimes_and_memory_cpu.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["image_height"], row["image_width"]) for row in rows] == [("48", "48"), ("64", "96")]


def test_measures_test_time_adaptation(options, tmp_path, capsys):
    pytest.importorskip("anoclip_anomalib.anoclip.callbacks")
    command = [*options, "--runtime", "--out", str(tmp_path), "--device", "cpu", "--count", "1", "--sizes", "48x48"]
    command += ["--model.class_name", "can", "--trainer.callbacks", "TestTimeAdaptation"]
    assert main([*command, "--trainer.callbacks.steps", "300"]) == 0
    adapted = float(list(csv.reader((tmp_path / "runtimes_and_memory_cpu.csv").open()))[1][2])
    assert main([*command, "--trainer.callbacks.steps", "0"]) == 0
    plain = float(list(csv.reader((tmp_path / "runtimes_and_memory_cpu.csv").open()))[1][2])
    assert adapted > 2 * plain


def test_packs_when_all_objects_are_there(tmp_path, capsys):
    """The validator's exit code on a complete folder with the leaderboard's own counts, and names alone."""
    folder = write_submission(tmp_path / "all", {"can": 321})
    assert main(["mvtec-ad2", "--validate", str(folder), "--objects", "can", "--names-only"]) == 0
    (folder / MASKS / "can" / "test_private" / "320_regular.png").unlink()
    assert main(["mvtec-ad2", "--validate", str(folder), "--objects", "can"]) == 1
    assert "320_regular.png: this file is missing [missing-file]" in capsys.readouterr().out
    shutil.rmtree(folder / MASKS)
    assert main(["mvtec-ad2", "--validate", str(folder), "--objects", "can", "--allow-missing-thresholded"]) == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ([], "Give the submission a --name"),
        (["--name", "a/b"], "no name for a folder"),
        (["--name", "x", "--threshold", "lucky"], "--threshold lucky is none of mean_std:K"),
        (["--name", "x", "--threshold", "quantile:2"], "--threshold quantile:2"),
        (["--name", "x", "--data.root", "/nowhere"], "/nowhere is not a folder"),
        (["--validate", "/nowhere"], "--validate takes --data.root"),
        (["--name", "x", "--model", "NoSuchModel"], "NoSuchModel"),
        (["--name", "x", "--model.colour", "red"], "colour"),
        (["--name", "x", "--model.views", "many"], "many"),
        (["--name", "x", "--model.smoothing", "2"], "error: smoothing=2 must be an odd number"),
        (["--name", "x", "--config", "/nowhere.yaml"], "nowhere.yaml"),
        (["--name", "x", "--data", "MVTecAD"], "The data must be MVTecAD2"),
    ],
)
def test_bad_input_is_told_in_one_line(options, tmp_path, capsys, changed, message):
    assert main([*options, "--out", str(tmp_path), *changed]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "Given value" not in error
    assert error.startswith("anoclip submit mvtec-ad2: error: ")
    assert message in error
    assert not list(tmp_path.iterdir())


def test_help_is_quick_and_unknown_formats_are_told(capsys):
    script = (
        "import sys; from anoclip_anomalib.cli.submit import main; "
        "main(['--help']); main(['mvtec-ad2', '--validate', '/nowhere']); "
        "assert not {'torch', 'anomalib', 'lightning'} & set(sys.modules), 'heavy imports'"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "vand-fewshot" in result.stdout
    assert "There is no submission at /nowhere" in result.stderr
    assert main(["imagenet"]) == 2
    assert "known: mvtec-ad2, kaputt2" in capsys.readouterr().err
