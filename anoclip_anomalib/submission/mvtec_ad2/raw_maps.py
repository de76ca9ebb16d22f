"""Raw anomaly maps of one object on disk, at the model's own resolution: what the writers start from.

Keeping the maps as the model gave them needs a tenth of the space of maps at original size, and makes a second pass over an
object's scores (for a range that is the same for all its images) possible without a second prediction.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anoclip_anomalib.evaluation.resolution import image_size, resize_map
from anoclip_anomalib.files import atomic_write


@dataclass(frozen=True)
class RawMap:
    """One prediction.

    Attributes:
        image: The input image.
        scores: (h, w) float32 at the model's resolution.
        image_score: The model's own image score.
    """

    image: Path
    scores: np.ndarray
    image_score: float

    def at_original_size(self) -> np.ndarray:
        """The map (H, W) float32 at the size of the image file, bilinear."""
        return resize_map(self.scores, image_size(self.image))


class RawMapStore:
    """Maps of the images below one folder, each in a file of its own; complete files survive an interruption.

    Args:
        folder: Where the maps lie.
        images: The folder that all images lie below, such as ``<root>/can``.
    """

    def __init__(self, folder: str | Path, images: str | Path) -> None:
        self.folder, self.images = Path(folder), Path(images)

    def path(self, image: str | Path) -> Path:
        """The file of an image's map.

        Raises:
            ValueError: If the image does not lie below the folder of images.
        """
        return self.folder / Path(image).relative_to(self.images).with_suffix(".npz")

    def has(self, image: str | Path) -> bool:
        """Whether the map is there."""
        return self.path(image).is_file()

    def write(self, image: str | Path, scores: np.ndarray, image_score: float) -> None:
        """Keep one prediction."""
        with atomic_write(self.path(image)) as temporary:
            np.savez(temporary, scores=np.asarray(scores, dtype=np.float32), image_score=np.float64(image_score))

    def read(self, image: str | Path) -> RawMap:
        """One prediction.

        Raises:
            ValueError: If its file is damaged.
        """
        try:
            with np.load(self.path(image), allow_pickle=False) as content:
                return RawMap(Path(image), content["scores"], float(content["image_score"]))
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise ValueError(f"{self.path(image)} is damaged ({error}); delete it and run the command again") from error
