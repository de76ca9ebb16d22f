"""Which normal images a few-shot model gets: from a folder, or k of the datamodule's training images."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from anoclip_anomalib.data import FolderImages
from anoclip_anomalib.evaluation.resolution import datasets_of
from anoclip_anomalib.versions import sha256_of

logger = logging.getLogger(__name__)
_LOOKED_AT = 20  # images whose sizes are compared


def images_of_folder(folder: str | Path, argument: str = "normal_images") -> list[Path]:
    """The image files of a folder and its subfolders, in order of their names.

    Args:
        folder: With photographs of good parts.
        argument: What the user calls it.

    Raises:
        ValueError: If there is no such folder, a part of it cannot be read, or it has no image.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ValueError(f"{argument}={str(folder)!r} is no folder: name the folder with photographs of good parts")
    try:
        images = FolderImages(path)
    except ValueError as error:
        raise ValueError(
            f"No images in {argument}={str(folder)!r}: a folder with image files (.jpg, .png, .bmp, .tif, ...) is needed"
        ) from error
    if images.faults:
        raise ValueError(f"{argument}={str(folder)!r} cannot be used: {next(iter(images.faults.values()))}")
    return images.image_filenames


def images_of_datamodule(datamodule: Any, k: int, seed: int) -> list[Path]:
    """Choose k normal images of the training split: the first in an order that seed and file names alone decide.

    Every process, machine and run chooses alike. What a split without a seed takes for validation is passed over.

    Args:
        datamodule: Anomalib's, set up.
        k: How many.
        seed: Of the choice.

    Raises:
        ValueError: If there is no training split, or it has fewer normal images.
    """
    samples = getattr(getattr(datamodule, "train_data", None), "samples", None)
    if samples is None:
        raise ValueError(
            f"k_shot={k} takes normal images from a data set's training split; there is none here. Use normal_images=FOLDER"
        )
    normal = samples[samples["label_index"] == 0] if "label_index" in samples else samples
    paths = sorted(map(str, normal["image_path"]))
    if len(paths) < k:
        raise ValueError(f"k_shot={k}, but the training split has {len(paths)} normal images")
    return sorted(sorted(map(Path, paths), key=lambda path: _place(path, seed))[:k])


def _place(path: Path, seed: int) -> bytes:
    """Where an image stands in the order of a seed; the folders above the data set's own do not matter."""
    return hashlib.sha256("/".join([str(seed), *path.parts[-3:]]).encode(errors="surrogateescape")).digest()


def images_of_loaders(loaders: Any) -> list[Path]:
    """The image files that a stage's data loaders, one or several in lists or mappings, will read, as far as they tell."""
    found: list[Path] = []
    for dataset in datasets_of(loaders):
        samples = getattr(dataset, "samples", None)
        paths = samples["image_path"] if samples is not None else getattr(dataset, "image_filenames", ())
        found += [Path(path) for path in paths]
    return found


def shared_images(normal: Sequence[Path], tested: Sequence[Path]) -> list[Path]:
    """The tested images that are among the normal ones: the same file, or one with the same content.

    Only files of equal size are read.
    """
    sizes = {path.stat().st_size for path in normal}
    alike = [path for path in tested if path.is_file() and path.stat().st_size in sizes]
    met = {path.stat().st_size for path in alike}
    known = {sha256_of(path) for path in normal if path.stat().st_size in met}
    return [path for path in alike if sha256_of(path) in known]


def check_leakage(normal: Sequence[Path], tested: Sequence[Path], *, refuse: bool) -> None:
    """Name tested images that the model is given as normal ones.

    Args:
        normal: The normal images.
        tested: The images of this run.
        refuse: Raise instead of warning: figures would be wrong.

    Raises:
        ValueError: If there are any, and ``refuse``.
    """
    shared = shared_images(normal, tested)
    if not shared:
        return
    named = ", ".join(map(str, shared[:3])) + (", ..." if len(shared) > 3 else "")
    msg = f"Leakage: {len(shared)} of {len(tested)} images to be scored are among the {len(normal)} normal images: {named}"
    if refuse:
        raise ValueError(f"{msg}. Take them out of one of the two")
    logger.warning("%s. Their scores say nothing", msg)


def warn_of_sizes(normal: Sequence[Path], tested: Sequence[Path]) -> None:
    """Say so if no normal image is as large as any of the first tested ones.

    Args:
        normal: The normal images.
        tested: The images of this run.
    """
    ours, theirs = ({size for path in paths[:_LOOKED_AT] for size in _size(path)} for paths in (normal, tested))
    if ours and theirs and not ours & theirs:
        named = [", ".join(f"{width} x {height}" for width, height in sorted(sizes)[:3]) for sizes in (ours, theirs)]
        logger.warning(
            "The normal images are of another size (%s) than those to be scored (%s): resized, they show details and "
            "proportions differently, which counts as anomalous. Photograph them alike",
            *named,
        )


def _size(path: Path) -> list[tuple[int, int]]:
    """(width, height) that the file's header says; nothing if it cannot be read."""
    try:
        with Image.open(path) as image:
            return [image.size]
    except OSError:
        return []


def warn_of_disagreement(left_out: torch.Tensor, tested: torch.Tensor) -> None:
    """Say so if the normal images are less alike than the tested ones are like them: they may be of several products.

    Args:
        left_out: (N,) image scores of the normal images, each left out.
        tested: (M,) image scores of the tested ones.
    """
    if len(left_out) > 1 and len(tested) > 1 and tested.median() < left_out.median():
        logger.warning(
            "The %d normal images disagree among themselves (median score %.2f, each left out) more than with the %d tested "
            "images (%.2f): are they of one product, photographed alike?",
            len(left_out),
            left_out.median(),
            len(tested),
            tested.median(),
        )
