"""Which photographs are meant: order, what is left out and why, odd names, memory."""

import os
import sys
import tracemalloc
from pathlib import Path

import pytest
from PIL import Image

from anoclip_anomalib.files import IMAGE_SUFFIXES
from anoclip_anomalib.inspection import places
from anoclip_anomalib.inspection.photos import GOOD, Photos, spread


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def listed(*given, base) -> list[str]:
    return [photo.path for photo in Photos(given, base)]


def test_the_suffixes_are_anomalibs():
    from anomalib.data.utils.image import IMG_EXTENSIONS

    assert set(IMAGE_SUFFIXES) == set(IMG_EXTENSIONS)


def test_the_rules_are_those_of_folder_images(tmp_path):
    from anoclip_anomalib.data import FolderImages

    touch(*(tmp_path / "in" / name for name in ("b.JPG", "a/2.png", "a/10.tif", "c.txt", ".jpg", "._x.jpg", "z/y/x.webp")))
    (tmp_path / "in" / "link.png").symlink_to("b.JPG")
    (tmp_path / "in" / "elsewhere").symlink_to(tmp_path)
    ours = [Path(photo.file) for photo in Photos([tmp_path / "in"])]
    assert ours == FolderImages(tmp_path / "in").image_filenames


def test_files_and_folders_in_the_order_given_each_once(tmp_path):
    touch(tmp_path / "p" / "b.png", tmp_path / "p" / "a" / "x.png", tmp_path / "one.dat")
    found = list(Photos(["one.dat", "p", "./p/b.png", "p/a", "p"], tmp_path))
    assert [photo.path for photo in found] == ["one.dat", "p/a/x.png", "p/b.png"]
    assert [photo.file for photo in found] == [str(tmp_path / photo.path) for photo in found]
    assert [photo.name.as_posix() for photo in found][1:] == ["p/a/x", "p/b"]


def test_no_two_names_are_equal(tmp_path):
    names = (
        "p/a.png",
        "p/A.jpg",
        "p/a.png.jpg",
        "p/x:y/1.png",
        "p/x_y/1.png",
        "p/x_y-2/1.png",
        "q/p/a.png",
        "r/p/b.png",
        "r/p/c.png",
    )
    touch(*(tmp_path / name for name in names))
    found = [photo.name.as_posix() for photo in Photos(["p", "q/p", "r/p/b.png", "r/p/c.png"], tmp_path)]
    assert len({name.lower() for name in found}) == len(names) == len(found)
    assert {"p/A", "p/a-2", "p-2/a", "p-3/b", "p-3/c"} <= set(found)
    assert found == [photo.name.as_posix() for photo in Photos(["p", "q/p", "r/p/b.png", "r/p/c.png"], tmp_path)]


def test_masks_are_left_out_and_counted_but_not_those_that_are_named(tmp_path):
    names = ("x.jpg", "x_mask.png", "y_mask.png", "Z.PNG", "Z-GT.png", "ground_truth/a.png", "Masks/b/c.png", "note.txt")
    touch(*(tmp_path / "p" / name for name in names))
    photos = Photos(["p"], tmp_path)
    assert [photo.path for photo in photos] == ["p/Z.PNG", "p/x.jpg", "p/y_mask.png"]
    assert photos.left_out == {"masks": 4, "files of another kind (.txt)": 1}
    assert listed("p/ground_truth", "p/x_mask.png", base=tmp_path) == ["p/ground_truth/a.png", "p/x_mask.png"]
    assert {"p/Masks/b/c.png", "p/x_mask.png"} <= set(listed("p", "p/Masks", "p/x_mask.png", base=tmp_path))


def test_results_of_an_earlier_run_are_no_photographs(tmp_path):
    touch(tmp_path / "a.png", *(tmp_path / "out" / "001" / name for name in ("results.csv", "run.json", "pictures/a.png")))
    photos = Photos([tmp_path])
    assert [Path(photo.file).name for photo in photos] == ["a.png"]
    assert photos.left_out == {"results folders of earlier runs": 1}


@pytest.mark.skipif(sys.platform == "win32", reason="names that only other systems take")
def test_odd_names(tmp_path):
    names = [b"q\"uo'te.png", b"new\nline.png", b"-rf.png", b"=cmd.png", b"<script>.png", b"\xff\xfe.png", b"%s{}.png"]
    for name in names:
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))).touch()
    assert {os.fsencode(Path(photo.file).name) for photo in Photos([tmp_path])} == set(names)


def test_a_missing_one_is_answered_with_the_nearest_name(tmp_path):
    touch(tmp_path / "photos" / "line1" / "a.png")
    with pytest.raises(FileNotFoundError, match=r"fotos; did you mean .*/photos\?"):
        Photos(["fotos"], tmp_path)
    with pytest.raises(FileNotFoundError, match=r"did you mean .*/photos/line1\?"):
        Photos(["photos/lin1/b"], tmp_path)
    with pytest.raises(FileNotFoundError, match="has no xyz"):
        Photos(["xyz"], tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_folder_is_a_fault(tmp_path):
    touch(tmp_path / "p" / "a.png", tmp_path / "p" / "q" / "b.png")
    (tmp_path / "p" / "q").chmod(0)
    found = list(Photos(["p"], tmp_path))
    (tmp_path / "p" / "q").chmod(0o755)
    assert [(photo.path, bool(photo.fault)) for photo in found] == [("p/a.png", False), ("p/q", True)]


def test_a_folder_that_disappears_is_a_fault_and_the_rest_goes_on(tmp_path):
    touch(tmp_path / "p" / "a.png", tmp_path / "p" / "b" / "c.png", tmp_path / "p" / "z.png")
    walk = iter(Photos(["p"], tmp_path))
    assert next(walk).path == "p/a.png"
    (tmp_path / "p" / "b" / "c.png").unlink()
    (tmp_path / "p" / "b").rmdir()
    rest = list(walk)
    assert [photo.path for photo in rest] == ["p/b", "p/z.png"]
    assert rest[0].fault == "Cannot read folder p/b: No such file or directory"


def test_a_spread_covers_the_whole_list(tmp_path):
    touch(*(tmp_path / f"{number:03}.png" for number in range(100)))
    chosen = [int(Path(photo.file).stem) for photo in spread(Photos([tmp_path]), 100, 16)]
    assert len(chosen) <= 16
    assert chosen[0] == 0
    assert chosen[-1] >= 90
    assert len({b - a for a, b in zip(chosen, chosen[1:], strict=False)}) == 1
    assert len(list(spread(Photos([tmp_path]), 100, 1000))) == 100


def test_good_ones_are_no_photographs_to_inspect(tmp_path):
    touch(tmp_path / "p" / "a.png", tmp_path / "p" / "good" / "b.png", tmp_path / "c.png")
    photos = Photos(["p", "c.png"], tmp_path, without=["p/good/b.png", tmp_path / "c.png"])
    assert [photo.path for photo in photos] == ["p/a.png"]
    assert photos.left_out == {GOOD: 2}


def test_many_files_take_no_more_memory_than_the_names_of_one_folder(tmp_path, monkeypatch):
    class Entry:
        def __init__(self, name):
            self.name = name

        def is_dir(self):
            return False

    class Listing(list):
        def __enter__(self):
            return (Entry(f"photo-{number:08}.png") for number in range(1_000))

        def __exit__(self, *error):
            pass

    scan = os.scandir
    monkeypatch.setattr(places.os, "scandir", lambda place: Listing() if "line" in place else scan(place))

    def held(folders):
        """Bytes that the listing holds at its last photograph; what Python keeps for itself does not count."""
        for number in range(folders):
            (tmp_path / str(folders) / f"line{number}").mkdir(parents=True)
        tracemalloc.start()
        for index, _ in enumerate(Photos([tmp_path / str(folders)]), start=1):
            if index == 1_000 * folders:
                own = [
                    tracemalloc.Filter(True, f"*{name}.py")
                    for name in ("inspection/photos", "inspection/places", "output_names")
                ]
                found = sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces(own).traces)
        tracemalloc.stop()
        return found

    assert 50_000 < held(2) < 300_000
    assert held(12) < 1.2 * held(3)


def test_a_store_is_listed_by_the_same_rules(tmp_path):
    pytest.importorskip("pyarrow", reason="pip install 'anoclip_anomalib[ray]'")
    touch(*(tmp_path / "p" / name for name in ("x.jpg", "x_mask.png", "sub/y.png", "masks/x.png", "note.txt", "good/g.png")))
    address = f"file://{tmp_path}/p"
    here = Photos([tmp_path / "p"], without=[tmp_path / "p" / "good" / "g.png"])
    there = Photos([address + "/", f"{address}/sub/y.png"], without=[f"{address}/good/g.png"])
    assert [photo.path.replace("file://", "") for photo in there] == [photo.path for photo in here]
    assert [photo.name for photo in there] == [photo.name for photo in here]
    assert there.left_out == here.left_out == {"masks": 2, "files of another kind (.txt)": 1, GOOD: 1}
    with pytest.raises(FileNotFoundError, match=r"did you mean file://.*/p/sub\?"):
        Photos([f"{address}/sup"])
    with pytest.raises(OSError, match="cannot be reached"):
        Photos(["nonsense://x/y"])


def test_a_photograph_of_a_store_is_read(tmp_path):
    pytest.importorskip("pyarrow", reason="pip install 'anoclip_anomalib[ray]'")
    Image.new("L", (7, 5), 9).save(tmp_path / "a.png")
    assert places.readable(f"file://{tmp_path}/a.png").size == (7, 5)
    assert places.readable(str(tmp_path / "a.png")) == str(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"nothing")
    for name in ("b.png", "c.png"):
        with pytest.raises(OSError, match=f"Cannot read image file://.*/{name}"):
            places.readable(f"file://{tmp_path}/{name}")


def test_photographs_of_every_kind_are_listed_and_their_masks_and_companions_left_out(tmp_path):
    touch(*(tmp_path / name for name in ("a.gif", "a_mask.png", "b.HEIC", "._b.HEIC", "._c.jpg", "d.txt")))
    photos = Photos([tmp_path])
    assert [Path(photo.file).name for photo in photos] == ["a.gif", "b.HEIC"]
    assert photos.left_out == {
        "masks": 1,
        "companions of files from macOS (._*)": 2,
        "files of another kind (.txt)": 1,
    }
    assert [Path(photo.file).name for photo in Photos([tmp_path / "._c.jpg"])] == ["._c.jpg"]  # named, it is meant
