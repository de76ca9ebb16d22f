"""The folder that holds an unfinished result: to be continued with the same settings only."""

from pathlib import Path
from typing import Any

from anoclip_anomalib.submission.provenance import as_json, read_json, write_json


def check_name(name: str) -> str:
    """The name of a submission, if it can be a folder's or a file's.

    Raises:
        ValueError: If it cannot.
    """
    if not name or name != Path(name).name or name.startswith("."):
        raise ValueError(f"'{name}' is no name for a folder: letters, digits, '-' and '_' without any '/'")
    return name


def open_work_folder(work: Path, settings: dict[str, Any], target: Path) -> None:
    """Begin or continue a piece of work.

    Args:
        work: The folder; its ``settings.json`` tells what it was begun with.
        settings: What decides the result.
        target: What will be made; it must not be there when the work begins.

    Raises:
        FileExistsError: If the target exists without a work folder, or the work was begun with other settings.
    """
    path = work / "settings.json"
    if not path.is_file():
        if target.exists():
            raise FileExistsError(f"{target} exists and was not begun by this command; choose another name or delete it")
        write_json(path, settings)
        return
    before = read_json(path)
    differing = sorted(key for key in {*settings, *before} if as_json(settings.get(key)) != before.get(key))
    if differing:
        raise FileExistsError(
            f"{target} was begun with another {', '.join(differing)} (see {path}); finish it with the same settings, "
            f"choose another name, or delete {work}"
        )
