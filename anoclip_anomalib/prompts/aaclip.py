"""The words of AA-CLIP's prompts, as data (authors' ``dataset/constants.py`` and ``forward_utils.py``). Strings only."""

import logging
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TypeAlias

import yaml

from anoclip_anomalib.prompts.april_gan import combined

logger = logging.getLogger(__name__)

Descriptions: TypeAlias = Mapping[str, str | Sequence[str]]
"""Class -> what the sentences say about it, one text or several."""

NORMAL_STATES: tuple[str, ...] = ("{}", "a {}", "the {}")
ABNORMAL_STATES: tuple[str, ...] = ("a damaged {}", "a broken {}", "a {} with flaw", "a {} with defect", "a {} with damage")
TEMPLATES: tuple[str, ...] = ("{}.", "a photo of {}.")

DESCRIPTIONS: dict[str, str] = yaml.safe_load((files(__package__) / "aaclip_descriptions.yaml").read_text(encoding="utf-8"))
"""Category -> the authors' hand-written description. It is knowledge about the data set, so it can be replaced."""


def described(class_name: str, descriptions: Descriptions | None = None, *, known: bool = False) -> list[str]:
    """What the sentences say for a class; it is logged if nobody described it.

    Args:
        class_name: As the data set names it.
        descriptions: Own descriptions, one or several for a class; they come before the authors'.
        known: It was logged before.

    Returns:
        At least one description; the class name itself if nobody described it, with spaces for underscores.

    Raises:
        ValueError: If the name or a description is empty.
    """
    name = class_name.replace("_", " ")
    found = (descriptions or {}).get(class_name, DESCRIPTIONS.get(class_name, name))
    texts = [found] if isinstance(found, str) else list(found)
    if not class_name.strip() or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"The class {class_name!r} needs a name and a description that are not empty; got {texts!r}")
    if not known and not is_described(class_name, descriptions):
        logger.info("Nobody described the class %r; the prompts use its name: %r", class_name, name)
    return texts


def is_described(class_name: str, descriptions: Descriptions | None = None) -> bool:
    """Whether somebody described the class; otherwise its name is used as it is."""
    return class_name in DESCRIPTIONS or class_name in (descriptions or {})


def sentences(description: str) -> tuple[list[str], list[str]]:
    """The 6 normal and 10 abnormal sentences about a description."""
    return combined(description, NORMAL_STATES, TEMPLATES), combined(description, ABNORMAL_STATES, TEMPLATES)
