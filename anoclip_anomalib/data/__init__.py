"""Images from folders that nobody has prepared."""

from anoclip_anomalib.data.folders import FolderImages, check_masks, warn_of_depth
from anoclip_anomalib.data.images import read_image

__all__ = ["FolderImages", "check_masks", "read_image", "warn_of_depth"]
