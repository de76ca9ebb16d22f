"""Sharing work between processes through files: one claim for each piece of work, a lease that its owner renews.

Claims only save work: every result is written atomically and does not depend on who writes it, so that even two
processes on one piece would do no harm.

The leases of ``filelock`` 4.2 were tried instead: an empty claim is kept for ever there, a claim is created before its record
is written, a stale one is not taken over where two names cannot be exchanged (NFS, SMB), and Python 3.10 is not supported.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass
class _Seen:
    """What this process has seen of a claim of somebody else: its stamp, since when, and when it looked last."""

    stamp: tuple[int, ...]
    since: float
    looked: float
    alive: bool = False


class Claims:
    """Claims in one folder, seen by one process.

    A claim is a file that its owner touches while it works. It is void when it was not touched for ``stale_after`` seconds
    of this process's own clock: whose it is and what it holds do not matter for that, nor the clocks of other machines.
    The claim of a process of this machine that has certainly ended is void at once.

    Args:
        folder: Where the claims lie; shared by the processes.
        stale_after: Seconds without a sign of life.
        heartbeat: Seconds between two signs of life.
    """

    def __init__(self, folder: str | Path, *, stale_after: float = 60.0, heartbeat: float = 5.0) -> None:
        self.folder, self.stale_after, self.heartbeat = Path(folder), stale_after, heartbeat
        self._seen: dict[str, _Seen] = {}

    @contextmanager
    def take(self, name: str) -> Iterator[bool]:
        """Try to claim a piece of work for the duration of the block; yields whether it worked.

        Args:
            name: The piece of work; a plain file name.
        """
        path = self.folder / f"{name}.claim"
        owner = {"id": uuid.uuid4().hex, "place": _place(), "pid": os.getpid(), "start": _start(os.getpid())}
        record = json.dumps(owner).encode()
        if not self._create(path, record):
            yield False
            return
        done = threading.Event()
        beat = threading.Thread(target=self._keep_alive, args=(path, record, done), daemon=True)
        beat.start()
        try:
            yield True
        finally:
            done.set()
            beat.join()
            if _read(path)[1] == record:  # it may have been taken over, if this process stood still for long
                path.unlink(missing_ok=True)

    def is_alive(self, name: str) -> bool:
        """Whether somebody else was seen at work on this piece, by signs of life between two attempts to take it.

        Until then, or until the claim is void, nobody can tell: whoever must know tries on for ``stale_after`` seconds.
        """
        seen = self._seen.get(f"{name}.claim")
        return seen is not None and seen.alive

    def held(self) -> set[str]:
        """Names of the pieces that somebody claims just now."""
        return {path.name.removesuffix(".claim") for path in self.folder.glob("*.claim")}

    def _create(self, path: Path, record: bytes) -> bool:
        """Create a claim, whole or not at all; takes the place of a void one."""
        for _ in range(3):
            draft = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                draft.write_bytes(record)
                _link(draft, path)
            except FileExistsError:
                if not self._remove_void(path, draft):
                    return False
                continue
            except FileNotFoundError:
                continue  # another process has just removed the folder or the draft
            finally:
                with suppress(OSError):
                    draft.unlink(missing_ok=True)
            self._seen.pop(path.name, None)
            for left in path.parent.glob(f".{path.name}-*"):  # of processes that were killed a few lines above
                left.unlink(missing_ok=True)
            return True
        return False

    def _remove_void(self, path: Path, draft: Path) -> bool:
        """Whether a claim was void and is gone now."""
        judged = _read(path)
        if not self._is_void(path.name, *judged):
            return judged[0] == ()
        # Renaming is atomic: of several processes that find the claim void, one moves it away. A process that was slower
        # may move away the claim of the one that was faster, and puts it back.
        try:
            os.replace(path, draft)
        except FileNotFoundError:
            return True
        except OSError:  # no file at all
            return False
        if _read(draft)[1] != judged[1]:
            with suppress(OSError):
                _link(draft, path)
            return False
        return True

    def _is_void(self, name: str, stamp: tuple[int, ...], record: bytes) -> bool:
        if not stamp:
            return False
        if _is_dead(record):
            return True
        now = time.monotonic()
        seen = self._seen.get(name)
        if seen is None or stamp != seen.stamp:
            # Two looks that lie far apart prove nothing: the owner may have died in between.
            alive = seen is not None and now - seen.looked <= self.stale_after
            self._seen[name] = _Seen(stamp, since=now, looked=now, alive=alive)
            return False
        seen.looked = now
        return now - seen.since > self.stale_after

    def _keep_alive(self, path: Path, record: bytes, done: threading.Event) -> None:
        while not done.wait(self.heartbeat):
            with suppress(OSError):  # a folder on the network may be away for a while
                if _read(path)[1] != record:
                    return
                os.utime(path)


def _link(source: Path, target: Path) -> None:
    """Give a file a second name that must not exist; where there are no links, a copy that may be read half written."""
    try:
        os.link(source, target)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError:
        with target.open("xb") as file:
            file.write(source.read_bytes())


def _read(path: Path) -> tuple[tuple[int, ...], bytes]:
    """A claim's stamp, which every sign of life changes, and its first bytes; () and nothing if it is gone.

    The file is opened for it, because a network file system may answer a mere question from memory.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            return (status.st_mtime_ns, status.st_ino), file.read(4096)
    except FileNotFoundError:
        return (), b""
    except OSError:  # unreadable, or a folder: nobody renews it
        with suppress(OSError):
            return (path.lstat().st_mtime_ns,), b""
        return (), b""


def _is_dead(record: bytes) -> bool:
    """Whether a claim's owner was a process that this one could see, and has certainly ended; when in doubt, it has not."""
    try:
        owner = json.loads(record)
        pid, start = int(owner["pid"]), owner["start"]
        if not _place() or owner["place"] != _place() or not start or not 0 < pid < 2**31:
            return False
    except (KeyError, TypeError, ValueError, RecursionError, OverflowError):
        return False
    if now := _start(pid):
        return now != start
    try:
        os.kill(pid, 0)  # /proc may hide other people's processes
    except OSError as error:
        return isinstance(error, ProcessLookupError)
    return False


@cache
def _place() -> list[str]:
    """Where a process number means the same process: machine, its start, process and time namespace; [] if unknown."""
    try:
        started = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return [socket.gethostname(), started, os.readlink("/proc/self/ns/pid"), os.readlink("/proc/self/ns/time")]
    except OSError:
        return []


def _start(pid: int) -> str:
    """When a process of this machine was started, in ticks; "" if there is none or the system does not tell."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
