"""The files of a submission, one at a time, from a folder or from a ``.tar.gz`` that is never unpacked; how one is packed."""

import gzip
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Literal, cast

from anoclip_anomalib.files import atomic_write

DAMAGED_ARCHIVE = (EOFError, tarfile.TarError, zlib.error, OSError, ValueError, LookupError, ArithmeticError, RuntimeError)
"""What reading a truncated or damaged archive raises; the last four come from headers and tables with nonsense in them."""

MAX_ENTRIES = 100_000
"""A submission has some 8,200 entries; an archive of a few megabytes can hold millions."""

MAX_HEADER_BYTES = 1 << 20
"""Extended headers, which hold long names, are read into memory whole."""

Kind = Literal["file", "folder", "link", "special"]
_EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


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
    kind: Kind
    size: int
    read: Callable[[], bytes]


def folder_entries(folder: Path) -> Iterator[Entry]:
    """Everything below a folder in sorted order; links are reported and never followed."""
    for item in sorted(os.scandir(folder), key=lambda found: found.name):
        is_link = item.is_symlink() or (hasattr(item, "is_junction") and item.is_junction())
        kind = _kind(is_link, item.is_dir(follow_symlinks=False), item.is_file(follow_symlinks=False))
        size = item.stat(follow_symlinks=False).st_size if kind == "file" else 0
        yield Entry(item.name, kind, size, Path(item.path).read_bytes)
        if kind == "folder":
            yield from (replace(entry, path=f"{item.name}/{entry.path}") for entry in folder_entries(Path(item.path)))


def archive_entries(archive: Path) -> Iterator[Entry]:
    """The members of a ``.tar.gz`` in stored order, read in one pass.

    Raises:
        DAMAGED_ARCHIVE: When the archive is truncated or damaged, after the entries before the damage, or holds anything
            behind its end marker. The checksum at the end is read as well, so that a cut anywhere is noticed.
    """
    # gzip's own reader, since tarfile's built-in one neither checks the checksum nor notices a cut between two members.
    with (
        gzip.open(archive, "rb") as stream,
        tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|", tarinfo=_StrictTarInfo) as members,
    ):
        for number, member in enumerate(members):
            if number == MAX_ENTRIES:
                raise tarfile.ReadError(f"more than {MAX_ENTRIES} entries")
            kind = _kind(member.issym() or member.islnk(), member.isdir(), member.isfile() and not member.issparse())
            yield Entry(member.name, kind, member.size, partial(_read, members, member))
        # Through tarfile's own buffer, which may hold what follows the end marker.
        while rest := cast(IO[bytes], members.fileobj).read(1 << 20):
            if rest.strip(b"\0"):
                raise tarfile.ReadError("data behind the end marker, such as a second archive")


class _StrictTarInfo(tarfile.TarInfo):
    """Headers of members; ``tarfile`` takes a damaged header for the end of the archive, this class for damage."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_StrictTarInfo":
        """Read one header.

        Raises:
            tarfile.ReadError: If it is damaged or missing, or announces an implausible size.
        """
        try:
            member = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # the end marker
            raise tarfile.ReadError(f"a member's header is damaged: {error}") from error
        if member.size < 0 or (member.type in _EXTENDED and member.size > MAX_HEADER_BYTES):
            raise tarfile.ReadError(f"a header announces {member.size} bytes")
        return member


def pack_folder(
    folder: str | Path,
    archive: str | Path | None = None,
    compression_level: int = 6,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Write ``<name>.tar.gz`` with the folder ``<name>/`` at its top.

    Names are sorted, and times, owners and permissions are left out, so that equal folders give equal archives.

    Args:
        folder: The submission folder.
        archive: Where to write; beside the folder by default. Its name must be the folder's with ``.tar.gz``.
        compression_level: Gzip's, 1 (fast) to 9.
        progress: Called with the path of each file.

    Returns:
        The archive's path.

    Raises:
        NotADirectoryError: If ``folder`` is not a folder.
        ValueError: If the folder holds a link or special file, or the archive's name is another one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder")
    name = folder.resolve().name
    archive = Path(archive) if archive is not None else folder.resolve().parent / f"{name}.tar.gz"
    if archive.name != f"{name}.tar.gz":
        raise ValueError(f"The archive of '{name}/' must be called '{name}.tar.gz', not '{archive.name}'")
    entries = list(folder_entries(folder))
    for entry in entries:
        if entry.kind not in {"file", "folder"}:
            raise ValueError(f"{folder / entry.path} is a link or special file; only plain files can be packed")
    with (
        atomic_write(archive) as temporary,
        temporary.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", compresslevel=compression_level, fileobj=raw, mtime=0) as stream,
        tarfile.open(fileobj=cast(IO[bytes], stream), mode="w|", format=tarfile.PAX_FORMAT) as members,
    ):
        for path in (folder, *(folder / entry.path for entry in entries)):
            member = tarfile.TarInfo(Path(name, path.relative_to(folder)).as_posix())
            if path.is_dir():
                member.type, member.mode = tarfile.DIRTYPE, 0o755
                members.addfile(member)
                continue
            member.size = path.stat().st_size
            with path.open("rb") as content:
                members.addfile(member, content)
            if progress:
                progress(str(path))
    return archive


def unsafe_name(name: str) -> str | None:
    """Why a path from an archive must not be unpacked, or ``None`` if it is harmless."""
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "an absolute path"
    if "\\" in name or not name.isprintable():
        return "a backslash, control character or damaged character in the path"
    parts = name.rstrip("/").split("/")
    if ".." in parts:
        return "'..' in the path leads out of the folder"
    return "an empty or '.' component in the path" if "" in parts or "." in parts else None


def _kind(is_link: bool, is_folder: bool, is_file: bool) -> Kind:
    return "link" if is_link else "folder" if is_folder else "file" if is_file else "special"


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    return cast(IO[bytes], archive.extractfile(member)).read()  # there is one: read by those who know that it is a file
