"""Writing files so that a reader never sees half of one, and no spreadsheet runs what is in it."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def csv_safe(value: Any) -> Any:
    """Make a value of a CSV cell harmless in spreadsheets: a text that would be a formula gets an apostrophe before it.

    The rule is OWASP's (CSV injection). Numbers, also as text ("-0.5"), stay as they are.

    Args:
        value: Any cell; only texts are changed.

    Returns:
        The value, or the text with an apostrophe in front.
    """
    if isinstance(value, str) and value.startswith(_FORMULA) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling of ``path``; it takes the place of ``path`` when the block ends without an error.

    The parent folder is created. The sibling keeps the suffix of ``path`` (writers that choose a format by it work), and is
    removed when the block raises, so that an interrupted write leaves the old file, or none.

    Args:
        path: The file to write.

    Yields:
        The path to write to.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:40]}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files that only the owner can read; results are for everybody the folder is for.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
