"""Jobs on a Ray cluster: local cores and GPUs, or an existing cluster by address.

Ray places jobs by what they need and starts a lost worker's job again; nothing of that is done here. Rows are written by
the driver alone, so that workers need no shared file system for results (they do need the data).
"""

import contextlib
import os
import time
from collections import deque
from typing import Any

from anoclip_anomalib.comparison.folder import ResultsFolder
from anoclip_anomalib.comparison.row import failed_row
from anoclip_anomalib.comparison.runner import Outcome, Progress, needs_run, pending
from anoclip_anomalib.comparison.suite import Job


def run_on_ray(
    folder: ResultsFolder,
    jobs: list[Job],
    progress: Progress,
    address: str | None = None,
    threads: int | None = 1,
    workers: int | None = None,
    retries: int = 2,
    retry_failed: bool = True,
) -> Outcome:
    """Run jobs on Ray.

    Args:
        folder: the results.
        jobs: what the table should hold.
        progress: is told of every step.
        address: of an existing cluster ("auto" or host:port); None starts one on this machine.
        threads: CPUs that a job gets, and torch's threads in it; a model's own `cpus` take precedence.
        workers: CPUs of the cluster that is started here; None for all.
        retries: how often a job is started again when its worker is lost.
        retry_failed: run jobs again whose row is a failure from before.

    Raises:
        ImportError: if Ray is not installed.
        OSError: if a row cannot be written.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError("the ray runner needs Ray: pip install 'anoclip_anomalib[ray]'") from error

    started, outcome = time.time(), Outcome()
    todo = pending(folder, jobs, retry_failed, progress.note)
    outcome.kept = [job for job in jobs if job not in todo]
    if not todo:
        return outcome
    begun_here = not ray.is_initialized()
    if begun_here:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
        local: dict[str, Any] = {} if address else {"num_cpus": workers, "include_dashboard": False}
        ray.init(address=address, log_to_driver=False, configure_logging=False, **local)
    resources = ray.cluster_resources()
    remote = ray.remote(_work)
    queue, asked = deque(todo), set[str]()
    running: dict[Any, tuple[Job, contextlib.ExitStack]] = {}
    window = 2 * int(resources.get("CPU", 1)) + 2  # more need not wait inside Ray: another process may take them
    if any(job.model.gpus for job in todo) and not resources.get("GPU"):
        progress.note("the cluster has no GPU: all jobs run on its CPUs")
    try:
        while queue or running:
            while queue and len(running) < window:
                if queue[0].id in asked and running:
                    break  # in other hands; asked once more when our own jobs are done, as in run_here
                job, claim = queue.popleft(), contextlib.ExitStack()
                if not claim.enter_context(folder.claims.take(job.id)):
                    (outcome.elsewhere if job.id in asked else queue).append(job)
                    asked.add(job.id)
                elif not needs_run(folder, job, retry_failed, started):
                    claim.close()
                    outcome.kept.append(job)
                else:
                    need = job_needs(job, threads, resources)
                    cpus = int(need["num_cpus"])
                    reference = remote.options(max_retries=retries, **need).remote(job, str(folder.path.resolve()), cpus)
                    running[reference] = (job, claim)
            if not running:
                break
            ready, _ = ray.wait(list(running), num_returns=1)
            job, claim = running.pop(ready[0])
            with claim:
                try:
                    row, pictures = ray.get(ready[0])
                except ray.exceptions.RayError as error:
                    row, pictures = failed_row(job, error), None
                folder.write(job, row, pictures)
            (outcome.done if row["status"] == "done" else outcome.failed).append(job)
            progress.done(job, row)
    finally:
        for _, claim in running.values():
            claim.close()
        if begun_here:
            ray.shutdown()
    return outcome


def job_needs(job: Job, threads: int | None, resources: dict[str, float]) -> dict[str, float]:
    """CPUs and GPUs to ask Ray for: no more than the cluster has, since Ray would wait for them for ever."""
    cpus = min(job.model.cpus or threads or 1, max(1, int(resources.get("CPU", 1))))
    return {"num_cpus": cpus, "num_gpus": min(job.model.gpus, resources.get("GPU", 0.0))}


def _work(job: Job, data_folder: str, threads: int) -> tuple[dict[str, Any], Any]:
    from anoclip_anomalib.comparison.run_job import run_job

    return run_job(job, data_folder, threads)
