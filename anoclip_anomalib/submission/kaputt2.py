"""Kaputt 2 (Codabench): a zip with one CSV, ``capture_id,pred``; the writer and the validator."""

import csv
import io
import math
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from anoclip_anomalib.files import atomic_write
from anoclip_anomalib.submission.faults import Report

HEADER = ["capture_id", "pred"]
CSV_NAME = "predictions.csv"
MAX_CSV_BYTES = 1 << 30


def read_capture_ids(path: str | Path) -> list[str]:
    """The ids that must be predicted, from ``query-test.parquet`` (or a CSV with a column ``capture_id``).

    Raises:
        ValueError: If the column is missing, or an id is missing or appears twice.
        ImportError: If pyarrow, which reads parquet files, is not installed.
    """
    import pandas as pd

    path = Path(path)
    table = pd.read_csv(path, dtype=str) if path.suffix == ".csv" else pd.read_parquet(path)
    if "capture_id" not in table.columns:
        raise ValueError(f"{path} has no column capture_id; it has {', '.join(map(str, table.columns))}")
    if table["capture_id"].isna().any():
        raise ValueError(f"{path} has rows without a capture_id")
    ids = [str(value) for value in table["capture_id"]]
    if len(set(ids)) != len(ids):
        raise ValueError(f"{path} holds {len(ids) - len(set(ids))} capture_ids twice")
    return ids


def to_unit_interval(scores: Mapping[str, float]) -> dict[str, float]:
    """Scores as the leaderboard wants them, in [0, 1]: unchanged if they are, else stretched linearly between their extremes.

    Ranks, which all of the leaderboard's metrics are about, are kept.

    Raises:
        ValueError: If a score is not finite; the id is named.
    """
    for capture_id, score in scores.items():
        if not math.isfinite(score):
            raise ValueError(f"the score of {capture_id} is {score}")
    low, high = min(scores.values(), default=0.0), max(scores.values(), default=1.0)
    if low >= 0.0 and high <= 1.0:
        return dict(scores)
    if low == high:
        return dict.fromkeys(scores, 0.5)
    return {capture_id: min(1.0, max(0.0, (score - low) / (high - low))) for capture_id, score in scores.items()}


def write_zip(path: str | Path, scores: Mapping[str, float], expected: Iterable[str]) -> Path:
    """Write a submission: the rows in the order of ``expected``, the same bytes for the same scores.

    Args:
        path: The zip.
        scores: One in [0, 1] for every expected id, see ``to_unit_interval``.
        expected: The ids of ``query-test.parquet``.

    Raises:
        ValueError: If ids are missing or unknown, or a score lies outside [0, 1].
    """
    expected = list(expected)
    missing, unknown = [key for key in expected if key not in scores], sorted(set(scores) - set(expected))
    if missing or unknown:
        raise ValueError(f"{len(missing)} capture_ids have no score {missing[:3]}, {len(unknown)} are unknown {unknown[:3]}")
    outside = [key for key in expected if not 0.0 <= scores[key] <= 1.0]
    if outside:
        raise ValueError(f"scores must lie in [0, 1]; {outside[0]} has {scores[outside[0]]}")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    # repr keeps all digits: scores of one object may differ in the sixth decimal alone.
    writer.writerows([key, repr(float(scores[key]))] for key in expected)
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        member = zipfile.ZipInfo(CSV_NAME, date_time=(1980, 1, 1, 0, 0, 0))
        member.compress_type = zipfile.ZIP_DEFLATED
        member.external_attr = 0o644 << 16
        archive.writestr(member, text.getvalue().encode("utf-8"))
    return Path(path)


def validate_zip(path: str | Path, expected: Iterable[str] | None = None) -> Report:
    """Check a submission; every fault is listed.

    Args:
        path: The zip.
        expected: The ids of ``query-test.parquet``; without them coverage cannot be checked, which is a warning.

    Raises:
        FileNotFoundError: If there is nothing at ``path``.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no submission at {path}")
    report = Report(str(path))
    try:
        with zipfile.ZipFile(path) as archive:
            content = _only_csv(archive, report)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        report.add("truncated", str(path), f"not a readable zip archive ({error})")
        return report
    if content is None:
        return report
    name, data = content
    shown = f"{path}/{name}"
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        report.add("wrong-encoding", shown, f"the CSV is not UTF-8 ({error})")
        return report
    _check_rows(text, shown, report, None if expected is None else set(expected))
    return report


def _only_csv(archive: zipfile.ZipFile, report: Report) -> tuple[str, bytes] | None:
    infos = archive.infolist()
    report.files = len(infos)
    found = None
    for info in infos:
        shown = f"{report.path}/{info.filename}"
        if info.filename.startswith("/") or ".." in info.filename.split("/") or "\\" in info.filename:
            report.add("path-trick", shown, "the path leads out of the folder")
        elif "/" in info.filename:
            report.add("wrong-place", shown, "the zip holds one CSV at its root, no folders")
        elif not info.filename.lower().endswith(".csv"):
            report.add("extra-file", shown, "superfluous file: the zip holds one CSV and nothing else")
        elif found is not None:
            report.add("extra-file", shown, f"a second CSV, beside {found.filename}")
        else:
            found = info
    if found is None:
        report.add("missing-file", report.path, "there is no CSV at the root of the zip")
        return None
    if found.file_size > MAX_CSV_BYTES:
        report.add("implausible-size", f"{report.path}/{found.filename}", f"{found.file_size} bytes")
        return None
    return found.filename, archive.read(found)


def _check_rows(text: str, shown: str, report: Report, expected: set[str] | None) -> None:
    if text.startswith("\ufeff"):
        report.add("wrong-header", shown, "the file begins with a byte order mark; write plain UTF-8")
        text = text[1:]
    try:
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except csv.Error as error:
        report.add("unreadable", shown, f"not a readable CSV ({error})")
        return
    if not rows or rows[0] != HEADER:
        found = ",".join(rows[0]) if rows else "nothing"
        report.add("wrong-header", shown, f"the header must be exactly capture_id,pred; it is {found}")
    seen: dict[str, int] = {}
    for line, row in enumerate(rows[1:], start=2):
        here = f"{shown}:{line}"
        if len(row) != 2:
            report.add("wrong-columns", here, f"two columns are expected, {len(row)} found")
            continue
        capture_id, value = row
        if not capture_id.strip():
            report.add("empty-id", here, "the capture_id is empty")
        elif capture_id in seen:
            report.add("duplicate", here, f"capture_id {capture_id} is in line {seen[capture_id]} already")
        elif expected is not None and capture_id not in expected:
            report.add("unknown-id", here, f"capture_id {capture_id} is not in query-test.parquet")
        seen.setdefault(capture_id, line)
        try:
            score = float(value)
        except ValueError:
            report.add("not-a-number", here, f"pred '{value}' is no number")
            continue
        if not 0.0 <= score <= 1.0:
            report.add("out-of-range", here, f"pred {value} is not in [0, 1]")
    if len(rows) < 2:
        report.add("wrong-count", shown, "there are no predictions")
    if expected is None:
        report.add("ids-unchecked", shown, "give query-test.parquet to check that all ids are there", is_error=False)
        return
    for capture_id in sorted(expected - set(seen)):
        report.add("missing-id", shown, f"capture_id {capture_id} has no prediction")
