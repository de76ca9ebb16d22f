import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from anoclip_anomalib.evaluation.output_names import OutputNames, below_root, path_cell, prediction_root, safe_part


def test_paths_below_a_root_keep_their_folders(tmp_path, monkeypatch):
    assert below_root("photos/line1/good/1.jpg", Path("photos")) == Path("photos/line1/good/1.jpg")
    assert below_root("/data/photos/1.jpg", Path("/data/photos")) == Path("photos/1.jpg")
    assert below_root("elsewhere/good/1.jpg", Path("photos")) == Path("good/1.jpg")
    assert below_root("photos/line1/good/1.jpg", None) == Path("good/1.jpg")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert below_root("line1/1.jpg", Path(".")) == Path("here/line1/1.jpg")


def test_no_name_is_given_twice():
    names = OutputNames()
    wanted = ["a/1.png", "a/1.png", "A/1.PNG", "a/1-2.png", "b/1.png", os.fsdecode(b"a/\xff.png"), r"a/\xff.png", "a/_xff.png"]
    given = [str(names.unique(path)) for path in wanted]
    assert given[:2] == ["a/1.png", "a/1-2.png"]
    assert len({name.lower() for name in given}) == len(wanted)
    assert str(names.unique("a/1.png", ".tiff")) == "a/1.tiff"


@pytest.mark.parametrize("path", ["../../a.png", "/etc/a.png", "a/../../b.png", "..", "a/..\\..\\b.png", ".hidden/.b.png"])
def test_no_name_leaves_its_folder(tmp_path, path):
    assert (tmp_path / OutputNames().unique(path)).resolve().is_relative_to(tmp_path)
    assert not any(part.startswith(".") for part in OutputNames().unique(path).parts)


@pytest.mark.parametrize("name", ["x" * 250, os.fsdecode(b"\xff" * 250), "é" * 120])
def test_names_stay_short_enough_for_a_file_system(tmp_path, name):
    names = OutputNames()
    for path in (names.unique(f"{name}.png"), names.unique(f"{name}.png")):
        (tmp_path / path).touch()
        assert path.suffix == ".png"


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A1.png", "+1.png", "-1.png", "@SUM(A1).png"])
def test_no_path_is_a_formula_and_each_is_the_same_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert path_cell(name)[0] not in "=+-@\t\r\n"
    assert path_cell("\t" + name)[0] not in "=+-@\t\r\n"
    assert Path(path_cell(name)) == Path(name)
    assert path_cell(f"folder/{name}") == f"folder/{name}"


def test_the_root_is_the_folder_that_is_being_predicted(tmp_path):
    def trainer(path: object, *, predicting: bool = True) -> SimpleNamespace:
        return SimpleNamespace(predicting=predicting, predict_dataloaders=SimpleNamespace(dataset=SimpleNamespace(path=path)))

    assert prediction_root(trainer(tmp_path)) == tmp_path
    assert prediction_root(trainer(tmp_path / "a.png")) is None
    assert prediction_root(trainer(None)) is None
    assert prediction_root(trainer(tmp_path, predicting=False)) is None
    assert prediction_root(SimpleNamespace()) is None


def test_safe_parts():
    assert safe_part("a.b") == "a.b"
    assert safe_part("") == "_"
    assert safe_part("..") == "_"
