"""Packing a submission folder: the same bytes for the same content, and never half an archive."""

import gzip
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, cast

from anoclip_anomalib.files import atomic_write
from anoclip_anomalib.submission.entries import folder_entries


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
        compression_level: gzip's, 1 (fast) to 9.
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
        raise ValueError(f"the archive of '{name}/' must be called '{name}.tar.gz', not '{archive.name}'")
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
