"""Generated parts as training data: the generator of ``demo/`` behind the interface of a source."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs

from anoclip_anomalib.data.auxiliary import Drawn
from anoclip_anomalib.data.sources import GeneratedSpec
from anoclip_anomalib.demo.inspection_samples import DrawnParts
from anoclip_anomalib.demo.photo_textures import photo_textures


def drawn_parts(spec: GeneratedSpec, image_size: int, seed: int) -> tuple[Drawn, Mapping[str, Any]]:
    """The generated part of a source.

    Args:
        spec: What the source says about it.
        image_size: Side of the images in pixels.
        seed: Of all images.

    Returns:
        The images, and what the header of what is trained on them must say: packages, versions and licences of the
        photographs, if any were used.

    Raises:
        RuntimeError: If photographs are wanted and cannot be fetched.
    """
    photos = photo_textures(Path(platformdirs.user_cache_dir("anoclip_anomalib")) / "textures") if spec.photos else None
    return DrawnParts(spec.images, image_size, photos, seed, spec.plain), photos.facts if photos is not None else {}
