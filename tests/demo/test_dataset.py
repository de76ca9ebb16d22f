"""The generated data set: MVTec AD's layout, read by anomalib, written whole or not at all."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from anomalib.data import MVTecAD

from anoclip_anomalib.demo.dataset import write_demo_dataset
from anoclip_anomalib.demo.held_out import DEFECTS_OF

SMALL = {"image_size": 64, "train": 2, "test_good": 2, "test_bad": 1}


def _files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_anomalib_reads_it_with_masks(tmp_path: Path) -> None:
    root = write_demo_dataset(tmp_path / "data", ["metal_nut"], **SMALL)
    datamodule = MVTecAD(root=root, category="metal_nut", num_workers=0, eval_batch_size=8)
    datamodule.prepare_data()  # would download if it did not find the category
    datamodule.setup()
    assert len(datamodule.train_data) == 2
    batch = next(iter(datamodule.test_dataloader()))
    assert len(batch.image_path) == 5
    for path, label, mask in zip(batch.image_path, batch.gt_label, batch.gt_mask, strict=True):
        defective = "good" not in Path(path).parts
        assert bool(label) == defective
        assert bool(mask.any()) == defective


def test_all_categories_have_their_defects(tmp_path: Path) -> None:
    root = write_demo_dataset(tmp_path, **{**SMALL, "image_size": 40})
    for category, kinds in DEFECTS_OF.items():
        assert {path.name for path in (root / category / "test").iterdir()} == {"good", *kinds}
        for kind in kinds:
            image = cv2.imread(str(root / category / "test" / kind / "000.png"))
            mask = cv2.imread(str(root / category / "ground_truth" / kind / "000_mask.png"), cv2.IMREAD_GRAYSCALE)
            assert image.shape == (40, 40, 3)
            assert set(np.unique(mask)) == {0, 255}


def test_same_arguments_same_files_and_a_finished_category_is_kept(tmp_path: Path) -> None:
    first = write_demo_dataset(tmp_path / "a", ["button"], **SMALL)
    write_demo_dataset(tmp_path / "b", ["button"], **SMALL)
    write_demo_dataset(tmp_path / "c", ["button"], **SMALL, seed=1)
    assert _files(tmp_path / "a") == _files(tmp_path / "b")
    assert _files(tmp_path / "a") != _files(tmp_path / "c")
    image = first / "button" / "test" / "good" / "000.png"
    before = image.stat().st_mtime_ns
    write_demo_dataset(tmp_path / "a", ["button"], **SMALL)
    assert image.stat().st_mtime_ns == before


def test_other_settings_need_overwrite(tmp_path: Path) -> None:
    write_demo_dataset(tmp_path, ["fuse"], **SMALL)
    with pytest.raises(FileExistsError, match=r"fuse is there and was generated with other settings.*overwrite=True"):
        write_demo_dataset(tmp_path, ["fuse"], **{**SMALL, "test_bad": 2})
    write_demo_dataset(tmp_path, ["fuse"], **{**SMALL, "test_bad": 2}, overwrite=True)
    assert len(list((tmp_path / "fuse" / "test" / "scuff").iterdir())) == 2


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    own = tmp_path / "fuse" / "photo.png"
    own.parent.mkdir()
    own.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="was not written by this generator"):
        write_demo_dataset(tmp_path, ["fuse"], **SMALL)
    assert own.read_bytes() == b"mine"


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_bytes

    def fail(path: Path, content: bytes) -> int:
        if "ground_truth" in path.parts:
            raise OSError("No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space left"):
        write_demo_dataset(tmp_path, ["fuse"], **SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"categories": ["nut"]}, "Unknown demonstration categories: 'nut'; there are herringbone"),
        ({"categories": "fuse"}, "must be a list"),
        ({"categories": []}, "must be a list"),
        ({"image_size": 8}, "image_size=8 is too small"),
        ({"test_bad": 0}, "test_bad=0 must be at least 1"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_demo_dataset(tmp_path / "data", **arguments)
    assert not (tmp_path / "data").exists()
