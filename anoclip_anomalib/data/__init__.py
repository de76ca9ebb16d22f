"""Images from folders that nobody has prepared, and images that this package draws."""

from anoclip_anomalib.data.folders import FolderImages, check_masks, read_image
from anoclip_anomalib.data.generated import GeneratedParts

__all__ = ["FolderImages", "GeneratedParts", "check_masks", "read_image"]
