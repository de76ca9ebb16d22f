"""Images from folders that nobody has prepared, images that this package draws, and labelled data to train on.

What is named here is loaded when it is first used: a source's YAML can be checked without the seconds that torch takes.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anoclip_anomalib.data.folders import FolderImages, check_masks, warn_of_depth
    from anoclip_anomalib.data.generated import GeneratedParts
    from anoclip_anomalib.data.images import read_image

__all__ = ["FolderImages", "GeneratedParts", "check_masks", "read_image", "warn_of_depth"]

_HOMES = {"GeneratedParts": "generated", "read_image": "images"}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'folders')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
