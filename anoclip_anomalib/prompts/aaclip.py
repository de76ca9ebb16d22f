"""The words of AA-CLIP's prompts, as data (authors' ``dataset/constants.py`` and ``forward_utils.py``). Strings only."""

import logging
from collections.abc import Mapping, Sequence
from typing import TypeAlias

logger = logging.getLogger(__name__)

Descriptions: TypeAlias = Mapping[str, str | Sequence[str]]
"""Class -> what the sentences say about it, one text or several."""

NORMAL_STATES: tuple[str, ...] = ("{}", "a {}", "the {}")
ABNORMAL_STATES: tuple[str, ...] = (
    "a damaged {}",
    "a broken {}",
    "a {} with flaw",
    "a {} with defect",
    "a {} with damage",
)
TEMPLATES: tuple[str, ...] = ("{}.", "a photo of {}.")

DESCRIPTIONS: dict[str, str] = {
    # MVTec AD
    "bottle": "dark bottle",
    "cable": "top view of three cables",
    "capsule": "black and orange capsule",
    "carpet": "gray carpet",
    "grid": "metal or plastic mesh",
    "hazelnut": "single brown hazelnut",
    "leather": "brown leather",
    "metal_nut": "metal nut which has four notched edges",
    "pill": "oval white pill with small red speckles and the letters 'FF' engraved",
    "screw": "screw",
    "tile": "speckled tile surface",
    "transistor": "a three-legged transistor placed vertically",
    "toothbrush": "toothbrush head",
    "wood": "wood surface",
    "zipper": "a black zipper",
    # VisA
    "candle": "candle",
    "capsules": "capsules",
    "cashew": "cashew nut",
    "chewinggum": "chewing gum",
    "fryum": "wheel-shaped fryum snack",
    "macaroni1": "orange macaroni",
    "macaroni2": "scattered yellow macaroni",
    "pcb1": "dual ultrasonic distance sensor pcb module",
    "pcb2": "integrated circuits board",
    "pcb3": "infrared sensor pcb module",
    "pcb4": "battery charging pcb module",
    "pipe_fryum": "pipe-shaped fryum",
    # medical
    "Brain": "scan",
    "Liver": "scan",
    "Retina": "scan",
    "Colon_clinicDB": "colon endoscopy image",
    "Colon_colonDB": "colon endoscopy image",
    "Colon_Kvasir": "colon endoscopy image",
    "Colon_cvc300": "colon endoscopy image",
    # MPDD
    "connector": "metal clamps with black adjustment knobs",
    "tubes": "scattered metal objects",
    "metal_plate": "blue rectangular metal plate with a notch on one side",
    "bracket_white": "white, elongated triangular metal bracket with a smooth, matte finish",
    "bracket_brown": ("brown L-shaped metal bracket with smooth, glossy finish and multiple mounting holes along its arms"),
    "bracket_black": "black ornamental metal bracket with spiral design attached to a rectangular frame",
    # BTAD; the authors' text for 01 is not at hand
    "02": "vertical fabric lines in warm, dusty pink and beige tones",
    "03": "oval concentric circular rings in gradient shades of blue and white",
}
"""Category -> the authors' hand-written description. It is knowledge about the data set, so it can be replaced."""


def described(class_name: str, descriptions: Descriptions | None = None) -> list[str]:
    """What the sentences say for a class; it is logged if nobody described it.

    Args:
        class_name: As the data set names it.
        descriptions: Own descriptions, one or several for a class; they come before the authors'.

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
    if not is_described(class_name, descriptions):
        logger.info("Nobody described the class %r; the prompts use its name: %r", class_name, name)
    return texts


def is_described(class_name: str, descriptions: Descriptions | None = None) -> bool:
    """Whether somebody described the class; otherwise its name is used as it is."""
    return class_name in DESCRIPTIONS or class_name in (descriptions or {})


def sentences(description: str) -> tuple[list[str], list[str]]:
    """The 6 normal and 10 abnormal sentences about a description."""
    normal, abnormal = (
        [template.format(state.format(description)) for state in states for template in TEMPLATES]
        for states in (NORMAL_STATES, ABNORMAL_STATES)
    )
    return normal, abnormal
