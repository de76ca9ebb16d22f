import csv

import pytest
from anomalib.data import Folder, MVTecAD

from anoclip_anomalib.evaluation.left_out import left_out, write_left_out

from .scorer import write_category


def folder(root, **arguments):
    datamodule = Folder(
        name="plate",
        root=root / "plate",
        normal_dir="train/good",
        normal_test_dir="test/good",
        abnormal_dir="test/spot",
        **arguments,
    )
    datamodule.setup()
    return datamodule


def test_what_is_held_back_is_what_is_not_tested(tmp_path, caplog):
    root = write_category(tmp_path / "data", images=5)
    datamodule = folder(root, seed=3)
    rows = left_out(datamodule)
    tested = set(datamodule.test_data.samples.image_path)
    everything = {str(path) for path in root.glob("plate/test/*/*.png")}
    assert {path for path, _ in rows} == everything - tested
    assert len(tested) + len(rows) == 10
    assert {reason for _, reason in rows} == {"held back for validation: val_split_mode=from_test, val_split_ratio=0.5, seed 3"}
    write_left_out(tmp_path / "left_out.csv", datamodule)
    with (tmp_path / "left_out.csv").open(newline="") as file:
        assert [(row["path"], row["reason"]) for row in csv.DictReader(file)] == rows
    assert f"{len(rows)} test image(s) held back for validation" in caplog.text
    assert "unseeded" in left_out(folder(root))[0][1]


def test_images_that_generated_ones_replace_are_named(tmp_path):
    root = write_category(tmp_path / "data", images=4)
    rows = left_out(folder(root, test_split_mode="synthetic", val_split_mode="same_as_test"))
    assert any("spot" in path for path, _ in rows)
    assert {reason for _, reason in rows} == {"not used: test_split_mode=synthetic"}


@pytest.mark.parametrize("mode", ["same_as_test", "from_train"])
def test_nothing_is_said_where_all_are_tested(tmp_path, mode):
    root = write_category(tmp_path / "data", images=4)
    datamodule = MVTecAD(root=root, category="plate", val_split_mode=mode)
    datamodule.setup()
    assert left_out(datamodule) == []
    write_left_out(tmp_path / "left_out.csv", datamodule)
    assert not (tmp_path / "left_out.csv").exists()


def test_data_that_is_no_datamodule_leaves_nothing_out():
    assert left_out(None) == left_out(object()) == left_out(MVTecAD()) == []
