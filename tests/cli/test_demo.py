"""The demonstration end to end, from the command line, and the bundled encoder's accuracy."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anoclip_anomalib.bundled.weights_file import NOTICE
from anoclip_anomalib.cli import demo
from anoclip_anomalib.cli.demo import METRICS, VARIANTS

# A few points below what the bundled encoder reaches on this small data set.
FLOORS = {"image AUROC": 0.85, "pixel AUROC": 0.70}
MARGIN = 0.25


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise AssertionError(f"the demonstration tried to reach {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def _figures(folder: Path) -> dict[tuple[str, str], dict[str, float]]:
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return {(row["category"], row["variant"]): {name: float(row[name]) for name in METRICS} for row in csv.DictReader(file)}


@pytest.mark.usefixtures("no_network")
def test_bundled_encoder_separates_unseen_defects_on_unseen_categories(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--out", str(tmp_path), "--test-good", "10", "--test-bad", "4", "--seed", "1"]
    assert demo.main(words) == 0
    mean = {variant: values for (category, variant), values in _figures(tmp_path).items() if category == "mean"}
    assert list(mean) == list(VARIANTS)
    for name, floor in FLOORS.items():
        assert mean["value"][name] > floor
    assert mean["value"]["pixel AUROC"] > mean["query-key"]["pixel AUROC"] + MARGIN
    assert mean["AnoCLIP+"]["pixel AUROC"] > mean["value"]["pixel AUROC"] + 0.04
    assert mean["AA-CLIP"]["pixel AUROC"] > mean["AnoCLIP+"]["pixel AUROC"] + 0.02
    for variant in list(VARIANTS)[:3]:  # the class token has no part in what distinguishes them
        assert mean[variant]["image AUROC"] == pytest.approx(mean["value"]["image AUROC"])
    page = (tmp_path / "gallery.html").read_text(encoding="utf-8")
    assert NOTICE in page
    assert page.count("<figure>") == 5 * 8 * 6  # categories; two images of four kinds; image, mask and four maps
    capsys.readouterr()
    before = (tmp_path / "metrics.csv").read_bytes()
    assert demo.main(words) == 0
    assert "20 results were there already" in capsys.readouterr().err
    assert (tmp_path / "metrics.csv").read_bytes() == before


def _anoclip_demo(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from anoclip_anomalib.cli.demo import main; sys.exit(main(sys.argv[1:]))"
    environment = {**os.environ, "HOME": str(cwd), "XDG_CACHE_HOME": str(cwd / "cache"), "COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=240,
        check=False,
    )


def test_command_prints_table_and_notice_and_stays_in_its_folder(tmp_path: Path) -> None:
    run = _anoclip_demo(tmp_path, "--out", "here", "--categories", "fuse", "--test-good", "3", "--test-bad", "1")
    assert run.returncode == 0, run.stderr
    assert NOTICE in run.stdout
    assert "pixel" in run.stdout
    assert "query-key" in run.stdout
    assert {path.name for path in (tmp_path / "here").iterdir()} >= {"data", "gallery.html", "metrics.csv"}
    stray = [path for path in tmp_path.rglob("*") if path.is_file() and tmp_path / "here" not in path.parents]
    assert stray == []
    figures = _figures(tmp_path / "here")
    assert list(figures) == [(category, variant) for category in ("fuse", "mean") for variant in VARIANTS]
    assert all(0 <= value <= 1 for values in figures.values() for value in values.values())


def test_a_folder_of_the_version_before_is_used_and_other_data_in_it_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from anoclip_anomalib.demo.dataset import write_demo_dataset

    write_demo_dataset(tmp_path / "data", ["fuse"], test_good=2, test_bad=1)
    (tmp_path / "runs").mkdir()
    for name in ("gallery.html", "metrics.csv"):
        (tmp_path / name).write_text("old")
    words = ["--out", str(tmp_path), "--categories", "fuse", "--image-size", "64"]
    assert demo.main([*words, "--test-good", "3", "--test-bad", "1"]) == 2
    error = capsys.readouterr().err
    assert "data/fuse is there and was generated with other settings" in error
    assert (tmp_path / "metrics.csv").read_text() == "old"
    assert demo.main([*words, "--test-good", "2", "--test-bad", "1"]) == 0
    assert len(_figures(tmp_path)) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--categories", "nut"], "Unknown demonstration categories: 'nut'"),
        (["--image-size", "100"], "patch size"),
        (["--test-bad", "0"], "test_bad=0 must be at least 1"),
    ],
)
def test_bad_arguments_are_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    run = _anoclip_demo(tmp_path, "--out", "here", *arguments)
    assert run.returncode == 2
    assert message in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_ended_by_a_signal_does_not_look_like_a_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    def ended(args: object) -> int:
        os.kill(os.getpid(), number)
        time.sleep(1)
        return 0

    signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(demo, "_run", ended)
    assert demo.main(["--out", str(tmp_path)]) == code
