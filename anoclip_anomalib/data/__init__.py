"""Images from folders that nobody has prepared, images that this package draws, and labelled data to train on.

What is named here is loaded when it is first used: a source's YAML can be checked without the seconds that torch takes.
"""

from typing import TYPE_CHECKING

from anoclip_anomalib.registry import lazy

if TYPE_CHECKING:
    from anoclip_anomalib.data.folders import FolderImages, check_masks, warn_of_depth
    from anoclip_anomalib.data.generated import GeneratedParts
    from anoclip_anomalib.data.images import read_image

__all__ = ["FolderImages", "GeneratedParts", "check_masks", "read_image", "warn_of_depth"]

__getattr__ = lazy(__name__, dict.fromkeys(__all__, "folders") | {"GeneratedParts": "generated", "read_image": "images"})
