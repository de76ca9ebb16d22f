"""Names of the files that a run writes for its images: in the images' folders, never outside, never twice the same."""

import os
from pathlib import Path
from typing import Any

from anoclip_anomalib.files import csv_safe, printable

_LONGEST = 200  # bytes; file systems take 255, and a number or another suffix may follow


def safe_part(name: str) -> str:
    """A file or folder name that cannot leave its folder: separators and leading dots are replaced."""
    name = "".join("_" if char in '/\\:*?"<>|' else char for char in printable(name))
    return "_" + name.lstrip(".") if name.startswith(".") or not name else name


def path_cell(path: str | Path) -> str:
    """A path as it stands in a CSV: a spreadsheet would run ``=cmd.png`` as a formula, ``./=cmd.png`` is the same file."""
    text = printable(path)
    return f"./{text}" if csv_safe(text) != text else text


def prediction_root(trainer: Any) -> Path | None:
    """The folder whose images a trainer is predicting; ``None`` for other data."""
    from anoclip_anomalib.evaluation.resolution import datasets_of  # imports torch, which names do without

    loaders = trainer.predict_dataloaders if getattr(trainer, "predicting", False) else None
    paths = (getattr(dataset, "path", None) for dataset in datasets_of(loaders))
    return next((Path(path) for path in paths if isinstance(path, str | Path) and os.path.isdir(path)), None)


def below_root(image_path: str | Path, root: Path | None) -> Path:
    """An image's path from ``root`` on, the name of ``root`` included; without a root, its folder's name and its own."""
    image_path = Path(image_path)
    if root is not None and image_path.is_relative_to(root):
        return Path(os.path.basename(os.path.abspath(root))) / image_path.relative_to(root)
    return Path(image_path.parent.name or "images", image_path.name)


class OutputNames:
    """Gives every file of a run a name of its own; equal ones get ``-2``, ``-3``, ..."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def unique(self, wanted: str | Path, suffix: str | None = None) -> Path:
        """A relative path like ``wanted``, with ``suffix`` in place of its own, that was not given before."""
        wanted = Path(wanted)
        folder = Path(*(safe_part(part) for part in wanted.parent.parts))
        stem = safe_part(wanted.stem).encode()[:_LONGEST].decode(errors="ignore")
        if suffix is None:
            suffix = "." + safe_part(wanted.suffix[1:]) if wanted.suffix else ""
        name, number = folder / (stem + suffix), 1
        while str(name).lower() in self._used:  # lower: some file systems do not tell cases apart
            number += 1
            name = folder / f"{stem}-{number}{suffix}"
        self._used.add(str(name).lower())
        return name
