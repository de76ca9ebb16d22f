import numpy as np
import pytest
import torch
from anomalib.data import MPDD, BTech, Folder, MVTecAD, Visa
from PIL import Image

from anoclip_anomalib.data.samples import Sample, choose_shots, hold_out, image_digest, labelled_samples, read_mask
from anoclip_anomalib.data.sources import DataSpec
from tests.mvtec_files import image, write_mvtec

SPEC = DataSpec(class_path="Some")


def build(make):
    return lambda spec, category: make(category)


def btech(root):
    base = root / "01"
    for folder in ("train/ok", "test/ok", "test/ko", "ground_truth/ko"):
        (base / folder).mkdir(parents=True)
    for index in range(2):
        image(index)[0].save(base / f"train/ok/{index:03d}.bmp")
        image(10 + index)[0].save(base / f"test/ok/{index:03d}.bmp")
        picture, mask = image(20 + index, defect=True)
        picture.save(base / f"test/ko/{index:03d}.bmp")
        mask.save(base / f"ground_truth/ko/{index:03d}.png")
    return root


def visa(root):
    """The prepared layout, in which anomalib keeps VisA."""
    source = write_mvtec(root / "m", ("candle",), good=2, defects=2) / "candle"
    base = root / "visa_pytorch" / "candle"
    base.parent.mkdir(parents=True)
    source.rename(base)
    (base / "test/spot").rename(base / "test/bad")
    (base / "ground_truth/spot").rename(base / "ground_truth/bad")
    for path in (base / "ground_truth/bad").glob("*.png"):
        path.rename(path.with_name(path.name.replace("_mask", "")))
    return root


def folder(root):
    write_mvtec(root, ("bolt",), good=2, defects=2)
    return root / "bolt"


def mvtec(category):
    return lambda root: write_mvtec(root, (category,), good=2, defects=2)


FOLDERS = {
    "normal_dir": "train/good",
    "normal_test_dir": "test/good",
    "abnormal_dir": "test/spot",
    "mask_dir": "ground_truth/spot",
}
# Writes the data set; makes the datamodule from its root and a category; the category.
CASES = {
    "MVTecAD": (mvtec("bottle"), lambda root, category: MVTecAD(root=root, category=category), ["bottle"]),
    "MPDD": (mvtec("tubes"), lambda root, category: MPDD(root=root, category=category), ["tubes"]),
    "Visa": (visa, lambda root, category: Visa(root=root, category=category), ["candle"]),
    "BTech": (btech, lambda root, category: BTech(root=root, category=category), ["01"]),
    "Folder": (folder, lambda root, _: Folder(name="bolts", root=root, **FOLDERS), []),
}


@pytest.mark.parametrize("name", CASES)
def test_labelled_images_of_anomalibs_datamodules(tmp_path, name):
    write, make, categories = CASES[name]
    root = write(tmp_path)
    samples = labelled_samples(SPEC, build(lambda category: make(root, category)), categories)
    assert sorted(sample.anomalous for sample in samples) == [False, False, True, True]
    assert {sample.category for sample in samples} == {categories[0] if categories else "bolts"}
    for sample in samples:
        if sample.anomalous:
            assert read_mask(sample.mask).sum() == 256
        assert "train" not in sample.image


@pytest.mark.parametrize(("good", "defects", "message"), [(0, 2, "no normal images"), (2, 0, "no anomalous images")])
def test_both_kinds_are_needed(tmp_path, good, defects, message):
    root = write_mvtec(tmp_path, good=good, defects=defects)
    with pytest.raises(ValueError, match=message):
        labelled_samples(SPEC, build(lambda c: MVTecAD(root=root, category=c)), ["bottle"])


def test_every_process_and_run_gets_the_whole_test_split(tmp_path):
    """Anomalib's Folder holds half of it back, another half each time; and draws good test images where none are named."""
    root = write_mvtec(tmp_path, ("bolt",), good=12, defects=12) / "bolt"
    for index in range(30):
        image(index)[0].save(root / f"train/good/{100 + index}.png")
    own = {key: value for key, value in FOLDERS.items() if key != "normal_test_dir"}
    runs = [
        labelled_samples(SPEC, build(lambda c, given=given: Folder(name="b", root=root, **given)), [])
        for given in (FOLDERS, FOLDERS, own, own)
    ]
    assert len(runs[0]) == 24
    assert runs[0] == runs[1]
    assert runs[2] == runs[3]


def test_the_defect_that_lacks_its_mask_is_named_where_others_have_one(tmp_path):
    root = folder(tmp_path)
    gone = sorted((root / "ground_truth/spot").iterdir())[1]
    gone.unlink()
    with pytest.raises(
        ValueError, match=f"2 anomalous images, but 1 masks in .*{gone.stem.removesuffix('_mask')}.png has none"
    ):
        labelled_samples(SPEC, build(lambda _: Folder(name="b", root=root, **FOLDERS)), [])


def test_a_defect_without_a_mask_is_named(tmp_path):
    root = write_mvtec(tmp_path, ("bolt",), masks=False)
    names = {"normal_dir": "train/good", "normal_test_dir": "test/good", "abnormal_dir": "test/spot"}
    make = build(lambda c: Folder(name="b", root=root / "bolt", **names))
    with pytest.raises(ValueError, match=r"test/spot/.*png of the source is anomalous and has no mask"):
        labelled_samples(SPEC, make, [])


def test_a_data_set_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match="data set Some bottle cannot be read"):
        labelled_samples(SPEC, build(lambda c: Folder(name="b", root=tmp_path, normal_dir="none")), ["bottle"])


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("1", "png"), ("L", "png"), ("L", "bmp"), ("P", "png"), ("RGB", "png"), ("RGBA", "png"), ("I;16", "png"), ("L", "jpg")],
)
def test_masks_of_every_kind(tmp_path, mode, suffix):
    expected = np.zeros((16, 24), bool)
    expected[4:12, 8:16] = True
    grey = Image.fromarray(expected.astype(np.uint8) * 255)
    if mode == "I;16":
        grey = Image.fromarray(expected.astype(np.uint16))  # 1 of 65535 counts
    elif mode == "P":
        grey = Image.fromarray(expected.astype(np.uint8), "P")
        grey.putpalette([0, 0, 0, 0, 0, 90])
    else:
        grey = grey.convert(mode)
    path = tmp_path / f"mask.{suffix}"
    grey.save(path)
    mask = read_mask(path)
    assert mask.dtype == torch.float32
    assert torch.equal(mask, torch.from_numpy(expected).float())


def test_a_mask_that_is_no_image_is_named(tmp_path):
    (tmp_path / "m.png").write_bytes(b"no")
    with pytest.raises(OSError, match=r"Cannot read mask .*m.png"):
        read_mask(tmp_path / "m.png")


def many() -> list[Sample]:
    return [Sample(f"{c}{i:02d}", "m" if i % 2 else None, c) for c in "ab" for i in range(20)]


def test_shots_are_balanced_seeded_and_do_not_depend_on_the_order():
    chosen = choose_shots(many(), 6, 1)
    for category in "ab":
        assert [one.anomalous for one in chosen if one.category == category].count(True) == 3
    assert len(chosen) == 12
    assert chosen == choose_shots(many()[::-1], 6, 1)
    bad = [one.image for one in choose_shots(many(), 18, 1) if one.anomalous]
    assert bad == sorted(bad)
    assert chosen != choose_shots(many(), 6, 2)
    assert len(choose_shots(many(), 100, 1)) == 40


def test_what_is_held_out_is_not_trained_on():
    training, held = hold_out(many(), 0.2, 1)
    assert not set(training) & set(held)
    assert set(training) | set(held) == set(many())
    assert len(held) == 8
    assert {(one.category, one.anomalous) for one in held} == {(c, a) for c in "ab" for a in (True, False)}
    assert hold_out(many(), 0.0, 1)[1] == []


def test_digests_are_of_the_content(tmp_path):
    for name, content in (("a", b"x"), ("b", b"x"), ("c", b"y")):
        (tmp_path / name).write_bytes(content)
    digests = [image_digest(tmp_path / name) for name in "abc"]
    assert digests[0] == digests[1] != digests[2]
    assert digests[0] == "2d711642b726"
