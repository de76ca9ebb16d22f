"""Valid submissions with random damage: every one is called valid or gets faults in printable lines; nothing is raised."""

import gzip
import io
import random
import tarfile
import zipfile

import numpy as np
import pytest
import tifffile
from PIL import Image

from anoclip_anomalib.submission.entries import pack_folder
from anoclip_anomalib.submission.kaputt2.validate import validate_zip
from anoclip_anomalib.submission.kaputt2.write import write_zip
from anoclip_anomalib.submission.mvtec_ad2.contents import check_map, check_mask
from anoclip_anomalib.submission.mvtec_ad2.validate import validate

from .ad2_files import good_map, good_mask, png_bytes, tiff_bytes, write_submission

IDS = [f"capture-{number:02d}" for number in range(20)]
COUNTS = {"can": 1}
SEEDS = range(10)
TRIES = 40


def mutated(content: bytes, random_: random.Random) -> bytes:
    """One to four changes: a byte, a bit, bytes cut out, put in, moved or repeated, a number made extreme."""
    changed = bytearray(content)
    for _ in range(random_.randint(1, 4)):
        place, size = random_.randrange(len(changed)), random_.choice([1, 2, 4, 8, 64, 512])
        kind = random_.randrange(7)
        if kind == 0:
            changed[place] = random_.randrange(256)
        elif kind == 1:
            changed[place] ^= 1 << random_.randrange(8)
        elif kind == 2 and len(changed) > size:
            del changed[place : place + size]
        elif kind == 3:
            changed[place:place] = random_.randbytes(size)
        elif kind == 4:
            changed[place:place] = changed[place : place + size] or b"\0"
        elif kind == 5:
            end = random_.randrange(len(changed))
            changed[end:end] = changed[place : place + size]
        else:
            changed[place : place + 4] = random_.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\x80"])
    return bytes(changed)


def text_of(report):
    lines = list(report.lines())
    assert all(line.isprintable() for line in lines)
    assert ("NOT valid" in lines[-1]) == (not report.ok)
    return lines


@pytest.mark.parametrize("seed", SEEDS)
def test_kaputt2(tmp_path, seed):
    random_ = random.Random(seed)
    content = write_zip(tmp_path / "x.zip", {name: random_.random() for name in IDS}, IDS).read_bytes()
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        csv = archive.read("predictions.csv")
    for number in range(2 * TRIES):
        path = tmp_path / "x.zip"
        if number % 2:
            path.write_bytes(mutated(content, random_))
        else:
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("predictions.csv", mutated(csv, random_))
        report = validate_zip(path, IDS)
        text_of(report)
        if report.ok:
            with zipfile.ZipFile(path) as archive:
                rows = archive.read(archive.namelist()[0]).decode().splitlines()[1:]
            assert sorted(row.split(",")[0].strip('"') for row in rows) == IDS
            assert all(0 <= float(row.split(",")[1].strip('"')) <= 1 for row in rows)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("options", [{}, {"rowsperstrip": 4}, {"compression": "zlib"}, {"tile": (16, 16)}])
def test_maps(seed, options):
    random_ = random.Random(seed)
    content = tiff_bytes(good_map((20, 30)), **options)
    for _ in range(TRIES):
        changed = mutated(content, random_)
        size, faults = check_map(changed)
        if not faults:
            scores = tifffile.imread(io.BytesIO(changed))
            assert scores.shape == size
            assert scores.dtype == np.float16
            assert np.isfinite(scores).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_masks(seed):
    random_ = random.Random(seed)
    content = png_bytes(good_mask((20, 30)))
    for _ in range(TRIES):
        changed = mutated(content, random_)
        size, faults = check_mask(changed)
        if not faults:
            image = Image.open(io.BytesIO(changed))
            assert (image.height, image.width) == size == (20, 30)
            assert (np.asarray(image) == good_mask((20, 30))).all()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_archives(tmp_path, seed, form):
    random_ = random.Random(seed)
    folder = write_submission(tmp_path / "my_method", COUNTS)
    (folder / ("long" * 40)).touch()  # has an extended header
    path = tmp_path / "my_method.tar.gz"
    with tarfile.open(tmp_path / "plain.tar", "w", format=form) as archive:
        archive.add(folder, "my_method")
    tar = (tmp_path / "plain.tar").read_bytes()
    packed = gzip.compress(tar, 1)
    for number in range(TRIES):
        path.write_bytes(mutated(packed, random_) if number % 4 == 0 else gzip.compress(mutated(tar, random_), 1))
        text_of(validate(path, counts=COUNTS))


def test_the_undamaged_ones_are_valid(tmp_path):
    assert validate_zip(write_zip(tmp_path / "x.zip", dict.fromkeys(IDS, 0.5), IDS), IDS).ok
    assert validate(pack_folder(write_submission(tmp_path / "my_method", COUNTS)), counts=COUNTS).ok
