"""The folder of one run: a new number each time, ``run.json`` beside the results, one process at a time."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from anoclip_anomalib.claims import Claims
from anoclip_anomalib.files import atomic_write, plain, printable

RESULTS, RUN, PICTURES, PAGE = "results.csv", "run.json", "pictures", "page"


class RunFolderError(ValueError):
    """A results folder that cannot be used; the message says why and what to do."""


class RunFolder:
    """``results.csv``, ``run.json``, ``pictures/``, ``page/``, ``index.html`` of one run.

    Args:
        path: The folder.

    Attributes:
        path: The same.
        results: Its ``results.csv``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.results = self.path / RESULTS

    @classmethod
    def create(cls, root: str | Path) -> "RunFolder":
        """A new folder in ``root``, numbered one above the highest there; two processes never get the same.

        Raises:
            OSError: If it cannot be created.
        """
        root = Path(root)
        root.mkdir(parents=True, exist_ok=True)
        number = max((number for number, _ in _runs(root)), default=0)
        while True:
            number += 1
            with suppress(FileExistsError):
                (root / f"{number:03}").mkdir()
                return cls(root / f"{number:03}")

    @classmethod
    def unfinished(cls, root: str | Path) -> "RunFolder":
        """The newest run in ``root`` that was not completed.

        Raises:
            RunFolderError: If there is none.
        """
        for _, folder in sorted(_runs(Path(root)), reverse=True):
            if (folder / RUN).is_file() and not cls(folder).read().get("complete"):
                return cls(folder)
        raise RunFolderError(f"There is no unfinished run in {printable(root)} to resume")

    def read(self) -> dict[str, Any]:
        """What ``run.json`` says.

        Raises:
            RunFolderError: If there is none, or it is damaged.
        """
        path = self.path / RUN
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content, dict) or not isinstance(content.get("settings"), dict):
                raise ValueError("No settings in it")
        except FileNotFoundError as error:
            raise RunFolderError(f"{printable(self.path)} is no results folder of anoclip inspect: it has no {RUN}") from error
        except (OSError, ValueError, RecursionError) as error:
            raise RunFolderError(
                f"{printable(path)} is damaged ({error}): this run cannot be resumed, start a new one"
            ) from error
        return content

    def check_open(self, content: dict[str, Any]) -> None:
        """Refuse a run that is complete.

        Raises:
            RunFolderError: If its ``run.json`` says so.
        """
        if content.get("complete"):
            raise RunFolderError(f"{printable(self.path)} is complete, there is nothing to resume: start a new run")

    def write(self, content: dict[str, Any]) -> None:
        """Write ``run.json``."""
        with atomic_write(self.path / RUN) as temporary:
            # What is not ASCII is escaped: so are the bytes of names that are no UTF-8, which come back as they were.
            temporary.write_text(json.dumps(plain(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from writing into this folder.

        Raises:
            RunFolderError: If another one does.
        """
        claims = self.path / ".claims"
        try:
            with Claims(claims).take("run") as taken:
                if not taken:
                    raise RunFolderError(
                        f"Another process is at work on {printable(self.path)}. If it ran on another machine and is certainly "
                        f"dead, delete {printable(claims)}"
                    )
                yield
        finally:
            with suppress(OSError):
                claims.rmdir()  # another process may have come already

    def discard(self) -> None:
        """Remove the folder if nothing was inspected in it, so that a run that could not begin leaves nothing behind."""
        if not self.results.exists():
            shutil.rmtree(self.path, ignore_errors=True)


def changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Which settings or facts differ, in words; those that one of them lacks count as ``None``."""
    before, now = plain(before), plain(now)
    return [
        f"{key}: {json.dumps(before.get(key))} then, {json.dumps(now.get(key))} now"
        for key in dict.fromkeys([*before, *now])
        if before.get(key) != now.get(key)
    ]


def _runs(root: Path) -> list[tuple[int, Path]]:
    try:
        return [(int(name), root / name) for name in os.listdir(root) if name.isascii() and name.isdecimal()]
    except FileNotFoundError:
        return []
