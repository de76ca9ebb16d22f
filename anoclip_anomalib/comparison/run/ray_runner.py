"""Jobs on a Ray cluster: local cores and GPUs, or an existing cluster by address.

Ray places jobs by what they need and starts a lost worker's job again; nothing of that is done here. Rows are written by
the driver alone, so that workers need no shared file system for results (they do need the data).
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

from anoclip_anomalib.comparison.run.row import failed_row
from anoclip_anomalib.comparison.run.run_job import run_job
from anoclip_anomalib.comparison.run.runner import Result
from anoclip_anomalib.comparison.suite.suite import Job
from anoclip_anomalib.running.ray_cluster import connect, import_ray

RETRIES = 2  # of a job whose worker is lost


class OnRay:
    """Runs jobs on Ray; a context manager that starts a cluster on this machine, if there is none, and ends it again.

    Args:
        address: Of an existing cluster ("auto" or host:port); ``None`` starts one on this machine.
        threads: CPUs that a job gets, and torch's threads in it; a model's own ``cpus`` take precedence.
        workers: CPUs of the cluster that is started here; ``None`` for all.
        note: Is told what people should know.

    Raises:
        ImportError: Ray is not installed.
    """

    def __init__(self, address: str | None, threads: int, workers: int | None, note: Callable[[str], None]) -> None:
        self.ray, self.address, self.threads, self.workers, self.note = import_ray(), address, threads, workers, note
        self.running: dict[Any, Job] = {}
        self.begun_here = False

    def __enter__(self) -> "OnRay":
        return self

    def __exit__(self, *error: object) -> None:
        if self.begun_here:
            self.ray.shutdown()

    @cached_property
    def resources(self) -> dict[str, float]:
        """The cluster's; asking for them starts it."""
        self.begun_here = connect(self.ray, self.address, self.workers)
        return self.ray.cluster_resources()

    @property
    def capacity(self) -> int:
        """More jobs need not wait inside Ray: another process may take them."""
        return 2 * int(self.resources.get("CPU", 1)) + 2

    def submit(self, job: Job) -> None:
        """Hand the job to Ray."""
        if job.model.gpus and not self.resources.get("GPU"):
            self.note(f"the cluster has no GPU: {job.label} runs on its CPUs")
        need = job_needs(job, self.threads, self.resources)
        options = self.ray.remote(run_job).options(max_retries=RETRIES, **need)
        self.running[options.remote(job, int(need["num_cpus"]))] = job

    def wait(self) -> tuple[Job, Result]:
        """Wait until one of the jobs is done, or lost once too often."""
        ready, _ = self.ray.wait(list(self.running), num_returns=1)
        job = self.running.pop(ready[0])
        try:
            return job, self.ray.get(ready[0])
        except self.ray.exceptions.RayError as error:
            return job, (failed_row(job, error), None)


def job_needs(job: Job, threads: int, resources: dict[str, float]) -> dict[str, float]:
    """CPUs and GPUs to ask Ray for: no more than the cluster has, since Ray would wait for them for ever."""
    cpus = min(job.model.cpus or threads, max(1, int(resources.get("CPU", 1))))
    return {"num_cpus": cpus, "num_gpus": min(job.model.gpus, resources.get("GPU", 0.0))}
