"""A results folder: rows and pictures, written atomically, of one suite."""

import hashlib
import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anoclip_anomalib.claims import Claims
from anoclip_anomalib.comparison.run.row import Pictures
from anoclip_anomalib.comparison.run.row_schema import FORMAT, DoneRow, Row, row_fault
from anoclip_anomalib.comparison.suite.suite import Job, Suite, jobs_of
from anoclip_anomalib.evaluation.predictions import decision, write_predictions
from anoclip_anomalib.evaluation.thresholds import Threshold
from anoclip_anomalib.files import atomic_write, plain


class ResultsError(ValueError):
    """A results folder that cannot be used; the message says why and what to do."""


def results_folders(path: str | Path) -> list[Path]:
    """The results folders that are meant by a path: itself, or those in it (as in ``results/comparison``), sorted.

    A folder without any is returned as it is; :class:`ResultsFolder` says what is wrong with it.
    """
    path = Path(path)
    inside = [] if (path / "suite.json").exists() else sorted(file.parent for file in path.glob("*/suite.json"))
    return inside or [path]


class ResultsFolder:
    """``suite.json``, ``rows/<job>.json``, ``predictions/<job>.csv``, ``pictures/...``.

    Args:
        path: The folder; created by :meth:`open_for`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.claims = Claims(self.path / "claims")

    def open_for(self, suite: Suite) -> None:
        """Create the folder, or make sure that it belongs to this suite; remember the suite's jobs.

        Raises:
            ResultsError: If it belongs to another suite, holds other files, or cannot be written.
        """
        try:
            with atomic_write(self.path / ".writable"):
                pass
            (self.path / ".writable").unlink(missing_ok=True)
        except OSError as error:
            raise ResultsError(f"Results folder {self.path} cannot be written: {error}") from error
        found = self.suite() if (self.path / "suite.json").exists() else None
        if found is None and any(not item.name.startswith(".") for item in self.path.iterdir()):
            raise ResultsError(f"{self.path} holds other files and no suite.json; choose a new folder for the results")
        if found is not None and found.get("name") != suite.name:
            names = f'the suite "{found.get("name")}", not of "{suite.name}"'
            raise ResultsError(f"{self.path} holds results of {names}; choose another folder with --output")
        content = {
            "format": FORMAT,
            "name": suite.name,
            "description": suite.description,
            "models": [model.name for model in suite.models],
            "data": {data.name: list(data.categories or (data.name,)) for data in suite.data},
            "seeds": list(suite.seeds),
            "protocol": asdict(suite.protocol),
            "jobs": [job.id for job in jobs_of(suite)],
        }
        if content != found:
            self._write_json(self.path / "suite.json", content)

    def suite(self) -> dict[str, Any]:
        """The suite that this folder belongs to.

        Raises:
            ResultsError: If there is none, or it is damaged.
        """
        path = self.path / "suite.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content, dict) or not isinstance(content.get("jobs"), list):
                raise ValueError("No suite")
        except FileNotFoundError as error:
            raise ResultsError(f"{self.path} is no results folder: it has no suite.json") from error
        except (OSError, ValueError, RecursionError) as error:
            raise ResultsError(f"{path} is damaged ({error}); delete it and run the suite again, rows are kept") from error
        return content

    def row_path(self, job_id: str) -> Path:
        """Where a job's row is."""
        return self.path / "rows" / f"{job_id}.json"

    def read_row(self, job_id: str) -> Row | None:
        """A job's row; ``None`` if there is none.

        Raises:
            ResultsError: If the file is damaged or belongs to another job.
        """
        path = self.row_path(job_id)
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
            if fault := row_fault(row, job_id):
                raise ValueError(fault)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise ResultsError(f"Row {path} is damaged: {error}") from error
        return row

    def write(self, job: Job, row: Row, pictures: Pictures | None) -> None:
        """Write a job's pictures and predictions, and last its row: a row that is there is complete.

        Raises:
            OSError: If the disk is full or the folder cannot be written; the row is then not there.
        """
        if pictures is not None:
            masks = {f"{job.id}-masks.png": pictures.masks}  # models may see other parts
            images = {f"{picture_stem(job.data.name, job.category)}-images.jpg": pictures.images}
            for name, content in ({f"{job.id}.png": pictures.heatmaps} | masks | images).items():
                path = self.path / "pictures" / name
                if not path.exists() or path.read_bytes() != content:
                    with atomic_write(path) as temporary:
                        temporary.write_bytes(content)
        if row["status"] == "done" and "images" in row:
            write_predictions(self.path / "predictions" / f"{job.id}.csv", _prediction_rows(row))
        self._write_json(self.row_path(job.id), row)

    def rows(self) -> tuple[list[Row], list[str]]:
        """Rows of the suite's jobs in the suite's order, and what was wrong with the damaged ones."""
        rows, faults = [], []
        for job_id in self.suite()["jobs"]:
            try:
                rows.append(self.read_row(job_id))
            except ResultsError as error:
                faults.append(str(error))
        return [row for row in rows if row is not None], faults

    @staticmethod
    def _write_json(path: Path, content: Any) -> None:
        with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            json.dump(plain(content), file, allow_nan=False, separators=(",", ":"))
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())


def picture_stem(data: str, category: str) -> str:
    """File name of the pictures that all jobs on a category share; two names never share one."""
    digest = hashlib.sha256(f"{data}\0{category}".encode()).hexdigest()[:8]
    return "".join(char if char.isalnum() else "_" for char in f"{data}_{category}")[:60] + f"-{digest}"


def _prediction_rows(row: DoneRow) -> list[dict[str, Any]]:
    found = row["thresholds"]["image"]
    threshold = Threshold(math.nan if found["value"] is None else found["value"], found["rule"])
    return [{"path": path, "score": repr(score), **decision(score, threshold)} for path, score, *_ in row["images"]]
