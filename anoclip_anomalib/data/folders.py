"""Images from a folder that nobody has prepared."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from anomalib.data import ImageBatch, ImageItem, MVTecAD
from anomalib.data.utils import get_image_filenames
from anomalib.data.utils.image import is_image_file
from PIL import Image, ImageOps
from torch.utils.data import Dataset
from tqdm import tqdm

logger = logging.getLogger(__name__)

_SHOW_PROGRESS_FROM = 50  # images; below that the check is over before anyone could read the bar


def read_image(path: str | Path) -> torch.Tensor:
    """Read an image as a viewer would show it.

    The camera's rotation (EXIF) is applied, 16-bit images keep their range instead of being clipped to white, grey and
    palette images become RGB, and transparent ones are laid on white.

    Args:
        path: An image file that Pillow can read.

    Returns:
        (3, H, W) float32 in [0, 1].

    Raises:
        OSError: If the file is no image, or is truncated; the message names it.
    """
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        msg = f"Cannot read image {path}: {error}"
        raise OSError(msg) from error
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float32)
        if not np.isfinite(values).all():
            msg = f"Cannot read image {path}: it has values that are not finite"
            raise OSError(msg)
        # What is stored in 16 bits is read as such, however dark: the brightness of a pixel must not depend on the others.
        return _deep_image(values, peak=65535.0 if image.mode.startswith("I;16") else _likely_peak(values))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    array = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def _deep_image(values: np.ndarray, peak: float) -> torch.Tensor:
    """Grey (H, W) values of more than 8 bits to (3, H, W) in [0, 1], where ``peak`` is white."""
    grey = torch.from_numpy(np.clip(values / peak, 0.0, 1.0))
    return grey.expand(3, -1, -1).contiguous()


def _likely_peak(values: np.ndarray) -> float:
    """White in an image of 32-bit integers or floats, which may hold anything: 1, 255 or 65535."""
    peak = values.max(initial=0.0)
    return 1.0 if peak <= 1 else 255.0 if peak <= 255 else 65535.0


def check_masks(datamodule: object) -> None:
    """Refuse an MVTec AD category that lacks masks, which anomalib answers with an error about the length of keys.

    Args:
        datamodule: Any; all but anomalib's ``MVTecAD`` are taken as they are.

    Raises:
        ValueError: Naming the folder and what to do without masks.
    """
    if not isinstance(datamodule, MVTecAD):
        return
    category = Path(datamodule.root) / datamodule.category
    for defect in sorted(path for path in category.glob("test/*") if path.is_dir() and path.name != "good"):
        folder = category / "ground_truth" / defect.name
        images, masks = (sum(is_image_file(path) for path in found.glob("*")) for found in (defect, folder))
        if images != masks:
            msg = (
                f"{defect} has {images} images, but {folder} has {masks} masks: MVTecAD needs one for each. Without masks use "
                f"--data Folder --data.name {datamodule.category} --data.root {category} --data.normal_dir train/good "
                f"--data.normal_test_dir test/good --data.abnormal_dir test/{defect.name}"
            )
            raise ValueError(msg)


class FolderImages(Dataset):
    """The images of a folder and its subfolders, or a single image, for prediction.

    Every file is decoded once beforehand, so that an unreadable one is named and left out instead of ending a long run.

    Args:
        path: Image file or folder.
        transform: Applied to each (3, H, W) image.

    Raises:
        FileNotFoundError: If the path does not exist.
        ValueError: If the folder has no image, or none that can be read.
    """

    def __init__(self, path: str | Path, transform: Callable[[torch.Tensor], torch.Tensor] | None = None) -> None:
        self.path = Path(path)
        self.transform = transform
        if not self.path.exists():
            msg = f"No such image or folder: {self.path}"
            raise FileNotFoundError(msg)
        try:
            found = get_image_filenames(self.path)
        except ValueError as error:
            if self.path.is_file():
                msg = f"{self.path} is no image: its name does not end in .jpg, .png, .bmp, .tif, ..."
                raise ValueError(msg) from error
            msg = f"No images in {self.path}: a folder with image files (.jpg, .png, .bmp, .tif, ...) is needed"
            raise ValueError(msg) from error
        self.image_filenames = _readable(found)
        if not self.image_filenames:
            msg = f"None of the {len(found)} image(s) in {self.path} can be read; the first is {found[0]}"
            raise ValueError(msg)

    def __len__(self) -> int:
        return len(self.image_filenames)

    def __getitem__(self, index: int) -> ImageItem:
        path = self.image_filenames[index]
        image = read_image(path)
        if self.transform is not None:
            image = self.transform(image)
        return ImageItem(image=image, image_path=str(path))

    @property
    def collate_fn(self) -> Callable:
        """anomalib's collation of items to a batch."""
        return ImageBatch.collate


def _readable(paths: Sequence[Path]) -> list[Path]:
    with ThreadPoolExecutor() as pool:
        faults = tqdm(
            pool.map(_fault, paths),
            total=len(paths),
            desc="Checking images",
            disable=len(paths) < _SHOW_PROGRESS_FROM,
        )
        checked = list(zip(paths, faults, strict=True))
    for _, fault in checked:
        if fault:
            logger.warning("%s. It is left out.", fault)
    return [path for path, fault in checked if not fault]


def _fault(path: Path) -> str | None:
    try:
        read_image(path)
    except OSError as error:
        return str(error)
    return None
