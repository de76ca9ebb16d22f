"""``results.csv``: a line for every photograph, written as the run goes; ranks come when it ends."""

import csv
import io
import json
import os
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

from anoclip_anomalib.evaluation.output_names import path_cell
from anoclip_anomalib.files import atomic_write, printable

COLUMNS = ("path", "score", "rank", "z", "verdict", "threshold", "picture", "regions", "fault")
REGIONS = 100
"""So many of a photograph's regions are written, those with the highest peaks."""
Row = dict[str, str]
_HEADER = dict(zip(COLUMNS, COLUMNS, strict=True))


def row_of(path: str, inspection: Any, picture: str = "") -> Row:
    """An :class:`anoclip_anomalib.inspection.inspection.Inspection` as a line of the file.

    Args:
        path: As the user wrote it.
        inspection: The result.
        picture: Of the result, relative to the results folder.
    """
    if inspection.fault:
        return fault_row(path, inspection.fault)
    return dict.fromkeys(COLUMNS, "") | {
        "path": path_cell(path),
        "score": repr(float(inspection.score)),
        "verdict": inspection.verdict,
        "threshold": "" if inspection.threshold is None else repr(float(inspection.threshold)),
        "picture": picture,
        "regions": json.dumps([region.as_dict() for region in inspection.regions[:REGIONS]], separators=(",", ":")),
    }


def fault_row(path: str, fault: str) -> Row:
    """The line of a photograph that was not inspected."""
    return dict.fromkeys(COLUMNS, "") | {"path": path_cell(path), "fault": printable(fault)}


class Results:
    """``results.csv`` (RFC 4180, UTF-8) of one run; no cell has a line end, so that lines are rows.

    Every row is in the file before the next one is taken, and a row that could not be written whole leaves no trace: the file
    is valid whenever the process ends. :meth:`finish` gives ranks; it holds a few numbers for each row, not the rows.

    Args:
        path: The file. What is there already stays: the run goes on.

    Raises:
        ValueError: If the file is there and is none of these.
        OSError: If it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = path.open("ab", buffering=0)
        try:
            self._end = self._whole_lines()
            if self._end == 0:
                self.add(_HEADER)
        except BaseException:
            self._file.close()
            raise

    def add(self, row: Row) -> None:
        """Append a row.

        Raises:
            OSError: If the disk is full, for instance; the file is then as it was.
        """
        line = _line(row)
        try:
            written = self._file.write(line)
            if written != len(line):  # the disk took a part; the rest says why it took no more
                self._file.write(line[written:])
        except BaseException:
            with suppress(OSError):
                self._file.truncate(self._end)
            raise
        self._end += len(line)

    def close(self) -> None:
        """No more rows."""
        self._file.close()

    def take_up(self) -> Counter[str]:
        """Before going on: the photographs that need not be inspected again, path -> how often.

        Rows with a fault are dropped; what could not be read then may be readable now.
        """
        if any(row["fault"] for row in read_rows(self.path)):
            with atomic_write(self.path) as temporary, temporary.open("wb") as file:
                file.write(_line(_HEADER))
                file.writelines(_line(row) for row in read_rows(self.path) if not row["fault"])
            self._file.close()
            self._file = self.path.open("ab", buffering=0)
            self._end = self._file.tell()
        return Counter(row["path"] for row in read_rows(self.path))

    def finish(self) -> Counter[str]:
        """Sort the rows by rank, the most unusual first and faults last, and fill in ``rank`` and ``z``; atomically.

        Returns:
            How many there are: ``"inspected"``, ``"unreadable"``, ``"good"``, ``"defect"``.
        """
        import numpy as np

        from anoclip_anomalib.inspection.decision import ranks, robust_z

        counts: Counter[str] = Counter(inspected=0, unreadable=0, good=0, defect=0)
        places, scores = array("q"), array("d")
        with self.path.open("rb") as file:
            place = len(file.readline())
            for line in file:
                row = _row(line)
                places.append(place)
                place += len(line)
                scores.append(float("-inf") if row["fault"] else float(row["score"]))
                counts["unreadable" if row["fault"] else "inspected"] += 1
                if row["verdict"]:
                    counts[row["verdict"]] += 1
            values = np.asarray(scores)
            order = np.argsort(-values, kind="stable")
            inspected = values[order[: counts["inspected"]]]
            rank, z = iter(ranks(inspected)), iter(robust_z(inspected))

            def row_at(index: int) -> Row:
                file.seek(places[index])
                return _row(file.readline())

            with atomic_write(self.path) as temporary, temporary.open("wb") as sorted_file:
                sorted_file.write(_line(_HEADER))
                for score, equal in groupby(order, key=lambda index: values[index]):
                    # Equal ones by name, so that the file does not depend on the order in which they were inspected.
                    for row in sorted((row_at(index) for index in equal), key=lambda row: row["path"]):
                        if np.isfinite(score):
                            row |= {"rank": str(next(rank)), "z": f"{next(z):.3f}"}
                        sorted_file.write(_line(row))
        return counts

    def _whole_lines(self) -> int:
        """Cut off half a line that a killed process has left; the length of the rest."""
        end = kept = self._file.seek(0, os.SEEK_END)
        with self.path.open("rb") as file:
            first = file.readline()
            if not _line(_HEADER).startswith(first):
                raise ValueError(f"{self.path} is no results.csv of an inspection: it begins with {first[:80]!r}")
            while kept > 0:
                start = max(0, kept - (1 << 16))
                file.seek(start)
                kept = start + file.read(kept - start).rfind(b"\n") + 1
                if kept > start:
                    break
        if kept < end:
            self._file.truncate(kept)
        return kept


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a ``results.csv``, of a run that goes on too; half a line at the end is none.

    Raises:
        FileNotFoundError: If there is none.
    """
    with path.open("rb") as file:
        file.readline()
        for line in file:
            if line.endswith(b"\n"):
                yield _row(line)


def _line(row: Row) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow([row[column] for column in COLUMNS])
    return text.getvalue().encode()


def _row(line: bytes) -> Row:
    return dict(zip(COLUMNS, next(csv.reader([line.decode()])), strict=True))
