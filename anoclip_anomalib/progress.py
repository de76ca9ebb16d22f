"""The one progress display: bars on a terminal, lines elsewhere."""

import time
from typing import Protocol

from rich import progress as bars
from rich.console import Console
from rich.markup import escape
from rich.text import Text
from typing_extensions import Self


class Steps(Protocol):
    """What work tells while it goes on."""

    def start(self, text: str, total: int) -> None:
        """A step of so many images or files begins."""

    def advance(self, count: int = 1) -> None:
        """So many more are done."""


class Progress:
    """What is done and how much is left: one step after the other, each of so many images or files.

    A second bar above may tell how many jobs or objects there are (:meth:`overall`). Where standard error is no terminal,
    steps and their progress become lines, seldom enough for a log. Use as a context manager, or :meth:`close` it.

    Args:
        console: Where to write; default: standard error.
        quiet: Show nothing but what is said.
        every: Seconds between two lines about one step.
    """

    def __init__(self, console: Console | None = None, *, quiet: bool = False, every: float = 30.0) -> None:
        self.console = console or Console(stderr=True)
        self.quiet, self.every = quiet, every
        self._bars: bars.Progress | None = None
        self._overall: tuple[str, int, int] | None = None
        self._tasks: dict[str, bars.TaskID] = {}
        self._text, self._total, self._done, self._begun, self._told = "", 0, 0, 0.0, 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def shows_bars(self) -> bool:
        """Whether there is a terminal to draw on."""
        return self.console.is_terminal and not self.quiet

    def overall(self, text: str, done: int, total: int) -> None:
        """Say how many of the jobs are done, and which one runs."""
        self._overall = (text, done, total)
        if self.shows_bars:
            self._draw("overall", *self._overall)

    def start(self, text: str, total: int) -> None:
        """Begin a step of so many images or files."""
        self._text, self._total, self._done = text, total, 0
        self._begun = self._told = time.monotonic()
        if self.shows_bars:
            if self._bars is not None and "step" in self._tasks:
                self._bars.reset(self._tasks["step"])
            self._draw("step", text, 0, total)
        elif self._overall is None and not self.quiet:
            self.line(f"{text}: {total}")

    def advance(self, count: int = 1) -> None:
        """So many more are done."""
        self._done += count
        if self.shows_bars:
            self._draw("step", self._text, self._done, self._total)
            return
        now = time.monotonic()
        if self._done and now - self._told >= self.every and not self.quiet:
            self._told = now
            left = (now - self._begun) / self._done * max(0, self._total - self._done)
            head = f"{self._overall[0]}, " if self._overall else ""
            speed = rate(self._done / max(now - self._begun, 1e-9))
            self.line(f"{head}{self._text}: {self._done} of {self._total}, {speed}, {minutes(left)}")

    def line(self, text: str, style: str = "") -> None:
        """A line above the bars, in full, whatever its characters."""
        self.console.print(escape(text), style=style, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """A line on standard output, without tearing the bars."""
        self.close()
        print(text, flush=True)

    def close(self) -> None:
        """Remove the bars; the next step draws them anew."""
        if self._bars is not None:
            self._bars.stop()
        self._bars, self._tasks = None, {}

    def _draw(self, key: str, text: str, done: int, total: int) -> None:
        if self._bars is None:
            count = (bars.TextColumn("{task.description}"), bars.BarColumn(), bars.MofNCompleteColumn())
            clock = (_Rate(), bars.TimeElapsedColumn(), bars.TextColumn("left"), bars.TimeRemainingColumn())
            # Standard output is left alone: it may be a file while standard error is a terminal.
            self._bars = bars.Progress(*count, *clock, console=self.console, transient=True, redirect_stdout=False)
            self._bars.start()
            if self._overall is not None and key != "overall":
                self._draw("overall", *self._overall)
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task("", total=total)
        self._bars.update(self._tasks[key], description=escape(text), completed=done, total=total)


class _Rate(bars.ProgressColumn):
    """How fast a step goes."""

    def render(self, task: bars.Task) -> Text:
        return Text(rate(task.speed) if task.speed else "")


def rate(each_second: float) -> str:
    """A speed for people."""
    return f"{each_second:.1f}/s" if each_second >= 1 else f"{1 / each_second:.1f} s each"


def minutes(seconds: float) -> str:
    """A remaining time for people."""
    return f"about {seconds / 60:.1f} min left"
