"""The demonstration end to end, from the command line, and the bundled encoder's accuracy."""

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from anoclip_anomalib.demo.run import METRICS, VARIANTS, run_demo

from anoclip_anomalib.bundled.weights_file import NOTICE

# A few points below what the bundled encoder reaches on this small data set.
FLOORS = {"image AUROC": 0.85, "pixel AUROC": 0.70}
MARGIN = 0.25


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise AssertionError(f"the demonstration tried to reach {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.usefixtures("no_network")
def test_bundled_encoder_separates_unseen_defects_on_unseen_categories(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    result = run_demo(tmp_path, test_good=10, test_bad=4, seed=1, progress=lambda done, total, what: seen.append((done, total)))
    mean = {row.variant: row.values for row in result.rows if row.category == "mean"}
    assert set(mean) == {variant.name for variant in VARIANTS}
    for name, floor in FLOORS.items():
        assert mean["value"][name] > floor
    assert mean["value"]["pixel AUROC"] > mean["query-key"]["pixel AUROC"] + MARGIN
    assert mean["AnoCLIP+"]["pixel AUROC"] > mean["value"]["pixel AUROC"] + 0.04
    for variant in VARIANTS:  # the class token has no part in what distinguishes them
        assert mean[variant.name]["image AUROC"] == pytest.approx(mean["value"]["image AUROC"])
    assert seen[-1][0] == seen[-1][1] == 5 * (1 + len(VARIANTS))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert NOTICE in result.gallery.read_text(encoding="utf-8")


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
    with (tmp_path / "here" / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["category"], row["variant"]) for row in rows] == [
        (category, variant.name) for category in ("fuse", "mean") for variant in VARIANTS
    ]
    for row in rows:
        assert all(0 <= float(row[name]) <= 1 for name in METRICS)


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


def test_a_run_that_is_ended_by_a_signal_does_not_look_like_a_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    from anoclip_anomalib.cli.demo import main
    from anoclip_anomalib.demo import run

    def ended(*args: object, **kwargs: object) -> None:
        raise SIGTERMException

    monkeypatch.setattr(run, "run_demo", ended)
    assert main(["--out", str(tmp_path)]) == 143
