import gzip
import io
import os
import shutil
import tarfile

import numpy as np
import pytest

from anoclip_anomalib.submission import entries
from anoclip_anomalib.submission.entries import pack_folder
from anoclip_anomalib.submission.mvtec_ad2.layout import IMAGES_PER_SPLIT, MAPS, MASKS
from anoclip_anomalib.submission.mvtec_ad2.validate import validate

from ..ad2_files import COUNTS, SIZE, good_map, good_mask, png_bytes, tiff_bytes, write_submission

A_MAP = f"{MAPS}/can/test_private/001_regular.tiff"
A_MASK = f"{MASKS}/can/test_private/001_regular.png"


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    return write_submission(tmp_path_factory.mktemp("valid") / "my_method")


@pytest.fixture
def folder(valid, tmp_path):
    return shutil.copytree(valid, tmp_path / "my_method", copy_function=os.link)


def found(path, **kwargs):
    """(rule, path relative to the submission) of every fault."""
    report = validate(path, **{"counts": COUNTS, **kwargs})
    names = (f"{path}/", f"{path.name.removesuffix('.tar.gz')}/")
    return [(f.rule, f.path.removeprefix(names[0]).removeprefix(names[1])) for f in report.faults]


def with_float16(change):
    scores = good_map()
    change(scores)
    return tiff_bytes(scores)


def drop(path):
    def change(folder):
        target = folder / path
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    return change


def write(path, content):
    def change(folder):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).unlink(missing_ok=True)  # it is a hard link to the valid submission's file
        (folder / path).write_bytes(content)

    return change


def move(source, target):
    return lambda folder: (folder / source).rename(folder / target)


def link(path):
    def change(folder):
        (folder / path).unlink()
        (folder / path).symlink_to(folder / path.replace("001", "000"))

    return change


def set_pixel(value):
    return with_float16(lambda scores: scores.__setitem__((0, 0), value))


SINGLE_FAULTS = {
    "missing object": (drop(f"{MAPS}/vial"), ("missing-object", f"{MAPS}/vial")),
    "missing object's masks": (drop(f"{MASKS}/vial"), ("missing-object", f"{MASKS}/vial")),
    "missing split": (drop(f"{MAPS}/rice/test_private_mixed"), ("missing-split", f"{MAPS}/rice/test_private_mixed")),
    "missing maps": (drop(MAPS), ("missing-folder", MAPS)),
    "missing masks": (drop(MASKS), ("missing-folder", MASKS)),
    "wrong count": (
        drop(f"{MAPS}/sheet_metal/test_private/141_regular.tiff"),
        ("wrong-count", f"{MAPS}/sheet_metal/test_private"),
    ),
    "missing file": (drop(A_MASK), ("missing-file", A_MASK)),
    "extra file at the top": (write("provenance.json", b"{}"), ("extra-file", "provenance.json")),
    "extra file in an object": (write(f"{MAPS}/can/notes.txt", b"?"), ("extra-file", f"{MAPS}/can/notes.txt")),
    "extra file in a split": (
        write(f"{MASKS}/can/test_private/.DS_Store", b"?"),
        ("extra-file", f"{MASKS}/can/test_private/.DS_Store"),
    ),
    "extra folder": (write(f"{MAPS}/bottle/test_private/000_regular.tiff", b"?"), ("extra-folder", f"{MAPS}/bottle")),
    "extra folder in a split": (
        write(f"{MAPS}/can/test_private/more/000_regular.tiff", b"?"),
        ("extra-folder", f"{MAPS}/can/test_private/more"),
    ),
    "public split": (write(f"{MAPS}/can/test_public/x.tiff", b"?"), ("extra-folder", f"{MAPS}/can/test_public")),
    "wrong stem": (
        move(A_MAP, f"{MAPS}/can/test_private/1_regular.tiff"),
        ("wrong-stem", f"{MAPS}/can/test_private/1_regular.tiff"),
    ),
    "other split's suffix": (
        move(A_MAP, f"{MAPS}/can/test_private/001_mixed.tiff"),
        ("wrong-stem", f"{MAPS}/can/test_private/001_mixed.tiff"),
    ),
    "numbered from one": (
        move(f"{MAPS}/can/test_private/000_regular.tiff", f"{MAPS}/can/test_private/002_regular.tiff"),
        ("wrong-stem", f"{MAPS}/can/test_private/002_regular.tiff"),
    ),
    "wrong extension": (
        move(A_MAP, f"{MAPS}/can/test_private/001_regular.tif"),
        ("extra-file", f"{MAPS}/can/test_private/001_regular.tif"),
    ),
    "wrong dtype": (write(A_MAP, tiff_bytes(good_map().astype(np.float32))), ("wrong-dtype", A_MAP)),
    "integer map": (write(A_MAP, tiff_bytes((good_map() * 255).astype(np.uint8))), ("wrong-dtype", A_MAP)),
    "wrong ndim": (write(A_MAP, tiff_bytes(np.stack([good_map()] * 4))), ("wrong-ndim", A_MAP)),
    "NaN": (write(A_MAP, set_pixel(np.nan)), ("nan", A_MAP)),
    "inf": (write(A_MAP, set_pixel(np.inf)), ("inf", A_MAP)),
    "all-equal map": (write(A_MAP, tiff_bytes(np.full(SIZE, 0.5, np.float16))), ("all-equal", A_MAP)),
    "no TIFF": (write(A_MAP, b"II*\0garbage"), ("unreadable", A_MAP)),
    "cut TIFF": (write(A_MAP, tiff_bytes(good_map((64, 64)))[:-500]), ("unreadable", A_MAP)),
    "grey values": (write(A_MASK, png_bytes(np.full(SIZE, 128, np.uint8))), ("grey-values", A_MASK)),
    "zeros and ones": (write(A_MASK, png_bytes(good_mask() // 255)), ("grey-values", A_MASK)),
    "1-bit PNG": (write(A_MASK, png_bytes(good_mask(), "1")), ("wrong-dtype", A_MASK)),
    "colour PNG": (write(A_MASK, png_bytes(good_mask(), "RGB")), ("wrong-ndim", A_MASK)),
    "no PNG": (write(A_MASK, b"garbage"), ("unreadable", A_MASK)),
    "mask of another size": (write(A_MASK, png_bytes(good_mask((9, 6)))), ("wrong-size", A_MASK)),
    "symbolic link": (link(A_MAP), ("link", A_MAP)),
}
# These make more than one rule break: the count with the name, or the file with the count.
SECONDARY = {"missing-file", "wrong-count"}


@pytest.mark.parametrize("form", ["folder", "archive"])
@pytest.mark.parametrize("name", SINGLE_FAULTS)
def test_each_single_fault_is_caught_and_named(folder, form, name):
    change, expected = SINGLE_FAULTS[name]
    change(folder)
    path = folder
    if form == "archive":
        path = folder.with_name("my_method.tar.gz")
        with tarfile.open(path, "w:gz", compresslevel=1) as archive:
            archive.add(folder, "my_method")
    faults = found(path)
    assert expected in faults
    assert [fault for fault in faults if fault != expected and fault[0] not in SECONDARY] == []


def test_valid_folder_and_archive(valid):
    assert found(valid) == []
    archive = pack_folder(valid)
    assert found(archive) == []
    report = validate(archive, counts=COUNTS)
    assert report.ok
    assert report.files == 4 * sum(COUNTS.values())
    assert "valid" in list(report.lines())[-1]
    assert found(archive, contents=False) == []


def test_official_counts_are_the_default(valid):
    report = validate(valid, contents=False)
    expected = {name for name, count in IMAGES_PER_SPLIT.items() if COUNTS[name] != count}
    assert {fault.path.split("/")[-2] for fault in report.faults if fault.rule == "wrong-count"} == expected
    assert sum(IMAGES_PER_SPLIT.values()) == 2045


def test_all_faults_are_listed_in_one_pass(folder):
    names = ["missing object", "missing split", "grey values", "NaN", "extra file at the top", "extra folder"]
    for name in names:
        SINGLE_FAULTS[name][0](folder)
    assert {SINGLE_FAULTS[name][1] for name in names} <= set(found(folder))


def test_size_is_compared_with_the_original_image(folder):
    assert found(folder, image_size=lambda *_: SIZE) == []
    faults = found(folder, image_size=lambda name, split, stem: (7, 9) if stem == "000_mixed" else SIZE)
    assert len(faults) == 2 * len(COUNTS)
    assert {rule for rule, _ in faults} == {"wrong-size"}


def test_missing_masks_can_be_a_warning(folder):
    shutil.rmtree(folder / MASKS)
    assert not validate(folder, counts=COUNTS).ok
    report = validate(folder, counts=COUNTS, require_masks=False)
    assert report.ok
    assert [fault.rule for fault in report.faults] == ["missing-folder"]


def test_folder_that_is_a_link(valid, tmp_path):
    (tmp_path / "linked").symlink_to(valid)
    assert "link" in {rule for rule, _ in found(tmp_path / "linked")}


def repack(source, target, change=lambda member: member, extra=()):
    """Copy an archive, with each member changed, and members added."""
    with tarfile.open(source) as old, tarfile.open(target, "w:gz", compresslevel=1) as new:
        for member in old:
            new.addfile(change(member), old.extractfile(member) if member.isfile() else None)
        for member, content in extra:
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    return target


def renamed(old, new):
    def change(member):
        member.name = member.name.replace(old, new, 1)
        return member

    return change


@pytest.fixture(scope="module")
def archive(valid, tmp_path_factory):
    return pack_folder(valid)


def test_wrong_top_folder(archive, tmp_path):
    path = repack(archive, tmp_path / "my_method.tar.gz", renamed("my_method", "other"))
    assert found(path) == [("wrong-top-folder", "other")]


def test_archive_renamed_after_packing(archive, tmp_path):
    path = shutil.copy(archive, tmp_path / "renamed.tar.gz")
    assert found(path) == [("wrong-top-folder", "my_method")]


def test_archive_without_top_folder(archive, tmp_path):
    with tarfile.open(archive) as old, tarfile.open(tmp_path / "my_method.tar.gz", "w:gz", compresslevel=1) as new:
        for member in old:
            if member.name != "my_method":
                new.addfile(renamed("my_method/", "")(member), old.extractfile(member) if member.isfile() else None)
    assert found(tmp_path / "my_method.tar.gz") == [("wrong-top-folder", MAPS), ("wrong-top-folder", MASKS)]


def test_second_top_folder_and_file_at_the_top(archive, tmp_path):
    extra = [(tarfile.TarInfo("__MACOSX/x"), b"?"), (tarfile.TarInfo("README"), b"?")]
    path = repack(archive, tmp_path / "my_method.tar.gz", extra=extra)
    assert found(path) == [("wrong-top-folder", "__MACOSX"), ("extra-file", "README")]


def test_archive_made_with_a_leading_dot_is_fine(archive, tmp_path):
    assert found(repack(archive, tmp_path / "my_method.tar.gz", renamed("my_method", "./my_method"))) == []


@pytest.mark.parametrize(
    "name",
    [
        "../outside.tiff",
        "my_method/../../outside.tiff",
        "/etc/passwd",
        "C:/windows.tiff",
        f"my_method/{MAPS}\\can\\x.tiff",
        f"my_method//{MAPS}/can/test_private/000_regular.tiff",
        f"my_method/./{MAPS}/can/test_private/000_regular.tiff",
    ],
)
def test_path_tricks(archive, tmp_path, name):
    path = repack(archive, tmp_path / "my_method.tar.gz", extra=[(tarfile.TarInfo(name), b"?")])
    assert found(path) == [("path-trick", name.removeprefix("my_method/"))]


@pytest.mark.parametrize(
    ("kind", "rule"), [(tarfile.SYMTYPE, "link"), (tarfile.LNKTYPE, "link"), (tarfile.FIFOTYPE, "special")]
)
def test_links_and_special_files_in_an_archive(archive, tmp_path, kind, rule):
    def change(member):
        if member.name.endswith(A_MAP):
            member.type, member.linkname, member.size = kind, "/etc/passwd", 0
        return member

    faults = found(repack(archive, tmp_path / "my_method.tar.gz", change))
    assert [fault for fault in faults if fault[0] not in SECONDARY] == [(rule, A_MAP)]


def test_symbolic_link_as_top_folder(tmp_path):
    member = tarfile.TarInfo("my_method")
    member.type, member.linkname = tarfile.SYMTYPE, "/"
    with tarfile.open(tmp_path / "my_method.tar.gz", "w:gz") as new:
        new.addfile(member)
    assert ("link", "my_method") in found(tmp_path / "my_method.tar.gz")


def test_path_stored_twice(archive, tmp_path):
    again = (tarfile.TarInfo(f"my_method/{A_MAP}"), tiff_bytes(good_map()))
    faults = found(repack(archive, tmp_path / "my_method.tar.gz", extra=[again]))
    assert ("duplicate", A_MAP) in faults


@pytest.mark.parametrize("keep", [0.01, 0.3, 0.9, 0.9999])
def test_truncated_archive(archive, tmp_path, keep):
    content = archive.read_bytes()
    path = tmp_path / "my_method.tar.gz"
    path.write_bytes(content[: int(len(content) * keep)])
    assert found(path)[0][0] == "truncated"


def test_archive_cut_between_members_of_the_tar(archive, tmp_path):
    """The checksum of gzip alone tells, where the tar ends at a block's border."""
    path = tmp_path / "my_method.tar.gz"
    path.write_bytes(gzip.compress(gzip.decompress(archive.read_bytes()), 1)[:-8])
    assert found(path)[0][0] == "truncated"


def test_damaged_byte_in_the_archive(archive, tmp_path):
    content = bytearray(archive.read_bytes())
    content[-6] ^= 0xFF  # in the checksum
    path = tmp_path / "my_method.tar.gz"
    path.write_bytes(content)
    assert [rule for rule, _ in found(path)] == ["truncated"]


def tar_bytes(*members, **options):
    """An unpacked tar of (name or member, content) pairs."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", **options) as archive:
        for name, content in members:
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def header(name, kind, size):
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


def sparse(pax_headers):
    member = tarfile.TarInfo(f"my_method/{A_MAP}")
    member.pax_headers = pax_headers
    return member


A_FILE = tar_bytes((f"my_method/{A_MAP}", tiff_bytes(good_map())))
END = A_FILE.rindex(b"II*") // 512 * 512 + 512
HOSTILE = {
    "a second tar in the same record": A_FILE[:END] + bytes(1024) + tar_bytes(("my_method/evil", b"?")),
    "a second tar behind the padding": A_FILE + bytes(1 << 20) + tar_bytes(("my_method/evil", b"?")),
    "no end marker": A_FILE[:END],
    "a damaged header at the end": A_FILE[:END] + b"x" * 512 + bytes(1024),
    "a sparse map that is none": tar_bytes((sparse({"GNU.sparse.map": "a,b"}), b"x"), format=tarfile.PAX_FORMAT),
    "a sparse version that is none": tar_bytes(
        (sparse({"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}), b"x" * 600), format=tarfile.PAX_FORMAT
    ),
    "a negative size": tar_bytes((sparse({"size": "-512"}), b"x"), format=tarfile.PAX_FORMAT),
    "a size that is none": tar_bytes((sparse({"GNU.sparse.size": "x"}), b"x"), format=tarfile.PAX_FORMAT),
    "a thousand headers for one file": header("x", tarfile.GNUTYPE_LONGNAME, 0) * 2000 + A_FILE,
    "a name of gigabytes": header("x", tarfile.GNUTYPE_LONGNAME, 1 << 32) + A_FILE,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_archives_that_make_readers_stumble(tmp_path, name):
    path = tmp_path / "my_method.tar.gz"
    path.write_bytes(gzip.compress(HOSTILE[name], 1))
    assert "truncated" in {rule for rule, _ in found(path)}
    path.write_bytes(gzip.compress(A_FILE, 1))
    assert "truncated" not in {rule for rule, _ in found(path)}


def test_a_second_archive_behind_the_first(archive, tmp_path):
    path = tmp_path / "my_method.tar.gz"
    path.write_bytes(archive.read_bytes() * 2)
    assert [rule for rule, _ in found(path)] == ["truncated"]


def test_sparse_members_are_no_plain_files(tmp_path):
    """A few bytes that unpack to a gigabyte of zeros."""
    member = sparse({"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 30)})
    path = tmp_path / "my_method.tar.gz"
    path.write_bytes(gzip.compress(tar_bytes((member, b"x"), format=tarfile.PAX_FORMAT)))
    assert ("special", A_MAP) in found(path)


def test_an_archive_of_very_many_entries_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(entries, "MAX_ENTRIES", 10)
    path = tmp_path / "my_method.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for number in range(11):
            archive.addfile(tarfile.TarInfo(f"my_method/{number}"))
    assert ("truncated", str(path)) in found(path)


def test_names_that_are_no_text_are_shown_in_one_line(folder, tmp_path):
    (folder / MAPS / "can" / "test_private").joinpath("a\n\x1b[31m").touch()
    (folder / os.fsdecode(b"\xff")).touch()
    report = validate(folder, counts=COUNTS)
    lines = list(report.lines())
    assert [line.split("my_method/")[1] for line in lines[:-1]] == [
        f"{MAPS}/can/test_private/a\\n\\x1b[31m: superfluous file: only .tiff files may lie here [extra-file]",
        "\\udcff: superfluous file: nothing may lie here [extra-file]",
    ]
    assert all(line.isprintable() for line in lines)
    path = folder.with_name("my_method.tar.gz")
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        archive.add(folder, "my_method")
    assert [rule for rule, _ in found(path)] == ["path-trick", "path-trick"]


def test_other_formats(tmp_path):
    path = tmp_path / "my_method.zip"
    path.write_bytes(b"PK\3\4")
    assert [rule for rule, _ in found(path)] == ["wrong-format"]
    with pytest.raises(FileNotFoundError, match="no submission"):
        validate(tmp_path / "nowhere")
