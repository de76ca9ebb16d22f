"""The checkpoints of one stage of a training: a setting, and one file for each epoch."""

import json
import logging
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from anoclip_anomalib.files import atomic_write

logger = logging.getLogger(__name__)

_SETTING = "setting.json"


def open_folder(folder: Path, setting: Mapping[str, Any]) -> None:
    """Create a folder for a setting, or make sure that it is of the same setting.

    Args:
        folder: The folder.
        setting: Everything that decides the result, as JSON has it.

    Raises:
        ValueError: If what is there was made with another setting; the message says what differs.
    """
    wanted = json.loads(json.dumps(setting, sort_keys=True))
    path = folder / _SETTING
    if not path.is_file():
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(wanted, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = {}
    differing = [key for key in sorted(wanted.keys() | found.keys()) if wanted.get(key) != found.get(key)]
    if differing:
        faults = "; ".join(f"{key} was {_short(found.get(key))}, now {_short(wanted.get(key))}" for key in differing)
        raise ValueError(
            f"{folder} holds a training with another setting ({faults}); choose another --out, or remove the folder"
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def epoch_of(path: Path) -> int:
    """How many epochs a checkpoint has behind it."""
    return int(path.stem) + 1


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints that are whole, the oldest first; damaged ones are named and left out."""
    return [path for path in sorted(folder.glob("*.ckpt")) if path.stem.isdigit() and _is_whole(path)]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content, on the CPU, without running code from it."""
    return torch.load(path, map_location="cpu", weights_only=True)


def kept_checkpoint(folder: Path, *, best: bool) -> Path:
    """The checkpoint that the training's result is taken from.

    Args:
        folder: Of the stage.
        best: Take the epoch with the lowest loss on the held-out images instead of the last one.
    """
    found = checkpoints(folder)
    if not best:
        return found[-1]
    return min(found, key=lambda path: read_checkpoint(path)["losses"]["held_out_loss"])


def _is_whole(path: Path) -> bool:
    """Whether a file can be read as a checkpoint: torch writes zip archives, whose checksums it does not look at."""
    with suppress(zipfile.BadZipFile, OSError, EOFError), zipfile.ZipFile(path) as archive:
        if archive.testzip() is None:
            return True
    logger.warning("The checkpoint %s is damaged; it is left out", path)
    return False
