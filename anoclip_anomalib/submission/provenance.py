"""What lies beside a submission, since nothing else may lie inside: how it was made, and the work that is not finished."""

import json
import re
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from anoclip_anomalib.files import atomic_write, plain
from anoclip_anomalib.versions import commit, machine, sha256_of, versions


def provenance_path(submission: str | Path) -> Path:
    """Where the provenance of a submission folder or file lies."""
    submission = Path(submission)
    return submission.with_name(re.sub(r"(\.tar\.gz|\.zip|\.csv|\.yaml|\.py)$", "", submission.name) + ".provenance.json")


def write_provenance(submission: str | Path, facts: dict[str, Any], archive: Path | None = None) -> Path:
    """Write the provenance beside a submission.

    Args:
        submission: The folder or file described.
        facts: What the writer knows: configuration, weights' digest, threshold rule, figures.
        archive: The packed file, whose digest is noted.

    Returns:
        The path written.
    """
    content: dict[str, Any] = {
        "submission": Path(submission).name,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **facts,
        "versions": versions(),
        "commit": commit(),
        "machine": machine(),
    }
    if archive is not None:
        content["archive"] = {"name": archive.name, "sha256": sha256_of(archive), "bytes": archive.stat().st_size}
    path = provenance_path(submission)
    write_json(path, content)
    return path


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; NaN, which JSON does not know, as null."""
    with atomic_write(path) as temporary:
        text = json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no UTF-8, or no JSON
        raise ValueError(f"{path} is no valid JSON ({error}); delete it and run the command again") from error


def check_name(name: str) -> str:
    """The name of a submission, if it can be a folder's or a file's.

    Raises:
        ValueError: If it cannot.
    """
    if not name or name != Path(name).name or name.startswith("."):
        raise ValueError(f"'{name}' is no name for a folder: letters, digits, '-' and '_' without any '/'")
    return name


def open_work_folder(work: Path, settings: dict[str, Any], target: Path, build: Callable[[], object] = lambda: None) -> None:
    """Begin or continue a piece of work.

    Args:
        work: The folder; its ``settings.json`` tells what it was begun with.
        settings: What decides the result.
        target: What will be made; it must not be there when the work begins.
        build: Builds the model. A folder that was begun with arguments that it refuses would stand in the way of better ones.

    Raises:
        FileExistsError: If the target exists without a work folder, or the work was begun with other settings.
    """
    path = work / "settings.json"
    if not path.is_file():
        if target.exists():
            raise FileExistsError(f"{target} exists and was not begun by this command; choose another name or delete it")
        build()
        write_json(path, settings)
        return
    before = read_json(path)
    if differing := sorted(key for key in {*settings, *before} if plain(settings.get(key)) != before.get(key)):
        raise FileExistsError(
            f"{target} was begun with another {', '.join(differing)} (see {path}); finish it with the same settings, "
            f"choose another name, or delete {work}"
        )
