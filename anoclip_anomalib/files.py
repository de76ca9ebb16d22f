"""Writing files so that a reader never sees half of one, and what is in them and their names so that it does no harm."""

import math
import os
import re
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""As anomalib has them, whose list cannot be read without importing torch."""
OTHER_IMAGES = (
    *(".avif", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jxl"),
    *(".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf"),
)
"""Photographs too. Those that Pillow cannot decode are faults: a photograph that was not inspected is no good one."""
COMPANION = "._"  # of macOS, beside each file on a foreign disk, under its name; no image

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_DRAFT = re.compile(r"\..*-\w{8}(\.\w+)?")  # as mkstemp names it
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


def is_photograph(name: str) -> bool:
    """Whether a file that was found in a folder shall be taken for a photograph, by its name."""
    return not name.startswith(COMPANION) and os.path.splitext(name)[1].lower() in (*IMAGE_SUFFIXES, *OTHER_IMAGES)


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


def remove_drafts(folder: Path) -> None:
    """Remove what :func:`atomic_write` left in ``folder`` when its process was killed; no other may be writing there."""
    for draft in folder.glob(".*"):
        if _DRAFT.fullmatch(draft.name):
            draft.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """A value as JSON can hold it: NaN and infinities become null, tuples lists, and other things their text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def printable(path: str | Path) -> str:
    r"""A path or message as text that any terminal and any UTF-8 file takes.

    Bytes of a name that are no UTF-8 become ``\xff``; control characters, line ends included, are written as in Python.
    """
    return "".join(_escaped(char) if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") else char for char in str(path))


def _escaped(char: str) -> str:
    # Python reads the bytes 0x80 to 0xff of such a name as U+DC80 to U+DCFF.
    is_byte = "\udc80" <= char <= "\udcff"
    return f"\\x{ord(char) - 0xDC00:02x}" if is_byte else char.encode("unicode_escape").decode("ascii")


def set_aside(folder: Path, *patterns: str) -> None:
    """Move what an earlier run has left in ``folder`` to a new subfolder ``earlier-1``, ``earlier-2``, ...

    Args:
        folder: Need not exist.
        patterns: Of the names in it, such as ``images`` or ``predictions*.csv``.
    """
    found = [path for pattern in patterns for path in folder.glob(pattern)]
    if found:
        earlier = next(place for number in count(1) if not (place := folder / f"earlier-{number}").exists())
        earlier.mkdir()
        for path in found:
            path.rename(earlier / path.name)


def read_yaml(path: Path, what: str, hint: str) -> dict:
    """A mapping from a YAML file.

    Args:
        path: The file.
        what: What it should be, for errors.
        hint: What it looks like, for errors.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no YAML, or no mapping.
    """
    import yaml

    if not path.is_file():
        raise FileNotFoundError(f"No such {what}: {path} ({hint})")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} is no {what}: it must hold a mapping ({hint})")
    return content
