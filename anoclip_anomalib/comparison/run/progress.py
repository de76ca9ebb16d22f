"""What a comparison shows: a job's figures when it is done, and how long the rest takes."""

import time

from rich.console import Console

from anoclip_anomalib.comparison.run.row_schema import Row
from anoclip_anomalib.comparison.suite.suite import Job
from anoclip_anomalib.progress import Progress, minutes


class ComparisonProgress:
    """The display of one process that works on a table; other processes may work on the same one.

    Args:
        total: Number of jobs of the table.
        console: Where to write.

    Attributes:
        display: Where a job tells of its images.
    """

    def __init__(self, total: int, console: Console | None = None) -> None:
        self.display = Progress(console)
        self.total = total
        self._finished = 0
        self._begun = time.monotonic()

    def __enter__(self) -> "ComparisonProgress":
        return self

    def __exit__(self, *error: object) -> None:
        self.display.close()

    def expect(self, total: int) -> None:
        """Set the number of jobs that run here; what other processes did or do is not among them."""
        self.total = total

    def start(self, job: Job) -> None:
        """Show the job that runs."""
        self.display.overall(job.label, self._finished, self.total)

    def done(self, job: Job, row: Row) -> None:
        """Print a job's main figures, or its error."""
        self._finished += 1
        self.display.overall(job.label, self._finished, self.total)
        left = (time.monotonic() - self._begun) / self._finished * (self.total - self._finished)
        head = f"[{self._finished}/{self.total}] {job.label}: "
        tail = f" ({row.get('duration_s', 0):.0f} s, {minutes(left)})"
        if row["status"] == "done":
            values = {name: row["metrics"].get(name) for name in ("image_AUROC", "pixel_AUROC", "AUPRO")}
            shown = [f"{name} {'n/a' if value is None else f'{100 * value:.2f}'}" for name, value in values.items()]
            self.display.line(head + ", ".join(shown) + tail)
        else:
            error = row["error"]
            text = f"FAILED, {error['type']}: {error['message'].splitlines()[0] if error['message'] else ''}"
            self.display.line(head + text + tail, "red")

    def note(self, text: str) -> None:
        """Print a remark."""
        self.display.line(text, "yellow")
