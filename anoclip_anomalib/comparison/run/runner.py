"""The job loop: run the jobs that have no row yet, on whatever executes them."""

import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

from anoclip_anomalib.comparison.run.folder import ResultsError, ResultsFolder
from anoclip_anomalib.comparison.run.progress import ComparisonProgress
from anoclip_anomalib.comparison.run.row_schema import Row
from anoclip_anomalib.comparison.run.run_job import run_job
from anoclip_anomalib.comparison.suite.suite import Job

Result = tuple[Row, Any]


class Executor(Protocol):
    """What runs jobs."""

    @property
    def capacity(self) -> int:
        """How many jobs it takes at a time."""

    def submit(self, job: Job) -> None:
        """Take a job."""

    def wait(self) -> tuple[Job, Result]:
        """Wait for one of the submitted jobs; its row and pictures."""


class Here:
    """Runs a job in this process.

    Args:
        threads: Torch's threads for each job; a model's own ``cpus`` take precedence.
        run: For tests.
    """

    capacity = 1

    def __init__(self, threads: int | None = None, run: Callable[..., Result] = run_job) -> None:
        self.threads, self.run = threads, run

    def submit(self, job: Job) -> None:
        """Remember the job."""
        self.job = job

    def wait(self) -> tuple[Job, Result]:
        """Run it."""
        return self.job, self.run(self.job, self.job.model.cpus or self.threads)


@dataclass
class Outcome:
    """What a run of the suite did.

    Attributes:
        done, failed: Jobs that got a row now.
        kept: Jobs that had one, or got it from another process meanwhile.
        elsewhere: Jobs that another process is working on.
    """

    done: list[Job] = field(default_factory=list)
    failed: list[Job] = field(default_factory=list)
    kept: list[Job] = field(default_factory=list)
    elsewhere: list[Job] = field(default_factory=list)


def needs_run(
    folder: ResultsFolder, job: Job, retry_failed: bool, since: float, note: Callable[[str], None] = lambda text: None
) -> bool:
    """Whether a job still has no usable row.

    Args:
        folder: The results.
        job: The job.
        retry_failed: A failure from before ``since`` counts as no row.
        since: When this run began, Unix time by the files' clock.
        note: Is told of a damaged row, which counts as none.
    """
    try:
        row = folder.read_row(job.id)
    except ResultsError as error:
        note(f"{error}; the job is done again")
        return True
    return row is None or (retry_failed and row["status"] == "failed" and folder.row_path(job.id).stat().st_mtime < since)


def run_jobs(
    folder: ResultsFolder, jobs: list[Job], executor: Executor, progress: ComparisonProgress, retry_failed: bool = True
) -> Outcome:
    """Run jobs; each is claimed first, so that processes may share a folder.

    A job in other hands is asked for again when nothing else is left, until it is done, or its claim is void and the job is
    run here, or its owner gave a sign of life. So no job of a dead owner is left undone.

    Args:
        folder: The results.
        jobs: What the table should hold.
        executor: Runs them.
        progress: Is told of every step.
        retry_failed: Run jobs again whose row is a failure from before.

    Raises:
        OSError: A row cannot be written (disk full); finished rows stay.
    """
    started, outcome, claims = time.time(), Outcome(), folder.claims
    queue: deque[Job] = deque()
    for job in jobs:
        (queue if needs_run(folder, job, retry_failed, float("inf"), progress.note) else outcome.kept).append(job)
    working: dict[str, ExitStack] = {}
    others: set[str] = set()
    give_up = _too_long(folder)
    try:
        while queue or working:
            for _ in range(len(queue)):
                if len(working) >= executor.capacity:
                    break
                job, claim = queue.popleft(), ExitStack()
                mine = claim.enter_context(claims.take(job.id))
                if not needs_run(folder, job, retry_failed, started):
                    claim.close()
                    outcome.kept.append(job)
                elif mine:
                    working[job.id] = claim
                    others.discard(job.id)
                    progress.start(job)
                    executor.submit(job)
                elif not working and job.id in others and (claims.is_alive(job.id) or time.monotonic() > give_up):
                    outcome.elsewhere.append(job)
                else:
                    others.add(job.id)
                    queue.append(job)
            others |= {job.id for job in queue} & (claims.held() - working.keys())
            progress.expect(len(outcome.done + outcome.failed) + len(working) + sum(job.id not in others for job in queue))
            if working:
                job, (row, pictures) = executor.wait()
                with working.pop(job.id):
                    folder.write(job, row, pictures)
                (outcome.done if row["status"] == "done" else outcome.failed).append(job)
                progress.done(job, row)
                give_up = _too_long(folder)
            elif queue:
                time.sleep(claims.heartbeat / 5)
    finally:
        for claim in working.values():
            claim.close()
    return outcome


def _too_long(folder: ResultsFolder) -> float:
    """When a claim that is still neither void nor alive, such as a folder, is left alone."""
    return time.monotonic() + folder.claims.stale_after + 2 * folder.claims.heartbeat
