"""A validator of Kaputt 2 submissions, written from the format's rules: every fault in one pass, and an end to every zip."""

import csv
import os
import re
import stat
import struct
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, cast

from anoclip_anomalib.submission.entries import DAMAGED_ARCHIVE, unsafe_name
from anoclip_anomalib.submission.faults import Report
from anoclip_anomalib.submission.kaputt2.write import HEADER

MAX_ROWS = 1_000_000
"""Many times the challenge's queries; a zip of a hundred kilobytes can hold many millions."""

MAX_CSV_BYTES = 1 << 27
MAX_LINE_BYTES = 1 << 12

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
"""What every reader takes for the same number; Python's ``float`` also knows other scripts' digits, ``1_0`` and blanks."""


def validate_zip(path: str | Path, expected: Iterable[str] | None = None) -> Report:
    """Check a submission; every fault is listed. The CSV is read as a stream.

    Args:
        path: The zip.
        expected: The ids of ``query-test.parquet``; without them coverage cannot be checked, which is a warning.

    Raises:
        FileNotFoundError: If there is nothing at ``path``.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no submission at {path}")
    report = Report(str(path))
    expected = None if expected is None else frozenset(expected)
    try:
        with zipfile.ZipFile(path) as archive:
            member = _only_csv(archive, report)
            _check_outside(archive, report)
            if member is not None:
                with archive.open(member) as stream:
                    while stream.read(1 << 20):  # to the checksum at its end
                        pass
                with archive.open(member) as stream:
                    _check_rows(stream, f"{path}/{member.filename}", report, expected)
    except _EndOfCheckError as error:
        report.add(*error.args)
    except (*DAMAGED_ARCHIVE, zipfile.BadZipFile, struct.error) as error:
        report.add("truncated", str(path), f"not a readable zip archive ({error})")
    return report


def _only_csv(archive: zipfile.ZipFile, report: Report) -> zipfile.ZipInfo | None:
    found = None
    for report.files, info in enumerate(archive.infolist(), start=1):
        shown = f"{report.path}/{info.orig_filename}"
        if reason := unsafe_name(info.orig_filename):
            report.add("path-trick", shown, reason)
        elif "/" in info.filename:
            report.add("wrong-place", shown, "the zip holds one CSV at its root, no folders")
        elif stat.S_ISLNK(info.external_attr >> 16):
            report.add("link", shown, "a symbolic link; the CSV itself must lie in the zip")
        elif not info.filename.lower().endswith(".csv"):
            report.add("extra-file", shown, "superfluous file: the zip holds one CSV and nothing else")
        elif found is not None:
            report.add("extra-file", shown, f"a second CSV, beside {found.filename}")
        else:
            found = info
    if found is None:
        report.add("missing-file", report.path, "there is no CSV at the root of the zip")
    elif found.file_size > MAX_CSV_BYTES:
        report.add("implausible-size", f"{report.path}/{found.filename}", f"{found.file_size} bytes")
    elif found.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        report.add("wrong-format", f"{report.path}/{found.filename}", "stored by a rare method; use deflate, as zip does")
    else:
        return found
    return None


def _check_outside(archive: zipfile.ZipFile, report: Report) -> None:
    """The zip must be all of the file: readers pass over what lies before, between and behind its parts."""
    file = cast(IO[bytes], archive.fp)
    position, gaps, clean = 0, {0}, True
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
        clean &= info.header_offset - position in gaps
        file.seek(info.header_offset)
        name, extra = struct.unpack("<26xHH", file.read(30))
        position = info.header_offset + 30 + name + extra + info.compress_size
        # Sizes that were not known when the header was written follow the data, in one of four forms.
        gaps = {12, 16, 20, 24} if info.flag_bits & 8 else {0}
    clean &= archive.start_dir - position in gaps
    file.seek(-22, os.SEEK_END)
    if not clean or file.read(4) != b"PK\5\6":
        report.add("extra-bytes", report.path, "bytes before, between or behind the parts of the zip; pack it anew")


class _EndOfCheckError(Exception):
    """What makes further lines meaningless, (rule, path, message)."""


def _check_rows(stream: IO[bytes], shown: str, report: Report, expected: frozenset[str] | None) -> None:
    """Check the CSV line by line; no field may span several."""
    seen: dict[str, int] = {}
    number = 0
    for number, here, text in _lines(stream, shown):
        if number == 1 and text.startswith("\ufeff"):
            report.add("wrong-header", here, "the file begins with a byte order mark; write plain UTF-8")
            text = text[1:]
        try:
            row = next(csv.reader([text], strict=True), [])
        except csv.Error as error:
            report.add("unreadable", here, f"not a readable line of a CSV ({error})")
            continue
        if number == 1:
            if row != HEADER:
                report.add("wrong-header", here, f"the header must be exactly capture_id,pred; it is {','.join(row)}")
        elif len(row) != 2:
            report.add("wrong-columns", here, f"two columns are expected, {len(row)} found")
        else:
            _check_row(row, here, report, expected, seen.get(row[0]))
            seen.setdefault(row[0], number)
    if number == 0:
        report.add("wrong-header", shown, "the header must be exactly capture_id,pred; the file is empty")
    if number < 2:
        report.add("wrong-count", shown, "there are no predictions")
    if expected is None:
        report.add("ids-unchecked", shown, "give query-test.parquet to check that all ids are there", is_error=False)
    for capture_id in sorted((expected or frozenset()) - seen.keys()):
        report.add("missing-id", shown, f"capture_id {capture_id} has no prediction")


def _lines(stream: IO[bytes], shown: str) -> Iterator[tuple[int, str, str]]:
    """Number, place and text of each line."""
    for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE_BYTES + 1), b""), start=1):
        here = f"{shown}:{number}"
        if number > MAX_ROWS + 1:
            raise _EndOfCheckError("implausible-size", here, f"more than {MAX_ROWS} rows")
        if b"\r" in line.removesuffix(b"\r\n"):
            raise _EndOfCheckError("wrong-line-ends", here, "a carriage return that does not end the line; lines end with \\n")
        if len(line) > MAX_LINE_BYTES:
            raise _EndOfCheckError("implausible-size", here, f"a line of more than {MAX_LINE_BYTES} bytes")
        try:
            yield number, here, line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _EndOfCheckError("wrong-encoding", here, f"the CSV is not UTF-8 ({error})") from error


def _check_row(row: list[str], here: str, report: Report, expected: frozenset[str] | None, before: int | None) -> None:
    capture_id, value = row
    if not capture_id.strip():
        report.add("empty-id", here, "the capture_id is empty")
    elif not capture_id.isprintable():
        report.add("unknown-id", here, f"capture_id {capture_id} holds control characters")
    elif before is not None:
        report.add("duplicate", here, f"capture_id {capture_id} is in line {before} already")
    elif expected is not None and capture_id not in expected:
        report.add("unknown-id", here, f"capture_id {capture_id} is not in query-test.parquet")
    if not _NUMBER.fullmatch(value):
        report.add("not-a-number", here, f"pred '{value}' is no plain decimal number")
    elif not 0.0 <= float(value) <= 1.0:
        report.add("out-of-range", here, f"pred {value} is not in [0, 1]")
