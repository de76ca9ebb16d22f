"""Sharing work between processes through files: one claim for each piece of work, taken with O_EXCL.

Claims only save work: every result is written atomically and does not depend on who writes it, so that even two
processes on one piece would do no harm.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Claims:
    """Claims in one folder, seen by one process.

    A claim is a file that its owner touches while it works. It is void when its owner is a dead process of this
    machine, or when it was not touched for ``stale_after`` seconds of this process's own clock (clocks of other machines
    are not trusted).

    Args:
        folder: Where the claims lie; shared by the processes.
        stale_after: Seconds without a sign of life.
        heartbeat: Seconds between two signs of life.
    """

    def __init__(self, folder: str | Path, *, stale_after: float = 60.0, heartbeat: float = 5.0) -> None:
        self.folder = Path(folder)
        self.stale_after = stale_after
        self.heartbeat = heartbeat
        self._seen: dict[str, tuple[int, float]] = {}

    @contextmanager
    def take(self, name: str) -> Iterator[bool]:
        """Try to claim a piece of work for the duration of the block; yields whether it worked."""
        path = self.folder / f"{name}.claim"
        if not self._create(path):
            yield False
            return
        done = threading.Event()
        beat = threading.Thread(target=self._keep_alive, args=(path, done), daemon=True)
        beat.start()
        try:
            yield True
        finally:
            done.set()
            beat.join()
            path.unlink(missing_ok=True)

    def _create(self, path: Path) -> bool:
        owner = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "id": uuid.uuid4().hex})
        for _ in range(3):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileNotFoundError:
                continue  # another process has just removed the folder
            except FileExistsError:
                if not self._is_void(path):
                    return False
                # Renaming is atomic: of several processes that find the claim void, one moves it away.
                aside = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
                try:
                    os.rename(path, aside)
                except FileNotFoundError:
                    continue
                aside.unlink(missing_ok=True)
                continue
            with os.fdopen(handle, "w") as stream:
                stream.write(owner)
            return True
        return False

    def _is_void(self, path: Path) -> bool:
        try:
            touched = path.stat().st_mtime_ns
            owner = json.loads(path.read_text() or "{}")
        except (FileNotFoundError, ValueError):
            return False
        if owner.get("host") == socket.gethostname() and not _is_alive(int(owner.get("pid", 0))):
            return True
        before, since = self._seen.get(path.name, (-1, 0.0))
        now = time.monotonic()
        if touched != before:
            self._seen[path.name] = (touched, now)
            return False
        return now - since > self.stale_after

    def _keep_alive(self, path: Path, done: threading.Event) -> None:
        while not done.wait(self.heartbeat):
            try:
                os.utime(path)
            except OSError:
                return


def _is_alive(pid: int) -> bool:
    """Whether a process of this machine runs; only POSIX tells without side effects, elsewhere the touching has to do."""
    if os.name != "posix" or pid <= 0:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
