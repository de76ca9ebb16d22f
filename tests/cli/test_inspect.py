"""`anoclip inspect`: the real command line."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anoclip_anomalib.cli.main import main

ROOT = Path(__file__).parents[2]
SMALL = ["--backbone", "demo", "--image-size", "64", "--device", "cpu", "--product", "button"]
COMMAND = [sys.executable, "-W", "ignore", "-m", "anoclip_anomalib.cli.main", "inspect"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


def draw(path: Path, seed: int, *, defect: bool = False) -> None:
    """A grey square with a little noise; a defect is a bright bar."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(100, 120, (72, 96, 3), dtype=np.uint8)
    if defect:
        pixels[20:50, 30:40] = (255, 240, 20)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Eight photographs, two of them with a defect, and six good ones; the current folder."""
    for number in range(8):
        draw(tmp_path / "photos" / f"line{number % 2}" / f"{number // 2}.png", number, defect=number in (2, 5))
    for number in range(6):
        draw(tmp_path / "good" / f"{number}.png", 100 + number)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    return tmp_path


def rows(folder="results/inspect/001"):
    with (Path(folder) / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_folder_is_ranked_without_a_verdict_that_cannot_be_had(place, capsys):
    assert main(["inspect", "photos", *SMALL]) == 0
    printed = capsys.readouterr()
    assert "8 photographs" in printed.out
    assert "--good FOLDER" in printed.out
    assert "results/inspect/001/index.html" in printed.out
    assert "\x1b" not in printed.out + printed.err
    found = rows()
    assert [row["rank"] for row in found] == [*map(str, range(1, 9))]
    assert {row["verdict"] for row in found} == {""}
    assert all((place / "results/inspect/001" / row["picture"]).is_file() for row in found)
    assert sorted(row["path"] for row in found) == [f"photos/line{line}/{number}.png" for line in (0, 1) for number in range(4)]


def test_a_run_that_is_complete_is_refused_before_anything_is_loaded(place, capsys, monkeypatch):
    assert main(["inspect", "photos/line0", *SMALL, "--no-pictures", "--quiet"]) == 0
    monkeypatch.setattr("anoclip_anomalib.inspection.settings.inspector_of", lambda settings: pytest.fail("it was loaded"))
    assert main(["inspect", "--resume", "results/inspect/001"]) == 2
    assert "results/inspect/001 is complete, there is nothing to resume" in capsys.readouterr().err


def test_good_ones_bring_verdicts_and_codes(place, capsys):
    words = ["inspect", "photos", "--good", "good", *SMALL, "--json"]
    assert main(words) == 0
    document = json.loads(capsys.readouterr().out)
    results = document["results"]
    assert [one["rank"] for one in results] == list(range(1, 9))
    assert {one["path"] for one in results if one["verdict"] == "defect"} >= {"photos/line0/1.png", "photos/line1/2.png"}
    assert results[0]["regions"][0].keys() == {"box", "area", "peak"}
    assert document["decision"]["image_threshold"] == results[0]["threshold"]
    assert len(document["decision"]["good"]) == 6
    assert document["counts"]["defect"] == sum(one["verdict"] == "defect" for one in results)
    assert document["complete"] is True
    assert Path(document["page"]).is_file()
    assert main([*words, "--fail-on-defect", "--quiet"]) == 4
    assert Path("results/inspect/002/results.csv").read_bytes() == Path("results/inspect/001/results.csv").read_bytes()


def test_good_ones_among_the_photographs_are_named(place, capsys):
    assert main(["inspect", ".", "--good", "good", *SMALL, "--no-pictures"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "Left out: 6 of the good ones, which are the reference" in said
    assert f"{place}/good" in said.replace(" ", "")
    assert len(rows()) == 8


def test_what_cannot_be_read_is_a_line_and_a_code(place, capsys):
    (place / "photos" / "broken.png").write_bytes(b"no image")
    assert main(["inspect", "photos", *SMALL, "-o", "out", "--log-file", "log.txt", "--no-pictures"]) == 3
    printed = capsys.readouterr()
    assert "NOT INSPECTED: 1" in printed.out
    assert [row["fault"] for row in rows("out/001") if row["fault"]] == [
        f"Cannot read image {place}/photos/broken.png: cannot identify image file '{place}/photos/broken.png'"
    ]
    assert not Path("out/001/pictures").exists()
    log = (place / "log.txt").read_text()
    assert "Not inspected: Cannot read image" in log
    assert re.match(r"\d{4}-\d\d-\d\d ", log)


def test_quiet_says_nothing(place, capsys):
    assert main(["inspect", "photos/line0", *SMALL, "--quiet"]) == 0
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fotos"], "did you mean .*photos"),
        (["photos", "--model", "Anoclip"], "did you mean AnoClip"),
        (["photos", "--backbone", "demoo"], "closest names: demo"),
        (["photos", "--good", "empty"], "no photographs"),
        (["photos", "--address", "auto"], "belong to --runner ray"),
        (["photos", "--resume", "good"], "no results folder"),
        (["--resume"], "no unfinished run"),
        (["photos", "-o", "photos/line0/0.png"], "cannot be written"),
        (["photos", "--log-file", "nowhere/log.txt"], "nowhere/log.txt"),
        (["photos", "--set", "tilling=square", *SMALL], "did you mean tiling"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(place, capsys, words, said):
    (place / "empty").mkdir()
    before = sorted(place.rglob("*"))
    assert main(["inspect", *words]) == 2
    printed = capsys.readouterr()
    assert re.search(said, printed.err.splitlines()[-1])
    assert printed.out == ""
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["photos", "--treshold", "1"], "unrecognized arguments: --treshold 1; did you mean --threshold?"),
        (["photos", "--batch-size", "0"], "0 is no number from 1 on"),
        (["photos", "--set", "tiling"], "KEY=VALUE"),
        (["photos", "--false-alarms", "5"], "no share"),
    ],
)
def test_options_that_do_not_exist(place, capsys, words, said):
    with pytest.raises(SystemExit) as stop:
        main(["inspect", *words])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_help_is_there_without_torch():
    code = (
        "import sys; from anoclip_anomalib.cli.main import main\n"
        "try: main(['inspect', '--help'])\nfinally: print(sorted({'torch', 'numpy', 'rich'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ENVIRONMENT)
    assert result.stdout.splitlines()[-1] == "[]"
    assert "--product" in result.stdout


def started(*words):
    """The command, once it has written some rows."""
    process = subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, start_new_session=True
    )
    deadline = time.monotonic() + 240
    results = Path("results/inspect/001/results.csv")
    while time.monotonic() < deadline and process.poll() is None:
        if results.is_file() and results.read_bytes().count(b"\n") > 30:
            break
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_was_stopped_goes_on(place, capsys, number):
    """After Ctrl-C, and after kill -9; the results are those of a run that nothing disturbed."""
    for index in range(200):
        draw(place / "many" / f"{index:03}.png", index)
    words = ["many", *SMALL, "--batch-size", "2", "--no-pictures"]
    process = started(*words)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=120)
    assert 10 < len(rows()) < 200
    assert "Traceback" not in errors
    if number == signal.SIGINT:
        assert process.returncode == 130, errors
        left = 200 - len(rows())
        assert f"{200 - left} of 200 photographs are done, {left} are left" in errors
        assert "anoclip inspect --resume results/inspect/001" in errors
        assert json.loads(Path("results/inspect/001/run.json").read_text())["complete"] is False
    assert main(["inspect", "--resume", "--product", "bottle"]) == 2
    assert "which was button" in capsys.readouterr().err
    assert main(["inspect", "--resume", "--quiet"]) == 0
    assert main(["inspect", *words, "--quiet"]) == 0
    resumed, whole = (Path(f"results/inspect/{number}/results.csv").read_bytes() for number in ("001", "002"))
    assert resumed == whole
    assert {path.name for path in Path("results/inspect").iterdir()} == {"001", "002"}


def test_a_pipe_whose_reader_has_gone_is_no_error(place):
    reading, writing = os.pipe()
    os.close(reading)
    command = [*COMMAND, "photos", *SMALL, "--json"]
    result = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, timeout=240)
    os.close(writing)
    assert result.returncode == 141, result.stderr
    assert "Traceback" not in result.stderr
    assert len(rows()) == 8


@pytest.mark.skipif(sys.platform == "win32", reason="names that only other systems take")
def test_odd_names(place, capsys):
    for name in (b"-rf.png", b"=cmd.png", b"new\nline.png", b"<script>\"'.png", b"\xff.png"):
        target = place / "odd" / os.fsdecode(name)
        draw(place / "plain.png", 3)
        target.parent.mkdir(exist_ok=True)
        (place / "plain.png").rename(target)
    assert main(["inspect", *SMALL, "--", "odd", "odd/-rf.png"]) == 0
    assert len(rows()) == 5
    assert all((place / "results/inspect/001" / row["picture"]).is_file() for row in rows())
    page = Path("results/inspect/001/index.html").read_text()
    assert "<script>\"'.png" not in page
    os.chdir("odd")
    assert main(["inspect", *SMALL, "--quiet", "--", "-rf.png"]) == 0
    assert [row["path"] for row in rows()] == ["./-rf.png"]
