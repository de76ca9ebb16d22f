"""The words of APRIL-GAN and AdaCLIP, as data (authors' ``prompt_ensemble.py`` and ``method/adaclip.py``). Strings only.

``{}`` is the class name in a state and the state phrase in a template.
"""

from collections.abc import Sequence

NORMAL_STATES: tuple[str, ...] = ("{}", *(f"{word} {{}}" for word in ("flawless", "perfect", "unblemished"))) + tuple(
    f"{{}} without {word}" for word in ("flaw", "defect", "damage")
)
ABNORMAL_STATES: tuple[str, ...] = ("damaged {}", "broken {}", *(f"{{}} with {word}" for word in ("flaw", "defect", "damage")))

_PHOTOS = (
    "bad",
    "low resolution",
    "cropped",
    "bright",
    "dark",
    "close-up",
    "black and white",
    "jpeg corrupted",
    "blurry",
    "good",
)
TEMPLATES: tuple[str, ...] = (
    *(f"a {photo} photo of {article} {{}}." for photo in _PHOTOS for article in ("a", "the")),
    *(f"a photo of {words} {{}}." for words in ("a", "the", "one", "my")),
    *(f"a photo of {article} {word} {{}}." for word in ("cool", "large", "small") for article in ("a", "the")),
    *(f"there is {article} {{}} in the scene." for article in ("a", "the")),
    *(f"this is {article} {{}} in the scene." for article in ("a", "the", "one")),
)
"""APRIL-GAN's 35, which CLIP's authors use for ImageNet."""
ADACLIP_TEMPLATES: tuple[str, ...] = (
    "a bad photo of a {}.",
    "a low resolution photo of the {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
)


def combined(name: str, states: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Each state of what has the name, in each template."""
    return [template.replace("{}", state.replace("{}", name)) for state in states for template in templates]


def sentences(class_name: str, templates: Sequence[str] = TEMPLATES) -> tuple[list[str], list[str]]:
    """The normal and the abnormal sentences about a class.

    Args:
        class_name: As it shall stand in the sentences.
        templates: :data:`TEMPLATES` or :data:`ADACLIP_TEMPLATES`.

    Raises:
        ValueError: If the name is empty.
    """
    if not class_name.strip():
        raise ValueError("The class name is empty: give the name of the product, such as class_name='metal_nut'")
    return combined(class_name, NORMAL_STATES, templates), combined(class_name, ABNORMAL_STATES, templates)
