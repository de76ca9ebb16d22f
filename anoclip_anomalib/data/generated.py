"""The generated parts as a datamodule: drawn when they are first needed, with masks, in MVTec AD's layout."""

from pathlib import Path
from typing import Any

from anomalib.data import MVTecAD

from anoclip_anomalib.demo.dataset import CATEGORIES, write_demo_dataset

__all__ = ["CATEGORIES", "GeneratedParts"]


class GeneratedParts(MVTecAD):
    """Parts with and without defects that no encoder of this package was trained on; nothing is downloaded.

    ``prepare_data`` draws the category. It is there whole or not at all, is kept when it was drawn with the same arguments, and
    several processes may ask for it at once.

    Args:
        root: Folder of the data set; by default one below ``datasets/GeneratedParts`` for each choice of the next five.
        category: One of :data:`CATEGORIES`.
        image_size: Side of the square images in pixels, at least 32.
        train_good: Good images for training (other detectors need them; AnoClip does not).
        test_good: Good test images.
        test_bad: Test images of each of the category's three defect kinds.
        drawing_seed: Decides every image. (``seed`` is anomalib's, of the splits.)
        kwargs: As in anomalib's ``MVTecAD``: batch sizes, ``num_workers``, augmentations, splits, ``seed``.

    Raises:
        ValueError: In ``prepare_data``, if the category is unknown or a number is out of range.
        FileExistsError: In ``prepare_data``, if the category's folder was made otherwise; it is left as it is.
    """

    draws_itself = True  # there need be no folder before

    def __init__(
        self,
        root: Path | str | None = None,
        category: str = CATEGORIES[0],
        image_size: int = 256,
        train_good: int = 20,
        test_good: int = 20,
        test_bad: int = 10,
        drawing_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        if root is None:
            root = Path(f"datasets/GeneratedParts/{image_size}px-{train_good}-{test_good}-{test_bad}-seed{drawing_seed}")
        super().__init__(root=root, category=category, **kwargs)
        self.image_size, self.drawing_seed = image_size, drawing_seed
        self.train_good, self.test_good, self.test_bad = train_good, test_good, test_bad

    def prepare_data(self) -> None:
        """Draw the category unless it is there."""
        write_demo_dataset(
            self.root,
            [self.category],
            image_size=self.image_size,
            train=self.train_good,
            test_good=self.test_good,
            test_bad=self.test_bad,
            seed=self.drawing_seed,
        )
