"""Images from a folder that nobody has prepared."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from anomalib.data import ADAM3D, Folder, Folder3D, ImageBatch, ImageItem, MVTec3D, MVTecAD
from anomalib.data.utils.image import is_image_file
from torch import distributed
from torch.utils.data import IterableDataset, get_worker_info

from anoclip_anomalib.data.images import read_image
from anoclip_anomalib.files import IMAGE_SUFFIXES, is_photograph, printable

logger = logging.getLogger(__name__)


def check_masks(datamodule: object) -> None:
    """Refuse data that lack masks, which anomalib answers with an error about the length of keys or arrays.

    Args:
        datamodule: Any; all but anomalib's ``MVTecAD`` and ``Folder`` are taken as they are.

    Raises:
        ValueError: Naming an image or its folder, and what to do without masks.
    """
    if isinstance(datamodule, Folder):
        _check_folder_masks(datamodule)
    if not isinstance(datamodule, MVTecAD):
        return
    category = Path(datamodule.root) / datamodule.category
    for defect in sorted(path for path in category.glob("test/*") if path.is_dir() and path.name != "good"):
        folder = category / "ground_truth" / defect.name
        images, masks = (sum(is_image_file(path) for path in found.glob("*")) for found in (defect, folder))
        if images != masks:
            raise ValueError(
                f"{defect} has {images} images, but {folder} has {masks} masks: MVTecAD needs one for each. Without masks use "
                f"--data Folder --data.name {datamodule.category} --data.root {category} --data.normal_dir train/good "
                f"--data.normal_test_dir test/good --data.abnormal_dir test/{defect.name}"
            )


def _check_folder_masks(datamodule: Folder) -> None:
    if not datamodule.mask_dir or not datamodule.abnormal_dir:  # anomalib then asks for no masks
        return
    kinds = {suffix.lower() for suffix in datamodule.extensions or IMAGE_SUFFIXES}
    images, masks = (
        sorted(path for folder in _paths(datamodule.root, given) for path in folder.rglob("*") if path.suffix.lower() in kinds)
        for given in (datamodule.abnormal_dir, datamodule.mask_dir)
    )
    if len(images) != len(masks):
        named = {mask.stem.removesuffix("_mask") for mask in masks}
        lacking = next((printable(image) for image in images if image.stem not in named), "one of them")
        where = ", ".join(printable(path) for path in _paths(datamodule.root, datamodule.mask_dir))
        raise ValueError(
            f"There are {len(images)} anomalous images, but {len(masks)} masks in {where}: {lacking} has none. Folder "
            "needs one for each; a test can do without any, if mask_dir is left out"
        )


def _paths(root: str | Path | None, given: str | Path | Sequence[str | Path] | None) -> list[Path]:
    return [Path(root or "", one) for one in ([given] if isinstance(given, str | Path) else given or ())]


def warn_of_depth(datamodule: object) -> None:
    """Say that models of colour images leave depth maps alone.

    Args:
        datamodule: Any; anomalib's data sets with depth maps are warned about.
    """
    if isinstance(datamodule, ADAM3D | Folder3D | MVTec3D):
        logger.warning("%s has depth maps: they are not used, only its colour images are", type(datamodule).__name__)


class FolderImages(IterableDataset):
    """The images of a folder and its subfolders, or a single image, for prediction.

    An image that cannot be read is left out, and kept in ``faults`` with the reason: one file must not end a long run, and
    must not pass for inspected either. Images are read one after the other, in the main process, so that no more than one is
    in memory. With several processes each reads its share.

    Args:
        path: Image file or folder. Links to files are followed, links to folders are not, with a warning.
        transform: Applied to each (3, H, W) image.

    Attributes:
        path: The same.
        image_filenames: What will be read, sorted.
        faults: Path -> what was wrong with it, so far.

    Raises:
        FileNotFoundError: If the path does not exist.
        ValueError: If the folder has no image.
    """

    def __init__(self, path: str | Path, transform: Callable[[torch.Tensor], torch.Tensor] | None = None) -> None:
        self.path = Path(path)
        self.transform = transform
        self.faults: dict[str, str] = {}
        if not self.path.exists():
            raise FileNotFoundError(f"No such image or folder: {printable(self.path)}")
        self.image_filenames = self._found()
        if not self.image_filenames and not self.faults:
            needed = "a folder with image files (.jpg, .png, .bmp, .tif, ...) is needed"
            raise ValueError(f"No images in {printable(self.path)}: {needed}")

    def __len__(self) -> int:
        return len(self.image_filenames)

    def __iter__(self) -> Iterator[ImageItem]:
        """Read the images.

        Raises:
            RuntimeError: In a worker process, whose account of faults would be lost.
        """
        if get_worker_info() is not None:
            raise RuntimeError("FolderImages reads in the main process: use num_workers=0")
        several = distributed.is_available() and distributed.is_initialized()
        rank, processes = (distributed.get_rank(), distributed.get_world_size()) if several else (0, 1)
        for path in self.image_filenames[rank::processes]:
            try:
                image = read_image(path)
            except OSError as error:
                self._fault(path, str(error))
                continue
            yield ImageItem(image=image if self.transform is None else self.transform(image), image_path=str(path))

    @property
    def collate_fn(self) -> Callable:
        """Anomalib's collation of items to a batch."""
        return ImageBatch.collate

    def _found(self) -> list[Path]:
        if not self.path.is_dir():
            if not is_photograph(self.path.name):
                raise ValueError(f"{printable(self.path)} is no image: its name does not end in .jpg, .png, .bmp, .tif, ...")
            return [self.path]
        found: list[Path] = []
        for folder, subfolders, names in os.walk(self.path, onerror=self._unreadable_folder):
            for name in subfolders:
                if os.path.islink(os.path.join(folder, name)):
                    logger.warning("%s is a link to a folder and is not followed", printable(Path(folder, name)))
            found.extend(Path(folder, name) for name in names if is_photograph(name))
        return sorted(found)

    def _unreadable_folder(self, error: OSError) -> None:
        self._fault(error.filename, f"Cannot read folder {printable(error.filename)}: {error.strerror}")

    def _fault(self, path: str | Path, reason: str) -> None:
        logger.warning("%s. It is left out.", reason)
        self.faults[str(path)] = reason
