import csv
import json
import os

import pytest

from anoclip_anomalib.comparison.run import folder as folder_module
from anoclip_anomalib.comparison.run.folder import ResultsError, ResultsFolder, picture_stem
from anoclip_anomalib.comparison.run.row import Pictures, failed_row
from anoclip_anomalib.comparison.run.run_job import run_job
from anoclip_anomalib.comparison.suite.suite import jobs_of
from tests.comparison.suites import small_suite


@pytest.fixture
def opened(tmp_path):
    suite = small_suite(tmp_path)
    results = ResultsFolder(tmp_path / "results")
    results.open_for(suite)
    return results, jobs_of(suite)


def test_a_row_and_its_files(opened, tmp_path):
    results, jobs = opened
    row, pictures = run_job(jobs[0])
    results.write(jobs[0], row, pictures)
    read = results.read_row(jobs[0].id)
    assert read["metrics"] == row["metrics"]
    assert "predictions" not in read
    stem = picture_stem("plates", "plate")
    assert {path.name for path in (results.path / "pictures").iterdir()} == {
        f"{jobs[0].id}.png", f"{jobs[0].id}-masks.png", f"{stem}-images.jpg"
    }  # fmt: skip
    with (results.path / "predictions" / f"{jobs[0].id}.csv").open(newline="") as file:
        predictions = list(csv.DictReader(file))
    assert len(predictions) == 8
    assert all(int(p["label"]) == (float(p["score"]) > float(p["threshold"])) for p in predictions)
    rows, faults = results.rows()
    assert [one["id"] for one in rows] == [jobs[0].id]
    assert not faults


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "damaged"),
        ("[]", "no mapping"),
        ('{"format": 9}', "format 9"),
        ('{"format": 1, "id": "x"}', "of job 'x'"),
        ('{"format": 1, "id": "ID", "status": "done", "job": {}}', "metrics, speed, provenance missing"),
        ('{"format": 1, "id": "ID", "status": "failed", "job": {}, "error": []}', "error: Input should be a valid dictionary"),
        ("\x00\x00", "damaged"),
        ("[" * 100_000, "damaged: maximum recursion depth"),
    ],
)
def test_damaged_rows_are_named(opened, content, words):
    results, jobs = opened
    path = results.row_path(jobs[0].id)
    path.parent.mkdir(exist_ok=True)
    path.write_text(content.replace("ID", jobs[0].id))
    with pytest.raises(ResultsError, match=f"{path}.*{words}"):
        results.read_row(jobs[0].id)
    assert path.name in results.rows()[1][0]


def test_folder_of_another_suite_is_refused(opened, tmp_path):
    results, _ = opened
    suite = small_suite(tmp_path)
    results.open_for(suite)  # the same again is fine
    from dataclasses import replace

    with pytest.raises(ResultsError, match='holds results of the suite "plates", not of "other"'):
        results.open_for(replace(suite, name="other"))
    results.open_for(replace(suite, seeds=(0, 1)))  # the same suite, grown
    assert len(results.suite()["jobs"]) == 4


def test_folder_with_other_files_and_damaged_suite(tmp_path):
    suite = small_suite(tmp_path)
    with pytest.raises(ResultsError, match="holds other files"):
        ResultsFolder(tmp_path).open_for(suite)
    results = ResultsFolder(tmp_path / "r")
    with pytest.raises(ResultsError, match="is no results folder"):
        results.suite()
    results.open_for(suite)
    (results.path / "suite.json").write_text("{")
    with pytest.raises(ResultsError, match=r"suite.json is damaged .* rows are kept"):
        results.open_for(suite)


def test_unwritable_folder(tmp_path, monkeypatch):
    suite = small_suite(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="cannot be written"):
        ResultsFolder(tmp_path / "file" / "results").open_for(suite)
    if os.geteuid() != 0:  # root may write anywhere
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(ResultsError, match="cannot be written"):
            ResultsFolder(tmp_path / "closed" / "results").open_for(suite)


def test_full_disk_leaves_no_half_row(opened, monkeypatch):
    results, jobs = opened
    row = failed_row(jobs[0], ValueError("x"))

    def full(content, file, **options):
        file.write('{"format": 1')
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_module.json, "dump", full)
    with pytest.raises(OSError, match="No space left"):
        results.write(jobs[0], row, None)
    assert results.read_row(jobs[0].id) is None
    assert not list((results.path / "rows").iterdir())


def test_json_has_no_nan(opened):
    results, jobs = opened
    row = failed_row(jobs[0], ValueError("x")) | {"value": float("nan"), "set": {1}, "nested": [float("inf")]}
    results.write(jobs[0], row, None)
    text = results.row_path(jobs[0].id).read_text()
    assert json.loads(text)["nested"] == [None]
    assert "NaN" not in text


def test_a_score_at_the_threshold_is_called_normal():
    row = {
        "thresholds": {"image": {"value": 0.5, "rule": "fixed"}},
        "images": [["a", 0.5, 0, None], ["b", 0.5000001, 1, None], ["c", 0.1 + 0.2, 0, None]],
    }
    rows = folder_module._prediction_rows(row)
    assert [one["label"] for one in rows] == [0, 1, 0]
    assert float(rows[2]["score"]) == 0.1 + 0.2


def test_a_failure_is_told_in_its_own_words(opened):
    _, jobs = opened
    error = "Does not validate against any of the Union subtypes\nErrors:\n  - size 15 is odd\nGiven value: Namespace(a=1)"
    row = failed_row(jobs[0], ValueError(error), trace=error)
    assert row["error"]["message"] == "size 15 is odd"
    assert "Namespace" in row["error"]["traceback"]


def test_pictures_are_those_of_the_row_when_a_job_is_done_again(opened):
    results, jobs = opened
    row = failed_row(jobs[0], ValueError("no matter"))
    for content in (Pictures(b"old", b"old image", b"old mask"), Pictures(b"new", b"new image", b"new mask")):
        results.write(jobs[0], row, content)
    stem, folder = picture_stem("plates", "plate"), results.path / "pictures"
    found = [(folder / name).read_bytes() for name in (f"{jobs[0].id}.png", f"{stem}-images.jpg", f"{jobs[0].id}-masks.png")]
    assert found == [b"new", b"new image", b"new mask"]


def test_two_categories_never_share_their_pictures():
    names = [("a", "_b"), ("a_", "b"), ("a", " b"), ("a b", ""), ("", "a b"), ("x" * 70, "y"), ("x" * 69, "xy")]
    stems = {picture_stem(*name) for name in names}
    assert len(stems) == len(names)
    assert all(set(stem) <= set("abxy_-0123456789cdef") and len(stem) <= 69 for stem in stems)
