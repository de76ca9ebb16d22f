"""``<name>.provenance.json``: how a submission was made; beside its folder, since nothing else may lie inside."""

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from anoclip_anomalib.files import atomic_write, plain
from anoclip_anomalib.versions import commit, machine, sha256_of, versions


def provenance_path(submission: str | Path) -> Path:
    """Where the provenance of a submission folder or file lies."""
    submission = Path(submission)
    name = submission.name
    for suffix in (".tar.gz", ".zip", ".csv", ".yaml", ".py"):
        name = name.removesuffix(suffix)
    return submission.with_name(f"{name}.provenance.json")


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
        temporary.write_text(json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no valid JSON ({error}); delete it and run the command again") from error


def as_json(value: Any) -> Any:
    """What ``read_json`` gives for a value that ``write_json`` wrote: lists for tuples, null for NaN."""
    return json.loads(json.dumps(plain(value)))
