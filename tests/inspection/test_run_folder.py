"""Numbered folders, run.json, one process at a time."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from anoclip_anomalib.inspection.run_folder import RunFolder, RunFolderError, changed


def test_each_run_gets_a_new_number(tmp_path):
    root = tmp_path / "a" / "b"
    assert [RunFolder.create(root).path.name for _ in range(3)] == ["001", "002", "003"]
    (root / "041").mkdir()
    (root / "notes 99").mkdir()
    assert RunFolder.create(root).path.name == "042"
    (root / "1000").mkdir()
    assert RunFolder.create(root).path.name == "1001"


def test_no_two_processes_get_the_same(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        made = [folder.path for folder in pool.map(RunFolder.create, [tmp_path] * 100)]
    assert len(set(made)) == 100


def test_the_newest_unfinished_run_is_found(tmp_path):
    with pytest.raises(RunFolderError, match="no unfinished run"):
        RunFolder.unfinished(tmp_path / "none")
    for complete in (False, False, True):
        RunFolder.create(tmp_path).write({"settings": {}, "complete": complete})
    RunFolder.create(tmp_path)  # killed before it had begun
    assert RunFolder.unfinished(tmp_path).path.name == "002"


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match="has no run.json"):
        RunFolder(tmp_path).read()
    for content in ("{", "[]", "{}", '{"settings": 3}'):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(RunFolderError, match="damaged"):
            RunFolder(tmp_path).read()


def test_names_that_are_no_utf8_come_back(tmp_path):
    path = os.fsdecode(b"/photos/\xff\xfe")
    RunFolder(tmp_path).write({"settings": {"photos": [path]}, "contrast": (0.1, float("nan"))})
    assert RunFolder(tmp_path).read() == {"settings": {"photos": [path]}, "contrast": [0.1, None]}
    assert (tmp_path / "run.json").read_bytes().isascii()


def test_one_process_at_a_time_and_a_killed_one_does_not_count(tmp_path):
    folder = RunFolder(tmp_path)
    with folder.held(), pytest.raises(RunFolderError, match="Another process"), RunFolder(tmp_path).held():
        pass
    assert os.listdir(tmp_path) == []
    killed = (
        "import os, sys; from anoclip_anomalib.inspection.run_folder import RunFolder\n"
        "with RunFolder(sys.argv[1]).held(): os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", killed, str(tmp_path)]).returncode == -9
    assert os.listdir(tmp_path) == [".claims"]
    with folder.held():
        pass
    assert os.listdir(tmp_path) == []


def test_a_folder_without_results_is_removed(tmp_path):
    folder = RunFolder.create(tmp_path)
    folder.write({"settings": {}})
    folder.results.touch()
    folder.discard()
    assert folder.path.exists()
    folder.results.unlink()
    folder.discard()
    assert not folder.path.exists()


def test_what_has_changed_is_named():
    assert changed({"a": 1, "b": (1, 2), "c": None}, {"a": 1, "b": [1, 2]}) == []
    assert changed({"model": "AnoClip", "x": 1}, {"model": "AaClip", "x": 1, "y": 2}) == [
        'model: "AnoClip" then, "AaClip" now',
        "y: null then, 2 now",
    ]
    assert changed({"z": 1}, {}) == ["z: 1 then, null now"]
