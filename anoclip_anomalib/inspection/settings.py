"""What a run's results depend on, as a user says it: checked without torch, kept with the results."""

import os
from collections.abc import Iterable
from inspect import signature
from itertools import islice
from pathlib import Path
from typing import Any

from anoclip_anomalib.files import printable
from anoclip_anomalib.inspection.inspector import Inspector
from anoclip_anomalib.inspection.model import check_model, usual_model
from anoclip_anomalib.inspection.photos import Photos
from anoclip_anomalib.inspection.places import absolute, is_address

# What an inspector takes, with its defaults; its other arguments are those in "set".
_ARGUMENTS = {name: one.default for name, one in signature(Inspector).parameters.items() if one.kind is not one.VAR_KEYWORD}
DEFAULTS: dict[str, Any] = {"photos": [], "base": "", **_ARGUMENTS, "adapt": False, "set": {}, "pictures": True}
_WEIGHT_FILES = (".safetensors", ".pt", ".pth", ".bin")


def settings_of(given: dict[str, Any], before: dict[str, Any] | None = None) -> dict[str, Any]:
    """Complete and check what was given; files and folders become absolute.

    Args:
        given: Some of :data:`DEFAULTS`' keys, others are of no interest.
        before: The settings of a run that goes on: they stay, and what is given must agree with them.

    Raises:
        ValueError: If something cannot be used, with what could be.
        FileNotFoundError: If a file or folder does not exist, with the nearest name.
    """
    own = {key: value for key, value in given.items() if key in DEFAULTS and (key != "photos" or value)}
    if own.get("photos"):
        own["base"] = str(Path.cwd())
    for key in ("good", "weights", "adapters"):
        if own.get(key) is not None:
            own[key] = _file(key, own[key])
    if own.get("good") is not None and not os.path.isdir(own["good"]):
        raise ValueError(f"--good {printable(own['good'])} is no folder: name the folder with photographs of good parts")
    for key in own.get("set", {}):
        if key in _ARGUMENTS:
            raise ValueError(f"--set {key}=... has an option of its own: --{key.replace('_', '-')}")
    if "threshold" in own:
        from anoclip_anomalib.inspection.decision import check_threshold

        own["threshold"] = check_threshold(own["threshold"])
    if before is not None:
        different = [
            f"--{key.replace('_', '-')} {value}, which was {'not given' if before.get(key) is None else before[key]}"
            for key, value in own.items()
            if key not in ("photos", "base") and value != before.get(key)
        ]
        if "photos" in own and _places(own) != _places(before):
            different.append(f"other photographs than {' '.join(before['photos'])}")
        if different:
            raise ValueError(f"A run goes on with the settings that it was begun with; this asks for {'; '.join(different)}")
        return DEFAULTS | before
    settings = DEFAULTS | own
    if not settings["photos"]:
        raise ValueError("Which photographs? Give files or folders")
    said = [settings[key] for key in ("adapters", "backbone", "weights", "good")]
    settings["model"] = check_model(settings["model"] or usual_model(*said, settings["adapt"] or None, settings["set"] or None))
    return settings


def photos_of(settings: dict[str, Any]) -> tuple[Photos, int]:
    """The photographs of a run, and their number.

    Raises:
        ValueError: If there is none, or the good folder has none.
        FileNotFoundError: If a file or folder does not exist.
    """
    good: list[str] = []
    if settings["good"] is not None:
        reference = list(Photos([settings["good"]]))
        if fault := next((photo.fault for photo in reference if photo.fault), ""):
            raise ValueError(f"--good {printable(settings['good'])} cannot be used: {fault}")
        good = [photo.file for photo in reference]
        if not good:
            raise ValueError(f"--good {printable(settings['good'])} has no photographs: give a folder with some of good parts")
    photos = Photos(settings["photos"], settings["base"], without=good)
    total = photos.count()
    if total == 0:
        named = ", ".join(printable(path) for path in islice(photos.given, 3))
        found = ", ".join(f"{count} {reason}" for reason, count in photos.left_out.items())
        hint = f"left out were {found}" if found else "photographs end in .jpg, .png, .bmp, .tif, .webp, ..."
        raise ValueError(f"No photographs to inspect in {named}: {hint}")
    return photos, total


def inspector_of(settings: dict[str, Any]) -> Inspector:
    """The inspector that a run's settings ask for; imports torch.

    Raises:
        ValueError: See :class:`anoclip_anomalib.inspection.inspector.Inspector`.
        OSError: See there.
        RuntimeError: See there.
    """
    inspector = Inspector(**{name: settings[name] for name in _ARGUMENTS}, **settings["set"])
    return inspector.adapt() if settings["adapt"] else inspector


def _file(key: str, text: str) -> str:
    """A file or folder as absolute path; names of weights stay as they are."""
    if key != "good" and not os.path.exists(text) and not text.endswith(_WEIGHT_FILES) and os.sep not in text:
        return text
    if is_address(text):
        raise ValueError(f"--{key} {text} must be on this machine")
    try:
        Photos([text])
    except FileNotFoundError as error:
        raise FileNotFoundError(
            str(error).replace("No such photograph or folder", f"--{key}: no such file or folder", 1)
        ) from error
    return os.path.abspath(text)


def _places(settings: dict[str, Any]) -> Iterable[str]:
    return [absolute(settings["base"], path) for path in settings["photos"]]
