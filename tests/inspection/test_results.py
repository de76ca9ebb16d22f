"""results.csv: valid whenever the process ends, sorted and ranked at the end, harmless in spreadsheets."""

import csv
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest

from anoclip_anomalib.inspection.results import COLUMNS, REGIONS, Results, fault_row, read_rows, row_of


def inspection(score=0.5, fault=None, verdict="", threshold=None, regions=()):
    return SimpleNamespace(score=score, fault=fault, verdict=verdict, threshold=threshold, regions=regions)


def table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def written(path, scores):
    results = Results(path)
    for name, score in scores.items():
        results.add(fault_row(name, "gone") if score is None else row_of(name, inspection(score)))
    return results


def test_a_row_is_there_as_soon_as_it_is_added(tmp_path):
    path = tmp_path / "results.csv"
    results = written(path, {"a.png": 0.1})
    assert [row["path"] for row in table(path)] == ["a.png"]
    results.add(row_of("b.png", inspection(0.2)))
    assert [row["path"] for row in table(path)] == ["a.png", "b.png"]
    assert tuple(table(path)[0]) == COLUMNS
    assert path.read_bytes().count(b"\r\n") == 3


def test_the_end_sorts_and_ranks_and_counts(tmp_path):
    path = tmp_path / "results.csv"
    scores = {"e.png": 0.2, "b.png": 0.9, "x.png": None, "d.png": 0.2, "c.png": 0.30000000000000004, "w.png": None}
    results = written(path, scores)
    counts = results.finish()
    rows = table(path)
    assert [row["path"] for row in rows] == ["b.png", "c.png", "d.png", "e.png", "w.png", "x.png"]
    assert [row["rank"] for row in rows] == ["1", "2", "3", "3", "", ""]
    assert rows[1]["score"] == "0.30000000000000004"
    values = np.array([0.9, 0.30000000000000004, 0.2, 0.2])
    away = values - np.median(values)
    expected = away / (1.482602218505602 * np.median(np.abs(away)))
    assert [float(row["z"]) for row in rows[:4]] == pytest.approx(expected, abs=6e-4)
    assert [row["z"] for row in rows[4:]] == ["", ""]
    assert counts == {"inspected": 4, "unreadable": 2, "good": 0, "defect": 0}


def test_the_sorted_file_does_not_depend_on_the_order(tmp_path):
    scores = {f"{number}.png": [0.1, 0.5, 0.5, 0.9, None, 0.5][number % 6] for number in range(40)}
    for name, order in (("a", list(scores)), ("b", list(reversed(scores)))):
        written(tmp_path / name, {key: scores[key] for key in order}).finish()
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_ranks_can_be_given_again(tmp_path):
    path = tmp_path / "results.csv"
    written(path, {"a.png": 0.1, "b.png": 0.9}).finish()
    once = path.read_bytes()
    results = Results(path)
    assert results.finish() == {"inspected": 2, "unreadable": 0, "good": 0, "defect": 0}
    assert path.read_bytes() == once
    results = Results(path)
    results.add(row_of("c.png", inspection(0.5)))
    results.finish()
    assert [(row["path"], row["rank"]) for row in table(path)] == [("b.png", "1"), ("c.png", "2"), ("a.png", "3")]


def test_verdicts_thresholds_and_regions(tmp_path):
    path = tmp_path / "results.csv"
    results = Results(path)
    region = SimpleNamespace(as_dict=lambda: {"box": [1, 2, 3, 4], "area": 4, "peak": 0.5})
    results.add(row_of("a.png", inspection(0.9, verdict="defect", threshold=0.1 + 0.2, regions=(region,)), "pictures/a.jpg"))
    results.add(row_of("b.png", inspection(0.2, verdict="good", threshold=0.1 + 0.2, regions=(region,) * 500)))
    assert results.finish() == {"inspected": 2, "unreadable": 0, "good": 1, "defect": 1}
    first, second = table(path)
    assert (first["verdict"], first["threshold"], first["picture"]) == ("defect", repr(0.1 + 0.2), "pictures/a.jpg")
    assert json.loads(first["regions"]) == [{"box": [1, 2, 3, 4], "area": 4, "peak": 0.5}]
    assert len(json.loads(second["regions"])) == REGIONS


def test_half_a_line_is_cut_off_and_the_rest_goes_on(tmp_path):
    path = tmp_path / "results.csv"
    written(path, {"a.png": 0.1, "b.png": 0.9})
    whole = path.read_bytes()
    for kept in (len(whole) - 1, len(whole) - 5, 3, 0):
        path.write_bytes(whole[:kept])
        assert [row["path"] for row in read_rows(path)] == (["a.png"] if kept > 3 else [])
        results = Results(path)
        results.add(row_of("c.png", inspection(0.3)))
        assert [row["path"] for row in table(path)] == (["a.png"] if kept > 3 else []) + ["c.png"]


def test_a_long_half_line_too(tmp_path):
    path = tmp_path / "results.csv"
    written(path, {"a.png": 0.1})
    with path.open("ab") as file:
        file.write(b"x" * 200_000)
    Results(path)
    assert [row["path"] for row in table(path)] == ["a.png"]


def test_another_file_is_left_alone(tmp_path):
    path = tmp_path / "results.csv"
    for content in (b"name,value\n1,2\n", b"something"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="no results.csv of an inspection"):
            Results(path)
        assert path.read_bytes() == content


def test_what_was_done_is_taken_up_without_faults(tmp_path):
    path = tmp_path / "results.csv"
    written(path, {"a.png": 0.1, "b.png": None, "c.png": 0.2}).finish()
    results = Results(path)
    assert results.take_up() == {"a.png": 1, "c.png": 1}
    results.add(row_of("b.png", inspection(0.5)))
    results.finish()
    assert [row["path"] for row in table(path)] == ["b.png", "c.png", "a.png"]


def test_cells_are_harmless_and_lines_are_rows(tmp_path):
    path = tmp_path / "results.csv"
    names = ["=cmd|' /C calc'!A0.png", "new\nline.png", 'q"uote,comma.png', os.fsdecode(b"\xff.png"), "-1+1.png", "<b>.png"]
    written(path, {name: number / 10 for number, name in enumerate(names)} | {"+gone\n.png": None}).finish()
    rows = table(path)
    assert len(rows) == 7 == path.read_bytes().count(b"\n") - 1
    assert not any(row["path"].startswith(("=", "+", "-", "@")) for row in rows)
    assert {row["path"] for row in rows} == {
        "./=cmd|' /C calc'!A0.png", "new\\nline.png", 'q"uote,comma.png', "\\xff.png", "./-1+1.png", "<b>.png",
        "./+gone\\n.png",
    }  # fmt: skip


@pytest.mark.parametrize("resumed", [False, True])
def test_a_full_disk_leaves_no_half_row(tmp_path, resumed):
    path = tmp_path / "results.csv"
    results = written(path, {"a.png": 0.1, "gone.png": None})
    if resumed:
        results.close()
        results = Results(path)
        results.take_up()  # the file is shorter now
    before = path.read_bytes()

    class Full:
        """The file, on a disk with room for ten more bytes."""

        def __init__(self, file):
            self.file, self.left = file, 10

        def write(self, data):
            if self.left == 0:
                raise OSError(28, "No space left on device")
            taken, self.left = data[: self.left], 0
            return self.file.write(taken)

        def truncate(self, size):
            return self.file.truncate(size)

        def close(self):
            self.file.close()

    results._file = Full(results._file)
    with pytest.raises(OSError, match="No space left"):
        results.add(row_of("b.png", inspection(0.2)))
    assert path.read_bytes() == before
