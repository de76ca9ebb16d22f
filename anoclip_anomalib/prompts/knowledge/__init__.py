"""What is commonly wrong with a product, as state phrases: knowledge prompts. Strings only, no torch.

The idea is KAnoCLIP's (arXiv 2501.03786), whose code is not public; nothing here reproduces it. Each YAML beside this file maps
classes to phrases with ``{}`` for the class name.
"""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path

import yaml

from anoclip_anomalib.files import read_yaml


def read_knowledge(source: str | Path | bool) -> dict[str, tuple[str, ...]]:  # noqa: FBT001
    """Class -> phrases of everything that can be wrong with it.

    Args:
        source: ``True`` for what comes with this package, where several files know a class all they say; or a YAML file.
            ``False`` for nothing.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no mapping from classes to lists of phrases with ``{}``.
    """
    if source is False:
        return {}
    return dict(_bundled()) if source is True else _checked(Path(source).expanduser())


@cache
def _bundled() -> Mapping[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for file in sorted(files(__package__).iterdir(), key=lambda file: file.name):
        if file.name.endswith(".yaml"):
            for name, phrases in yaml.safe_load(file.read_text(encoding="utf-8")).items():
                found[name] = tuple(dict.fromkeys((*found.get(name, ()), *phrases)))
    return found


def _checked(path: Path) -> dict[str, tuple[str, ...]]:
    content = read_yaml(path, "file of knowledge prompts", "classes with lists of phrases, such as bottle: ['cracked {}']")
    for name, phrases in content.items():
        fits = isinstance(name, str) and isinstance(phrases, list) and phrases
        if not fits or not all(isinstance(phrase, str) and "{}" in phrase for phrase in phrases):
            raise ValueError(
                f"{path}: {name!r} must be a class with a list of phrases that have {{}} for its name; got {phrases!r}"
            )
    return {name: tuple(phrases) for name, phrases in content.items()}
