"""The bundled demonstration: image generator, small CLIP and how it was trained, data set, gallery."""

from collections.abc import Callable
from typing import TypeVar

Function = TypeVar("Function", bound=Callable)


def by_name(*functions: Function, space: str = " ") -> dict[str, Function]:
    """Functions under their own names, with ``space`` between the words."""
    return {function.__name__.replace("_", space): function for function in functions}
