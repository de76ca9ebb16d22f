"""Ray Data gives what a run without it gives. Skipped where Ray is not installed."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anoclip_anomalib.cli.main import main

pytest.importorskip("ray.data", reason="Ray is not installed: pip install 'anoclip_anomalib[ray]'")
parquet = pytest.importorskip("pyarrow.parquet")


def rows(folder):
    with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_the_results_are_those_without_ray(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # Ray leaves a token there
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for number in range(45):
        folder = tmp_path / "photos" / f"line{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(100, 140, (48, 64, 3), dtype=np.uint8)
        pixels[number : number + 9, 20:30] = number * 5
        Image.fromarray(pixels).save(folder / f"{number // 2}.png")
    (tmp_path / "photos" / "line0" / "no.png").write_bytes(b"nothing")
    odd = os.fsdecode(os.fsencode(tmp_path / "photos") + b"/\xff,\n.png")
    Image.new("RGB", (50, 50), "grey").save(odd)
    small = ["--backbone", "demo", "--image-size", "64", "--device", "cpu", "--product", "button", "--quiet"]
    assert main(["inspect", "photos", *small, "-o", "here"]) == 3
    assert main(["inspect", "photos", *small, "-o", "ray", "--runner", "ray", "--workers", "1"]) == 3
    here, ray = (rows(tmp_path / name / "001") for name in ("here", "ray"))
    assert len(here) == 47
    for ours, theirs in zip(here, ray, strict=True):
        assert ours == theirs
    pictures = [
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("pictures/**/*.jpg")}
        for name in ("here", "ray")
    ]
    assert len(pictures[0]) == 46
    assert pictures[0] == pictures[1]
    table = parquet.read_table(tmp_path / "ray" / "001" / "results.parquet").to_pylist()
    assert [row["path"] for row in table] == [row["path"] for row in ray]
    assert table[0]["score"] == float(ray[0]["score"])
    assert [row["rank"] for row in table[:46]] == list(range(1, 47))
    assert (table[-1]["score"], table[-1]["rank"]) == (None, None)
    assert table[-1]["fault"].startswith("Cannot read image")
    # What Ray has not done yet is done without it, and the other way round.
    lines = Path("here/001/results.csv").read_bytes().splitlines(keepends=True)
    Path("here/001/results.csv").write_bytes(b"".join(lines[:30]))
    run = Path("here/001/run.json")
    run.write_text(run.read_text().replace('"complete": true', '"complete": false'))
    assert main(["inspect", "--resume", "here/001", "--quiet", "--runner", "ray", "--workers", "1"]) == 3
    assert rows(tmp_path / "here" / "001") == ray
