"""A run over a folder: what it leaves behind, whatever ends it, and that going on gives the same."""

import csv
import errno
import json
import time
import weakref
from collections import Counter
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anoclip_anomalib import Inspector
from anoclip_anomalib.inspection import picture_files, scores
from anoclip_anomalib.inspection.inspection import Inspection
from anoclip_anomalib.inspection.photos import Photos
from anoclip_anomalib.inspection.run import SAMPLE, FolderRun, inspected, rows_of, scored
from anoclip_anomalib.inspection.run_folder import RunFolder, RunFolderError
from anoclip_anomalib.inspection.settings import DEFAULTS


@pytest.fixture(scope="module")
def inspector():
    return Inspector(product="cookie", backbone="demo", image_size=64, device="cpu", batch_size=4)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Thirty photographs in two folders, and two files that are none."""
    root = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(30):
        path = root / f"line{number % 2}" / f"{number // 2:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (40 + number, 60, 3), dtype=np.uint8)).save(path)
    (root / "line0" / "03.jpg").write_bytes(b"no image")
    (root / "line1" / "zz.png").write_bytes(b"")
    return root


def run(inspector, photos, folder, **options):
    listing = Photos([photos])
    content = options.pop("content", {"settings": DEFAULTS | {"pictures": options.pop("pictures", True)}})
    FolderRun(inspector, listing, listing.count(), RunFolder(folder), content, **options)()
    return content


def rows(folder):
    with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def left_behind(folder):
    """Everything but what depends on the time: file -> content."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in files.items() if name not in ("run.json", "index.html")}


@pytest.fixture(scope="module")
def undisturbed(inspector, photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    content = run(inspector, photos, folder)
    return folder, content


def test_every_file_has_a_line_and_every_photograph_its_pictures(undisturbed, inspector, photos):
    folder, content = undisturbed
    found = rows(folder)
    assert len(found) == 32
    assert [row["rank"] for row in found] == [*map(str, range(1, 31)), "", ""]
    unread = {Path(row["path"]).name: row["fault"] for row in found if row["fault"]}
    assert sorted(unread) == ["03.jpg", "zz.png"]
    assert content["counts"] == {"inspected": 30, "unreadable": 2, "good": 0, "defect": 0, "left": 0}
    scores = [float(row["score"]) for row in found[:30]]
    assert scores == sorted(scores, reverse=True)
    best = inspector(found[0]["path"])
    assert best.score == pytest.approx(scores[0], abs=1e-6)
    names = {row["picture"] for row in found[:30]}
    assert len(names) == 30
    for name in names:
        photograph = Image.open(photos / "line0" / "00.png")
        assert Image.open(folder / name).width > 2 * photograph.width
    assert (folder / "index.html").is_file()
    saved = json.loads((folder / "run.json").read_text())
    assert saved["complete"] is True
    assert saved["contrast"] == list(content["contrast"])
    assert saved["facts"]["model"] == "AnoClip"


@pytest.mark.parametrize("good", [False, True])
def test_an_interrupted_run_is_valid_and_goes_on_to_the_same_end(inspector, photos, tmp_path, monkeypatch, good):
    if good:
        good_ones = sorted((photos / "line0").glob("*.png"))[:5]
        inspector = Inspector(product="cookie", good=good_ones, backbone="demo", image_size=64, device="cpu", batch_size=4)
    run(inspector, photos, tmp_path / "whole")
    content = {"settings": dict(DEFAULTS)}
    walk = picture_files.write_pictures
    done = []

    def stops(*arguments):
        done.append(1)
        if len(done) == 9:
            raise KeyboardInterrupt
        walk(*arguments)

    monkeypatch.setattr(picture_files, "write_pictures", stops)
    with pytest.raises(KeyboardInterrupt):
        run(inspector, photos, tmp_path / "parts", content=content)
    monkeypatch.undo()
    before = rows(tmp_path / "parts")
    assert 0 < len(before) < 32
    assert [int(row["rank"]) for row in before if row["score"]] == list(range(1, 1 + sum(bool(row["score"]) for row in before)))
    assert content["complete"] is False
    assert content["counts"]["left"] == 32 - len(before)
    assert (tmp_path / "parts" / "index.html").is_file()
    # What was written last may be half a line: a killed process leaves that.
    with (tmp_path / "parts" / "results.csv").open("ab") as file:
        file.write(b"line0/x.png,0.12")
    again = run(inspector, photos, tmp_path / "parts", content=RunFolder(tmp_path / "parts").read())
    assert again["complete"] is True
    assert left_behind(tmp_path / "parts") == left_behind(tmp_path / "whole")
    assert again["decision"] == content["decision"]


def test_a_run_that_is_done_is_left_alone(undisturbed, inspector, photos):
    folder, _ = undisturbed
    before = left_behind(folder)
    with pytest.raises(RunFolderError, match="is complete"):
        run(inspector, photos, folder, content=RunFolder(folder).read())
    assert left_behind(folder) == before


def test_without_verdicts_pictures_have_their_rank(undisturbed, inspector, photos, tmp_path):
    folder, content = undisturbed
    ranked = {row["path"]: Image.open(folder / row["picture"]) for row in rows(folder) if row["picture"]}
    path = next(iter(ranked))
    line0 = [photo for photo in Photos([photos]) if photo.path == path]
    assert len(line0) == 1
    list(inspected(inspector, iter(line0), tmp_path / "plain", tuple(content["contrast"])))
    plain = Image.open(tmp_path / "plain" / "pictures" / f"{line0[0].name}.jpg")
    assert ranked[path].width == plain.width
    assert ranked[path].height > plain.height + 10
    assert np.asarray(ranked[path])[plain.height :].min() < 128  # ink


def test_another_inspector_does_not_go_on(undisturbed, photos, tmp_path):
    content = RunFolder(undisturbed[0]).read() | {"complete": False}
    other = Inspector(product="cookie", backbone="demo", image_size=96, device="cpu")
    with pytest.raises(RunFolderError, match="image_size"):
        run(other, photos, tmp_path, content=content)
    assert list(tmp_path.iterdir()) == []


def test_no_photograph_is_scored_twice(inspector, photos, tmp_path, monkeypatch):
    seen = []
    stream = inspector.stream

    def counting(files, **options):
        return stream((seen.append(str(file)) or file for file in files), **options)

    monkeypatch.setattr(inspector, "stream", counting)
    run(inspector, photos, tmp_path)
    assert len(seen) == len(set(seen)) == 32
    assert len([name for name in seen[:SAMPLE] if "line1" in name]) > 5  # the contrast comes from the whole list


def test_a_full_disk_ends_the_run_with_valid_results(inspector, photos, tmp_path, monkeypatch):
    calls = count()  # two threads draw: each call has one number, whoever is quicker

    def full(*arguments):
        if next(calls) >= 5:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(picture_files, "write_pictures", full)
    with pytest.raises(OSError, match="No space left"):
        run(inspector, photos, tmp_path)
    assert 0 < len(rows(tmp_path)) <= 6
    assert json.loads((tmp_path / "run.json").read_text())["complete"] is False


def test_a_photograph_that_goes_while_the_run_is_on_is_a_fault(inspector, photos, tmp_path):
    copy = tmp_path / "photos"
    copy.mkdir()
    for path in sorted((photos / "line0").glob("0*.png"))[:4]:
        (copy / path.name).write_bytes(path.read_bytes())
    listing = list(Photos([copy]))
    results = list(scored(inspector, listing))
    for _, inspection in results:
        inspection.release()
    (copy / "02.png").unlink()
    found = list(rows_of(([one] for one in results), tmp_path / "out", (0.0, 1.0)))
    assert [bool(row["fault"]) for row in found] == [False, False, True, False]


def test_a_run_that_ends_while_ranks_are_drawn_goes_on_to_the_same_end(undisturbed, inspector, photos, tmp_path, monkeypatch):
    draw, drawn = picture_files.add_line, []

    def stops(*arguments):
        drawn.append(draw(*arguments))
        if len(drawn) == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(picture_files, "add_line", stops)
    before = RunFolder.write
    monkeypatch.setattr(RunFolder, "write", lambda *arguments: None if drawn else before(*arguments))  # as after kill -9
    with pytest.raises(KeyboardInterrupt):
        run(inspector, photos, tmp_path)
    monkeypatch.undo()
    assert run(inspector, photos, tmp_path, content=RunFolder(tmp_path).read())["complete"] is True
    assert left_behind(tmp_path) == left_behind(undisturbed[0])


def test_a_picture_that_somebody_removed_does_not_keep_a_run_from_ending(inspector, photos, tmp_path, monkeypatch, caplog):
    content = {"settings": dict(DEFAULTS)}
    end = FolderRun._end
    monkeypatch.setattr(FolderRun, "_end", lambda *arguments, complete: end(*arguments, complete=False))
    run(inspector, photos, tmp_path, content=content)
    monkeypatch.undo()
    gone, damaged = (tmp_path / rows(tmp_path)[number]["picture"] for number in (0, 1))
    gone.unlink()
    damaged.write_bytes(b"no picture")
    assert run(inspector, photos, tmp_path, content=RunFolder(tmp_path).read())["complete"] is True
    assert caplog.text.count("No rank is drawn on a picture") == 2
    third = rows(tmp_path)[2]
    assert Image.open(tmp_path / third["picture"]).info["comment"].endswith(f" rank 3 of 30, z {third['z']}".encode())


def test_without_pictures_there_are_none(inspector, photos, tmp_path):
    run(inspector, photos, tmp_path, pictures=False)
    assert {path.name for path in tmp_path.iterdir()} == {"results.csv", "run.json", "index.html"}
    assert all(row["picture"] == "" for row in rows(tmp_path))


def test_no_more_than_a_few_results_are_held(inspector, photos, tmp_path):
    alive = weakref.WeakSet()
    most = 0

    def endless():
        listing = [photo for photo in Photos([photos]) if photo.path.endswith(".png")]
        for number in range(200):
            yield listing[number % 20]._replace(name=Path(str(number)))

    def watched(batch):
        nonlocal most
        for photo, inspection in scored(inspector, batch):
            alive.add(inspection)
            most = max(most, len(alive))
            yield photo, inspection

    source = endless()
    batches = iter(lambda: list(islice(source, 4)), [])
    assert sum(1 for _ in rows_of(map(watched, batches), tmp_path, (0.0, 1.0))) == 200
    assert most <= 16


@pytest.mark.parametrize("good", [False, True])
def test_several_at_a_time_give_what_one_after_the_other_does(photos, tmp_path, monkeypatch, good):
    good_ones = sorted((photos / "line0").glob("*.png"))[:5] if good else None
    inspector = Inspector(product="cookie", good=good_ones, backbone="demo", image_size=64, device="cpu")
    at_once, most, score = Counter(), [], scores.score_images

    def counted(module, images):
        at_once[0] += 1
        most.append((at_once[0], torch.get_num_threads()))
        time.sleep(0.01)
        try:
            return score(module, images)
        finally:
            at_once[0] -= 1

    monkeypatch.setattr(scores, "score_images", counted)
    run(inspector, photos, tmp_path / "one")
    assert set(most) == {(1, 1)}
    torch.set_num_threads(7)
    try:
        run(inspector, photos, tmp_path / "more")
        assert torch.get_num_threads() == 7
    finally:
        torch.set_num_threads(1)
    assert max(most)[0] in (3, 4)
    assert {threads for _, threads in most} == {1, 7 // 4, 7} - ({7} if good else set())
    assert left_behind(tmp_path / "one") == left_behind(tmp_path / "more")


def test_adapted_photographs_are_scored_one_at_a_time(photos, tmp_path, monkeypatch):
    inspector = Inspector(product="cookie", backbone="demo", image_size=64, device="cpu").adapt(steps=1)
    at_once, score = Counter(), scores.score_images

    def counted(module, images):
        at_once["now"] += 1
        at_once["most"] = max(at_once["most"], at_once["now"])
        time.sleep(0.01)
        try:
            return score(module, images)
        finally:
            at_once["now"] -= 1

    monkeypatch.setattr(scores, "score_images", counted)
    torch.set_num_threads(4)
    try:
        found = list(inspected(inspector, iter(Photos([photos / "line0"])), None, None))
    finally:
        torch.set_num_threads(1)
    assert at_once["most"] == 1
    assert len(found) == 16


def test_a_run_that_is_left_is_not_far_ahead_and_does_no_more(inspector, photos):
    listing, asked, drawn = list(Photos([photos])), [], []

    def batches():
        for number in range(1000):
            asked.append(number)
            yield one(number)

    def one(number):
        time.sleep(0.01)
        drawn.append(number)
        yield listing[0], Inspection(None, float("nan"), None, fault="gone")

    found = rows_of(batches(), None, None)
    for _ in range(3):
        assert next(found)["fault"] == "gone"
    assert len(asked) <= 10
    found.close()
    assert len(drawn) < len(asked)
    before = len(drawn)
    time.sleep(0.05)
    assert len(drawn) == before


def test_a_photograph_is_read_once_more_for_all_its_pictures(inspector, photos, tmp_path, monkeypatch):
    from anoclip_anomalib.inspection import inspection

    read, again = Counter(), inspection._read_again

    def counted(path):
        read[path] += 1
        return again(path)

    monkeypatch.setattr(inspection, "_read_again", counted)
    run(inspector, photos, tmp_path / "out")
    assert read
    assert max(read.values()) == 1


def test_what_a_listing_found_wrong_is_told_in_the_order_of_the_photographs(inspector, photos):
    first, second = islice(Photos([photos]), 2)
    unread = first._replace(path="locked", fault="Cannot read folder locked: Permission denied")
    found = list(inspected(inspector, iter([first, unread, second]), None, None))
    assert [row["path"] for row in found] == [first.path, "locked", second.path]
    assert [row["fault"] for row in found] == ["", "Cannot read folder locked: Permission denied", ""]


def test_the_time_before_an_interruption_counts(inspector, photos, tmp_path):
    before = {"settings": DEFAULTS | {"pictures": False}, "seconds": 1000.0}
    assert run(inspector, photos, tmp_path, content=before)["seconds"] >= 1000
