"""The one answer to Ctrl-C and SIGTERM: the run ends at once, says so in a line, and exits with 130 or 143.

Lightning answers Ctrl-C with ``sys.exit(1)`` and has the process ignore further ones; it notes SIGTERM, finishes what it is at,
and the next run goes on. PyTorch's data loader turns either into a RuntimeError when a worker is hit first.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM
CONTINUES = "the same command continues where it stopped"


class Terminated(SystemExit):
    """SIGTERM came: an exit with code 143."""

    code = TERMINATED


_ENDINGS: dict[int, type[BaseException]] = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}


@contextmanager
def interruptible(starting: str = "") -> Iterator[None]:
    """Around a run: whatever a signal leads to leaves the block as its own exception, and Ctrl-C works afterwards.

    Blocks may be nested. Only the main thread is told of signals; elsewhere handlers stay as they are.

    Args:
        starting: What to say of a signal that comes in the middle of an import, where no command has begun its work: the
            process ends at once then, as some packages make another error of it, or print it.

    Raises:
        KeyboardInterrupt: After Ctrl-C.
        Terminated: After SIGTERM.
    """
    received: list[int] = []
    owner = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            if starting and _is_importing(frame):
                os.write(2, f"{starting}\n".encode())
                os._exit(128 + number)
            received.append(number)
            raise _ENDINGS[number]
        if number == signal.SIGTERM:  # a process forked from here dies of it; Ctrl-C it leaves to its parent
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        else:  # that its parent goes in the middle of a handshake is then no news
            sys.excepthook = lambda *_: None

    # What is ignored stays ignored: the shell has put the process into the background, or nohup has.
    tell = _ENDINGS if threading.current_thread() is threading.main_thread() else ()
    before = {number: handler for number in tell if (handler := signal.getsignal(number)) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    except BaseException as error:
        if received and not isinstance(error, KeyboardInterrupt | Terminated):
            raise _ENDINGS[received[0]] from error
        if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    if received:  # raised where Python drops exceptions, such as in a destructor
        raise _ENDINGS[received[0]]


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def run_command(command: str, action: Callable[[], int], hint: str = CONTINUES, *, starting: bool = False) -> int:
    """Run a command's work and answer signals.

    Args:
        command: As it was called, such as ``anoclip demo``.
        action: The work; returns the exit code.
        hint: What to do after an interruption.
        starting: Whether the work itself begins further inside, see :func:`interruptible`.

    Returns:
        The action's exit code; 130 after Ctrl-C, 143 after SIGTERM, both told in one line on standard error.
    """
    try:
        with interruptible(f"{command}: interrupted; nothing was begun" if starting else ""):
            return action()
    except (KeyboardInterrupt, Terminated) as stop:
        code, what = (TERMINATED, "ended by SIGTERM") if isinstance(stop, Terminated) else (INTERRUPTED, "interrupted")
    print(f"{command}: {what}; {hint}", file=sys.stderr)
    return code
