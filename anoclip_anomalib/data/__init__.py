"""Images from folders that nobody has prepared, and images that this package draws."""

from anoclip_anomalib.data.folders import FolderImages, check_masks, warn_of_depth
from anoclip_anomalib.data.generated import GeneratedParts
from anoclip_anomalib.data.images import read_image

__all__ = ["FolderImages", "GeneratedParts", "check_masks", "read_image", "warn_of_depth"]
