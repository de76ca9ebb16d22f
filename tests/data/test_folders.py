import os
from pathlib import Path

import pytest
import torch
from anomalib.data import Folder, MVTec3D, MVTecAD
from torch.utils.data import DataLoader

from anoclip_anomalib.data import FolderImages, check_masks, warn_of_depth
from tests.mvtec_files import image as picture
from tests.mvtec_files import write_mvtec


def test_a_folder_with_an_unreadable_image_goes_on_without_it(tmp_path, caplog):
    for index in range(3):
        (tmp_path / "part").mkdir(exist_ok=True)
        picture(index)[0].save(tmp_path / "part" / f"{index}.png")
    content = (tmp_path / "part/1.png").read_bytes()
    (tmp_path / "part/1.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "0.jpg").write_text("no image")
    (tmp_path / "notes.txt").write_text("not even named like one")
    images = FolderImages(tmp_path)
    assert len(images) == 4
    items = list(images)
    batch = images.collate_fn(items)
    assert batch.image.shape == (2, 3, 64, 64)
    assert batch.image_path == [str(tmp_path / "part" / name) for name in ("0.png", "2.png")]
    assert images.faults.keys() == {str(tmp_path / "part/1.png"), str(tmp_path / "0.jpg")}
    for name in ("part/1.png", "0.jpg"):
        assert f"Cannot read image {tmp_path / name}" in caplog.text
    assert "notes.txt" not in caplog.text


def test_an_image_that_disappears_meanwhile_is_a_fault_like_another(tmp_path):
    for index in range(2):
        picture(index)[0].save(tmp_path / f"{index}.png")
    images = FolderImages(tmp_path)
    (tmp_path / "0.png").unlink()
    assert [Path(item.image_path).name for item in images] == ["1.png"]
    assert "no regular file" in images.faults[str(tmp_path / "0.png")]


def test_odd_names_and_linked_folders(tmp_path, caplog):
    name = os.fsdecode(b"\xff.png")
    (tmp_path / "part.png").mkdir()  # named like an image
    picture(0)[0].save(tmp_path / "part.png" / name)
    (tmp_path / "link").symlink_to("part.png")
    (item,) = FolderImages(tmp_path)
    assert item.image_path == str(tmp_path / "part.png" / name)
    assert f"{tmp_path / 'link'} is a link to a folder and is not followed" in caplog.text


def test_a_folder_that_cannot_be_listed_is_a_fault(tmp_path, monkeypatch):
    picture(0)[0].save(tmp_path / "0.png")
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def guarded(path):
        if Path(path).name == "closed":  # the user of the tests may be root, whom no permission stops
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    images = FolderImages(tmp_path)
    assert images.faults == {str(tmp_path / "closed"): f"Cannot read folder {tmp_path / 'closed'}: Permission denied"}
    assert len(list(images)) == 1


def test_processes_share_the_images(tmp_path, monkeypatch):
    for index in range(5):
        picture(index)[0].save(tmp_path / f"{index}.png")
    seen = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        seen += [Path(item.image_path).name for item in FolderImages(tmp_path)]
    assert seen == ["0.png", "2.png", "4.png", "1.png", "3.png"]


def test_worker_processes_are_refused(tmp_path):
    picture(0)[0].save(tmp_path / "0.png")
    images = FolderImages(tmp_path)
    with pytest.raises(RuntimeError, match="use num_workers=0"):
        list(DataLoader(images, collate_fn=images.collate_fn, num_workers=1))


def test_a_single_image(tmp_path):
    picture(1)[0].save(tmp_path / "a.png")
    images = FolderImages(tmp_path / "a.png", transform=lambda image: image * 0)
    assert len(images) == 1
    assert next(iter(images)).image.abs().max() == 0


def test_depth_maps_are_said_to_be_left_alone(tmp_path, caplog):
    warn_of_depth(MVTecAD(root=tmp_path))
    assert not caplog.text
    warn_of_depth(MVTec3D(root=tmp_path))
    assert "MVTec3D has depth maps: they are not used" in caplog.text


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda path: path.mkdir(), ValueError, r"No images in .*here.*\.jpg, \.png"),
        (lambda path: None, FileNotFoundError, "No such image or folder: .*here"),
        (lambda path: path.write_text("x"), ValueError, "here.* is no image"),
    ],
    ids=["empty", "missing", "not an image"],
)
def test_a_folder_without_images_is_refused(tmp_path, make, error, said):
    make(tmp_path / "here")
    with pytest.raises(error, match=said):
        FolderImages(tmp_path / "here")


def test_a_category_without_masks_is_refused_with_the_way_out(tmp_path):
    complete = write_mvtec(tmp_path / "complete")
    check_masks(MVTecAD(root=complete, category="bottle"))
    check_masks(object())
    check_masks(None)
    check_masks(MVTecAD(root=write_mvtec(tmp_path / "flawless", defects=0), category="bottle"))
    root = write_mvtec(tmp_path / "bare", masks=False)
    with pytest.raises(ValueError, match=r"test/spot has 3 images, but .*ground_truth/spot has 0 masks.*--data Folder"):
        check_masks(MVTecAD(root=root, category="bottle"))
    (complete / "bottle/ground_truth/spot/000_mask.png").unlink()
    with pytest.raises(ValueError, match="has 3 images, but .* has 2 masks"):
        check_masks(MVTecAD(root=complete, category="bottle"))


def test_photographs_of_other_kinds_are_faults_and_companions_are_no_photographs(tmp_path):
    picture(0)[0].save(tmp_path / "a.png")
    picture(1)[0].save(tmp_path / "b.gif")
    (tmp_path / "c.HEIC").write_bytes(b"no kind that Pillow knows")
    (tmp_path / "._a.png").write_bytes(b"macOS")
    images = FolderImages(tmp_path)
    assert [Path(item.image_path).name for item in images] == ["a.png", "b.gif"]
    assert list(images.faults) == [str(tmp_path / "c.HEIC")]
    assert images.faults[str(tmp_path / "c.HEIC")].endswith("Its kind is not read here: convert it to JPEG, PNG or TIFF")


def test_masks_of_a_folder_are_counted_as_anomalib_counts_them(tmp_path):
    root = write_mvtec(tmp_path, ("bolt",)) / "bolt"
    names = {"normal_dir": "train/good", "normal_test_dir": "test/good", "mask_dir": "ground_truth/spot"}
    check_masks(Folder(name="b", root=root, **names))  # without anomalous images masks are of no account
    names["abnormal_dir"] = "test/spot"
    check_masks(Folder(name="b", root=root, **names))
    picture(0)[0].save(root / "test/spot/thumbnail.jpg")
    only_png = Folder(name="b", root=root, extensions=(".PNG",), **names)
    check_masks(only_png)
    only_png.setup()
    assert len(only_png.test_data) + len(only_png.val_data) == 6
    with pytest.raises(ValueError, match="4 anomalous images, but 3 masks in .*thumbnail.jpg has none"):
        check_masks(Folder(name="b", root=root, **names))
