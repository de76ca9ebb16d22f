"""Ctrl-C as Python means it: Lightning answers it with ``sys.exit(1)`` and has the process ignore further ones."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interruptible() -> Iterator[None]:
    """Around a Lightning run: an interruption leaves the block as ``KeyboardInterrupt``, and Ctrl-C works afterwards."""
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if is_main else None
    try:
        yield
    except SystemExit as exit_request:
        if isinstance(exit_request.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from exit_request
        raise
    finally:
        if is_main and handler is not None:
            signal.signal(signal.SIGINT, handler)
