"""Run the jobs that have no row yet: in this process, or on a Ray cluster."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from anoclip_anomalib.comparison.folder import ResultsError, ResultsFolder
from anoclip_anomalib.comparison.suite import Job


class Progress(Protocol):
    """What a runner tells while it works."""

    def start(self, job: Job) -> None:
        """A job begins."""

    def done(self, job: Job, row: dict[str, Any]) -> None:
        """A job has its row."""

    def note(self, text: str) -> None:
        """Something that people should know."""


@dataclass
class Outcome:
    """What a run of the suite did.

    Attributes:
        done, failed: jobs that got a row now.
        kept: jobs that had one.
        elsewhere: jobs that another process is working on.
    """

    done: list[Job] = field(default_factory=list)
    failed: list[Job] = field(default_factory=list)
    kept: list[Job] = field(default_factory=list)
    elsewhere: list[Job] = field(default_factory=list)


def pending(folder: ResultsFolder, jobs: list[Job], retry_failed: bool, note: Callable[[str], None]) -> list[Job]:
    """Jobs without a usable row. Damaged rows are named and count as none; failed ones count as none if `retry_failed`."""
    wanted = []
    for job in jobs:
        try:
            row = folder.read_row(job.id)
        except ResultsError as error:
            note(f"{error}; the job is done again")
            row = None
        if row is None or (retry_failed and row["status"] == "failed"):
            wanted.append(job)
    return wanted


def needs_run(folder: ResultsFolder, job: Job, retry_failed: bool, since: float) -> bool:
    """Whether a job still has to run, asked when its claim is held: another process may just have finished it."""
    try:
        row = folder.read_row(job.id)
    except ResultsError:
        return True
    if row is None:
        return True
    return retry_failed and row["status"] == "failed" and folder.row_path(job.id).stat().st_mtime < since


def run_here(
    folder: ResultsFolder,
    jobs: list[Job],
    progress: Progress,
    threads: int | None = None,
    retry_failed: bool = True,
    run: Callable[..., tuple[dict[str, Any], Any]] | None = None,
) -> Outcome:
    """Run jobs one after the other in this process; each is claimed first, so that processes may share a folder.

    Args:
        folder: the results.
        jobs: what the table should hold.
        progress: is told of every step.
        threads: torch's threads for each job; a model's own `cpus` take precedence.
        retry_failed: run jobs again whose row is a failure from before.
        run: for tests.

    Raises:
        OSError: if a row cannot be written (disk full); finished rows stay.
    """
    if run is None:
        from anoclip_anomalib.comparison.run_job import run_job

        run = run_job
    started = time.time()
    outcome = Outcome()
    todo = pending(folder, jobs, retry_failed, progress.note)
    outcome.kept = [job for job in jobs if job not in todo]
    queue, asked = deque(todo), set[str]()
    while queue:
        job = queue.popleft()
        with folder.claims.take(job.id) as mine:
            if not mine:  # asked once more at the end: by then it may be done, or its process may be dead
                (outcome.elsewhere if job.id in asked else queue).append(job)
                asked.add(job.id)
                continue
            if not needs_run(folder, job, retry_failed, started):
                outcome.kept.append(job)
                continue
            progress.start(job)
            row, pictures = run(job, folder.path, job.model.cpus or threads)
            folder.write(job, row, pictures)
        (outcome.done if row["status"] == "done" else outcome.failed).append(job)
        progress.done(job, row)
    return outcome
