"""Images from folders that nobody has prepared."""

from anoclip_anomalib.data.folders import FolderImages, check_masks, read_image

__all__ = ["FolderImages", "check_masks", "read_image"]
