import json
import zipfile

import numpy as np
import pandas as pd
import pytest

from anoclip_anomalib.cli.submit import main
from anoclip_anomalib.submission.kaputt2 import read_capture_ids, to_unit_interval, validate_zip, write_zip

from .ad2_files import png_bytes

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
    (work / "scores.jsonl").write_text(kept + '["capture-04", 0.')  # cut off in the middle of a line
    assert submit(dataset, tmp_path) == 0
    assert rules(tmp_path / "mine.zip") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "query-crop/data/test/capture-03.png").unlink(), "1 of 6 query images are missing"),
        (lambda root: (root / "query-test.parquet").unlink(), "there is no query-test.parquet"),
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
