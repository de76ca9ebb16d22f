"""A progress display with an estimate of the time left."""

import time
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from anoclip_anomalib.comparison.suite import Job


class ComparisonProgress:
    """A bar on a terminal; a line per job elsewhere (logs). Use as a context manager.

    Args:
        total: number of jobs of the table.
        console: where to write.
    """

    def __init__(self, total: int, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.total = total
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=self.console,
            disable=not self.console.is_terminal,
            speed_estimate_period=3600,
        )
        self._task = self._bar.add_task("jobs", total=total)
        self._begun = time.monotonic()
        self._finished = 0

    def __enter__(self) -> "ComparisonProgress":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def expect(self, total: int) -> None:
        """Set the number of jobs that will run."""
        self.total = total
        self._bar.update(self._task, total=total)

    def start(self, job: Job) -> None:
        """Show the job that runs."""
        self._bar.update(self._task, description=escape(job.label))

    def done(self, job: Job, row: dict[str, Any]) -> None:
        """Print a job's main figures, or its error."""
        self._finished += 1
        self._bar.advance(self._task)
        left = (time.monotonic() - self._begun) / self._finished * (self.total - self._finished)
        head = f"[{self._finished}/{self.total}] {job.label}: "
        tail = f" ({row.get('duration_s', 0):.0f} s, about {left / 60:.1f} min left)"
        if row["status"] == "done":
            metrics = row["metrics"]
            shown = [f"{name} {_text(metrics.get(name))}" for name in ("image_AUROC", "pixel_AUROC", "AUPRO")]
            self.console.print(escape(head + ", ".join(shown) + tail), highlight=False, soft_wrap=True)
        else:
            error = row["error"]
            text = f"FAILED, {error['type']}: {error['message'].splitlines()[0] if error['message'] else ''}"
            self.console.print(escape(head + text + tail), style="red", highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Print a remark."""
        self.console.print(escape(text), style="yellow", highlight=False, soft_wrap=True)


def _text(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.2f}"
