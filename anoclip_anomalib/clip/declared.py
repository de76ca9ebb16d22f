"""What an architecture's configuration says about its image tower, before any weights are loaded."""

from types import SimpleNamespace

import open_clip

from anoclip_anomalib.clip.patch_embedding import check_image_size, pair
from anoclip_anomalib.clip.weights import DEMO, demo_config


def check_declared_size(backbone: str, size: tuple[int, int] | None) -> None:
    """Refuse an image size that does not fit the backbone's patches; architectures that are not known here pass.

    Args:
        backbone: See :func:`anoclip_anomalib.clip.load_clip`.
        size: (height, width) of the images; ``None`` for the one that the backbone was trained with.

    Raises:
        ValueError: If the size is not a multiple of the patch size.
    """
    known = backbone == DEMO or backbone in open_clip.list_models()
    config = (demo_config() if backbone == DEMO else open_clip.get_model_config(backbone)) if known else None
    patch_size = config["vision_cfg"].get("patch_size") if config else None
    if size is not None and patch_size is not None:
        check_image_size(SimpleNamespace(patch_size=pair(patch_size)), *size)
