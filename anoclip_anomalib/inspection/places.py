"""Where photographs lie: on a disk, or in a store that pyarrow knows by an address, such as ``s3://bucket/folder``."""

import os
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image


def is_address(path: str) -> bool:
    """Whether a path is the address of something in a store."""
    return "://" in path


def absolute(base: str, path: str) -> str:
    """A path or address in the one way of writing it."""
    return path.rstrip("/") if is_address(path) else os.path.normpath(os.path.join(base, path))


def exists(place: str) -> bool:
    """Whether there is something, also a link that leads nowhere.

    Raises:
        OSError: If a store does not answer.
    """
    return _kind(place) != "none" if is_address(place) else os.path.lexists(place)


def is_folder(place: str) -> bool:
    """Whether it is a folder."""
    return _kind(place) == "folder" if is_address(place) else os.path.isdir(place)


def entries(folder: str) -> Iterator[str | OSError]:
    """Names in a folder, sorted: of folders with ``/`` at the end, of links to folders ``//``; or why it cannot be read."""
    try:
        if is_address(folder):
            from pyarrow.fs import FileSelector, FileType

            store, path = _store(folder)
            listing = store.get_file_info(FileSelector(path))
            found = [one.base_name + ("/" if one.type == FileType.Directory else "") for one in listing]
        else:
            with os.scandir(folder) as disk:
                found = [entry.name + ("" if not entry.is_dir() else "//" if entry.is_symlink() else "/") for entry in disk]
    except OSError as error:
        yield error
        return
    found.sort(reverse=True)
    while found:
        yield found.pop()


def readable(file: str) -> "str | Image.Image":
    """What the inspector reads: a path as it is, of a store the photograph.

    Raises:
        OSError: If it cannot be read; the message names it.
    """
    if not is_address(file):
        return file
    from io import BytesIO

    from PIL import Image

    store, path = _store(file)
    try:
        with store.open_input_stream(path) as stream:
            return Image.open(BytesIO(stream.read()))
    except OSError as error:
        raise OSError(f"Cannot read image {file}: {error}") from error


def _kind(address: str) -> str:
    from pyarrow.fs import FileType

    store, path = _store(address)
    return {FileType.Directory: "folder", FileType.NotFound: "none"}.get(store.get_file_info(path).type, "file")


def _store(address: str) -> tuple[Any, str]:
    """The store of an address, and the path in it.

    Raises:
        OSError: If there is none.
    """
    scheme, _, rest = address.partition("://")
    top, _, inner = rest.partition("/")
    store, path = _connected(f"{scheme}://{top}")
    return store, f"{path.rstrip('/')}/{inner}"


@cache
def _connected(address: str) -> tuple[Any, str]:
    if find_spec("pyarrow") is None:
        raise OSError(f"{address} needs pyarrow: pip install 'anoclip_anomalib[ray]'")
    from pyarrow import ArrowException
    from pyarrow.fs import FileSystem

    try:
        return FileSystem.from_uri(f"{address}/")
    except ArrowException as error:
        raise OSError(f"{address} cannot be reached: {error}") from error
