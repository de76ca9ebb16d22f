"""The files of a submission, one at a time, from a folder or from a ``.tar.gz`` that is never unpacked."""

import gzip
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Literal, cast

DAMAGED_ARCHIVE = (EOFError, tarfile.TarError, zlib.error, OSError)
"""What reading a truncated or damaged ``.tar.gz`` raises."""


@dataclass(frozen=True)
class Entry:
    """A file, folder or link.

    Attributes:
        path: Its name with forward slashes, as stored in the archive, or below the folder.
        kind: ``link`` covers symbolic and hard links; ``special`` devices, pipes and sockets.
        size: In bytes.
        read: Returns the content; to be called, if at all, before the next entry is asked for.
    """

    path: str
    kind: Literal["file", "folder", "link", "special"]
    size: int
    read: Callable[[], bytes]


def folder_entries(folder: Path) -> Iterator[Entry]:
    """Everything below a folder in sorted order; links are reported and never followed."""

    def below(directory: Path, prefix: str) -> Iterator[Entry]:
        for item in sorted(os.scandir(directory), key=lambda found: found.name):
            path = prefix + item.name
            read = Path(item.path).read_bytes
            if item.is_symlink() or (hasattr(item, "is_junction") and item.is_junction()):
                yield Entry(path, "link", 0, read)
            elif item.is_dir(follow_symlinks=False):
                yield Entry(path, "folder", 0, read)
                yield from below(Path(item.path), path + "/")
            elif item.is_file(follow_symlinks=False):
                yield Entry(path, "file", item.stat(follow_symlinks=False).st_size, read)
            else:
                yield Entry(path, "special", 0, read)

    yield from below(folder, "")


def archive_entries(archive: Path) -> Iterator[Entry]:
    """The members of a ``.tar.gz`` in stored order, read in one pass.

    Raises:
        DAMAGED_ARCHIVE: When the archive is truncated or damaged, after the entries before the damage. The checksum at
            the end is read as well, so that a cut anywhere is noticed.
    """
    # gzip's own reader, since tarfile's built-in one neither checks the checksum nor notices a cut between two members.
    with gzip.open(archive, "rb") as stream:
        with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|") as members:
            for member in members:
                yield Entry(member.name, _kind(member), member.size, partial(_read, members, member))
        while stream.read(1 << 20):
            pass


def _kind(member: tarfile.TarInfo) -> Literal["file", "folder", "link", "special"]:
    if member.issym() or member.islnk():
        return "link"
    if member.isdir():
        return "folder"
    return "file" if member.isfile() else "special"


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    if stream is None:
        raise tarfile.ReadError(f"{member.name} has no content")
    return stream.read()
