import io
import json
import time
import zipfile

import numpy as np
import pandas as pd
import pytest

from anoclip_anomalib.cli.submit import main
from anoclip_anomalib.submission.faults import MAX_FAULTS
from anoclip_anomalib.submission.kaputt2 import validate as kaputt2_validate
from anoclip_anomalib.submission.kaputt2.validate import validate_zip
from anoclip_anomalib.submission.kaputt2.write import read_capture_ids, to_unit_interval, write_zip

from ..ad2_files import png_bytes

IDS = [f"capture-{number:02d}" for number in range(6)]
GOOD = "capture_id,pred\n" + "".join(f"{name},0.{number}\n" for number, name in enumerate(IDS))


def zipped(path, files, **kwargs):
    with zipfile.ZipFile(path, "w", **kwargs) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def rules(path, expected=IDS):
    return [fault.rule for fault in validate_zip(path, expected).faults]


def test_written_zip_is_valid_and_keeps_every_digit(tmp_path):
    scores = {name: 0.5 + 1e-9 * number for number, name in enumerate(reversed(IDS))}
    path = write_zip(tmp_path / "x.zip", scores, IDS)
    assert rules(path) == []
    with zipfile.ZipFile(path) as archive:
        assert len(archive.namelist()) == 1
        lines = archive.read(archive.namelist()[0]).decode().splitlines()
    assert lines[0] == "capture_id,pred"
    assert [line.split(",")[0] for line in lines[1:]] == IDS
    assert {line.split(",")[0]: float(line.split(",")[1]) for line in lines[1:]} == scores
    assert path.read_bytes() == write_zip(tmp_path / "y.zip", scores, IDS).read_bytes()


FAULTS = {
    "wrong-header": {"p.csv": GOOD.replace("capture_id,pred", "id,pred")},
    "missing-id": {"p.csv": GOOD.replace(f"{IDS[2]},0.2\n", "")},
    "unknown-id": {"p.csv": GOOD + "capture-99,0.1\n"},
    "duplicate": {"p.csv": GOOD + f"{IDS[0]},0.1\n"},
    "not-a-number": {"p.csv": GOOD.replace("0.3", "high")},
    "out-of-range": {"p.csv": GOOD.replace("0.3", "1.3")},
    "wrong-columns": {"p.csv": GOOD + "capture-00,0.1,0.2\n"},
    "empty-id": {"p.csv": GOOD + ",0.1\n"},
    "extra-file": {"p.csv": GOOD, "notes.txt": "?"},
    "missing-file": {},
    "wrong-encoding": {"p.csv": GOOD.encode("utf-16")},
    "path-trick": {"p.csv": GOOD, "../evil": "?"},
}


@pytest.mark.parametrize("rule", FAULTS)
def test_each_single_fault_is_caught_and_named(tmp_path, rule):
    assert rules(zipped(tmp_path / "x.zip", FAULTS[rule])) == [rule]


@pytest.mark.parametrize("value", ["nan", "inf", "-0.1", ""])
def test_values_outside_the_interval(tmp_path, value):
    assert set(rules(zipped(tmp_path / "x.zip", {"p.csv": GOOD.replace("0.3", value)}))) <= {"out-of-range", "not-a-number"}
    assert rules(tmp_path / "x.zip")


@pytest.mark.parametrize(
    "value", ["\u0663", "0.\u0661", "0.1_2", "\t0.3", " 0.3", "0.3 ", "0,3", "0x1", "1e", ".", "\uff10", "True", "\0"]
)
def test_numbers_that_only_some_readers_take(tmp_path, value):
    path = zipped(tmp_path / "x.zip", {"p.csv": GOOD.replace("0.3", f'"{value}"')})
    assert rules(path) == ["not-a-number"]


@pytest.mark.parametrize("value", ["1", "0", "1.", ".5", "+0.5", "5e-1", "1E-400", "0e999999", "-0.0", "0." + "3" * 1000])
def test_numbers_in_every_plain_form(tmp_path, value):
    assert rules(zipped(tmp_path / "x.zip", {"p.csv": GOOD.replace("0.3", value)})) == []


def test_line_ends(tmp_path):
    assert rules(zipped(tmp_path / "a.zip", {"p.csv": GOOD.replace("\n", "\r\n")})) == []
    assert rules(zipped(tmp_path / "b.zip", {"p.csv": GOOD.rstrip()})) == []
    assert rules(zipped(tmp_path / "c.zip", {"p.csv": GOOD.replace("\n", "\r")})) == ["wrong-line-ends"]
    assert rules(zipped(tmp_path / "d.zip", {"p.csv": GOOD.rstrip() + "\r"})) == ["wrong-line-ends"]
    spanning = GOOD.replace(IDS[0], f'"{IDS[0]}\n"')
    assert "unreadable" in rules(zipped(tmp_path / "e.zip", {"p.csv": spanning}))


@pytest.mark.parametrize(
    "name", ["pred\n.csv", "C:evil.csv", "C:\\evil.csv", "/p.csv", "../p.csv", "p\x1b[2J.csv", "\u202evsc.p.csv"]
)
def test_names_of_members_that_are_tricks(tmp_path, name):
    path = zipped(tmp_path / "x.zip", {name: GOOD})
    assert rules(path) == ["path-trick", "missing-file"]
    assert all(line.isprintable() for line in validate_zip(path).lines())
    assert rules(zipped(tmp_path / "y.zip", {"p.csv": GOOD, name: GOOD})) == ["path-trick"]


def test_name_that_ends_early_and_link(tmp_path):
    path = zipped(tmp_path / "x.zip", {"p.csv_.exe": GOOD})
    path.write_bytes(path.read_bytes().replace(b"p.csv_.exe", b"p.csv\0.exe"))
    assert rules(path) == ["path-trick", "missing-file"]
    link = zipfile.ZipInfo("p.csv")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "y.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert rules(tmp_path / "y.zip") == ["link", "missing-file"]


def test_damaged_name_is_a_fault(tmp_path, capsys):
    path = zipped(tmp_path / "x.zip", {"\u00e9.csv": GOOD})
    path.write_bytes(path.read_bytes().replace("\u00e9".encode(), b"\xff\xff"))
    assert rules(path) == ["truncated"]
    assert main(["kaputt2", "--validate", str(path)]) == 1
    assert "not a readable zip archive" in capsys.readouterr().out


def behind(content):
    return content + b"more"


def comment(content):
    return content[:-2] + b"\4\0more"


def before(content):
    return b"more" + content


def between(content):
    directory = content.index(b"PK\1\2")
    return content[:directory] + b"more" + content[directory:]


def within(content):
    """Between data and directory, with the directory's place put right."""
    directory = content.index(b"PK\1\2")
    end = bytearray(content[-22:])
    end[16:20] = (directory + 4).to_bytes(4, "little")
    return content[:directory] + b"more" + content[directory:-22] + bytes(end)


@pytest.mark.parametrize("change", [behind, comment, before, between, within])
def test_bytes_around_the_zip(tmp_path, change):
    path = zipped(tmp_path / "x.zip", {"p.csv": GOOD})
    assert rules(path) == []
    path.write_bytes(change(path.read_bytes()))
    assert rules(path)[0] == "extra-bytes"


def test_zips_of_other_programs_are_valid(tmp_path):
    """With sizes behind the data, as programs write that do not know them before, and with zip64 fields."""

    class Pipe(io.RawIOBase):
        def __init__(self):
            self.content = b""

        def writable(self):
            return True

        def write(self, data):
            self.content += bytes(data)
            return len(data)

    for force in (False, True):
        pipe = Pipe()
        with (
            zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("p.csv", "w", force_zip64=force) as stream,
        ):
            stream.write(GOOD.encode())
        (tmp_path / "x.zip").write_bytes(pipe.content)
        assert rules(tmp_path / "x.zip") == []


def test_rare_compression_is_refused(tmp_path):
    assert rules(zipped(tmp_path / "x.zip", {"p.csv": GOOD}, compression=zipfile.ZIP_LZMA)) == ["wrong-format"]


@pytest.mark.parametrize("line", ["\n", ",\n", "x,2\n"])
def test_millions_of_rows_in_a_small_zip_end_soon(tmp_path, line, monkeypatch):
    monkeypatch.setattr(kaputt2_validate, "MAX_ROWS", 20_000)
    text = "capture_id,pred\n" + line * (30_000_000 // len(line))
    path = zipped(tmp_path / "x.zip", {"p.csv": text}, compression=zipfile.ZIP_DEFLATED)
    begun = time.monotonic()
    report = validate_zip(path, IDS)
    assert time.monotonic() - begun < 5
    assert report.faults[-1].rule == "implausible-size"
    assert len(report.faults) <= 3 * MAX_FAULTS + 1
    assert sum(report.found.values()) >= 20_000


def test_a_bomb_is_not_unpacked(tmp_path):
    bomb = zipped(tmp_path / "x.zip", {"p.csv": b"0" * (kaputt2_validate.MAX_CSV_BYTES + 1)}, compression=zipfile.ZIP_DEFLATED)
    assert rules(bomb) == ["implausible-size"]
    line = zipped(tmp_path / "y.zip", {"p.csv": GOOD + "x" * 1_000_000}, compression=zipfile.ZIP_DEFLATED)
    assert rules(line) == ["implausible-size"]


def test_csv_in_a_folder_two_csvs_and_byte_order_mark(tmp_path):
    assert rules(zipped(tmp_path / "a.zip", {"sub/p.csv": GOOD})) == ["wrong-place", "missing-file"]
    assert rules(zipped(tmp_path / "b.zip", {"p.csv": GOOD, "q.csv": GOOD})) == ["extra-file"]
    assert rules(zipped(tmp_path / "c.zip", {"p.csv": "\ufeff" + GOOD})) == ["wrong-header"]


def test_truncated_and_damaged(tmp_path):
    path = zipped(tmp_path / "x.zip", {"p.csv": GOOD})
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert rules(path) == ["truncated"]
    damaged = bytearray(content)
    damaged[60] ^= 0xFF  # in the stored CSV: the checksum no longer fits
    path.write_bytes(damaged)
    assert rules(path) == ["truncated"]
    with pytest.raises(FileNotFoundError):
        validate_zip(tmp_path / "nowhere.zip")


def test_all_faults_in_one_pass_with_their_lines(tmp_path):
    text = GOOD.replace("0.3", "x").replace("0.4", "7") + "capture-99,0.1\n"
    faults = validate_zip(zipped(tmp_path / "x.zip", {"p.csv": text}), IDS).faults
    assert [(fault.rule, fault.path.rsplit(":")[-1]) for fault in faults] == [
        ("not-a-number", "5"),
        ("out-of-range", "6"),
        ("unknown-id", "8"),
    ]


def test_without_ids_coverage_is_a_warning(tmp_path):
    report = validate_zip(zipped(tmp_path / "x.zip", {"p.csv": GOOD}))
    assert report.ok
    assert [fault.rule for fault in report.faults] == ["ids-unchecked"]


def test_scores_are_stretched_only_if_they_must_be():
    assert to_unit_interval({"a": 0.2, "b": 0.4}) == {"a": 0.2, "b": 0.4}
    assert to_unit_interval({"a": -1.0, "b": 0.0, "c": 3.0}) == {"a": 0.0, "b": 0.25, "c": 1.0}
    assert to_unit_interval({"a": 5.0, "b": 5.0}) == {"a": 0.5, "b": 0.5}
    with pytest.raises(ValueError, match="score of b is nan"):
        to_unit_interval({"a": 0.1, "b": float("nan")})


def test_writer_refuses_what_the_leaderboard_would(tmp_path):
    scores = dict.fromkeys(IDS, 0.5)
    with pytest.raises(ValueError, match="1 capture_ids have no score"):
        write_zip(tmp_path / "x.zip", {key: scores[key] for key in IDS[1:]}, IDS)
    with pytest.raises(ValueError, match="1 are unknown"):
        write_zip(tmp_path / "x.zip", {**scores, "other": 0.1}, IDS)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        write_zip(tmp_path / "x.zip", {**scores, IDS[3]: 1.5}, IDS)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def dataset(tmp_path):
    """Kaputt 2's layout: a table of queries without labels, images of different sizes beside it."""
    pytest.importorskip("pyarrow")
    root = tmp_path / "kaputt2"
    random = np.random.default_rng(0)
    rows = []
    for number, name in enumerate(IDS):
        row = {"capture_id": name}
        for kind in ("image", "crop"):
            path = f"query-{kind}/data/test/{name}.png"
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            image = random.integers(20 * number, 20 * number + 20, (30 + number, 40, 3), dtype=np.uint8)
            (root / path).write_bytes(png_bytes(image))
            row[f"query_{kind}"] = path
        rows.append(row)
    pd.DataFrame(rows).to_parquet(root / "query-test.parquet")
    return root


def submit(dataset, out, *options):
    return main(
        [
            "kaputt2",
            *["--model", "tests.submission.fake_model.Brightness", "--data.root", str(dataset), "--out", str(out)],
            *["--data.num_workers", "0", "--data.eval_batch_size", "4", "--name", "mine", *options],
        ]
    )


def test_command_predicts_writes_and_validates(dataset, tmp_path, capsys):
    assert submit(dataset, tmp_path) == 0
    assert read_capture_ids(dataset / "query-test.parquet") == IDS
    with zipfile.ZipFile(tmp_path / "mine.zip") as archive:
        table = pd.read_csv(archive.open("predictions.csv"))
    assert list(table["capture_id"]) == IDS
    assert list(table["pred"]) == sorted(table["pred"])  # they get brighter
    assert table["pred"].between(0.48, 0.52).all()  # raw scores, not anomalib's normalised ones
    provenance = json.loads((tmp_path / "mine.provenance.json").read_text())
    assert provenance["leaderboard"] == "Kaputt 2"
    assert len(provenance["weights_digest"]) == 64
    assert not (tmp_path / "mine.work").exists()
    assert main(["kaputt2", "--validate", str(tmp_path / "mine.zip"), "--data.root", str(dataset)]) == 0
    assert "valid" in capsys.readouterr().out
    zipped(tmp_path / "bad.zip", {"p.csv": "capture_id,pred\n"})
    assert main(["kaputt2", "--validate", str(tmp_path / "bad.zip"), "--data.root", str(dataset)]) == 1


def test_captures_that_share_a_file_share_its_score(dataset, tmp_path):
    table = pd.read_parquet(dataset / "query-test.parquet")
    for column in ("query_image", "query_crop"):
        table.loc[1, column] = table.loc[0, column]
    table.to_parquet(dataset / "query-test.parquet")
    assert submit(dataset, tmp_path) == 0
    with zipfile.ZipFile(tmp_path / "mine.zip") as archive:
        found = pd.read_csv(archive.open("predictions.csv")).set_index("capture_id")["pred"]
    assert list(found.index) == IDS
    assert found[IDS[0]] == found[IDS[1]] < found[IDS[2]]


def test_interrupted_command_goes_on(dataset, tmp_path, capsys):
    assert submit(dataset, tmp_path, "--model.fail_on", "capture-05") == 2
    work = tmp_path / "mine.work"
    kept = (work / "scores.jsonl").read_text()
    assert len(kept.splitlines()) == 4
    assert submit(dataset, tmp_path) == 2  # other settings
    assert "begun with another configuration" in capsys.readouterr().err
    settings = json.loads((work / "settings.json").read_text())
    settings["configuration"]["model"]["init_args"]["fail_on"] = None
    (work / "settings.json").write_text(json.dumps(settings))
    other = '["capture-99", 0.5]\n'  # of another table of queries
    (work / "scores.jsonl").write_text(other + kept + '["capture-04", 0.')  # cut off in the middle of a line
    assert submit(dataset, tmp_path) == 0
    assert rules(tmp_path / "mine.zip") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "query-crop/data/test/capture-03.png").unlink(), "1 of 6 query images are missing"),
        (lambda root: (root / "query-test.parquet").unlink(), "There is no query-test.parquet"),
        (
            lambda root: pd.DataFrame({"capture_id": ["a"], "query_crop": ["../../etc/passwd"]}).to_parquet(
                root / "query-test.parquet"
            ),
            "leads out of",
        ),
        (
            lambda root: pd.DataFrame({"capture_id": ["a", "a"]}).to_parquet(root / "query-test.parquet"),
            "holds 1 capture_ids twice",
        ),
    ],
)
def test_bad_input(dataset, tmp_path, capsys, change, message):
    change(dataset)
    assert submit(dataset, tmp_path) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "mine.zip").exists()


def test_everybody_may_read_the_unpacked_csv(tmp_path):
    with zipfile.ZipFile(write_zip(tmp_path / "x.zip", {"a": 0.5}, ["a"])) as archive:
        assert archive.getinfo("predictions.csv").external_attr >> 16 == 0o644
