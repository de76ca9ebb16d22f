"""Writes the demonstration data set in the layout of MVTec AD."""

import json
import shutil
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from anoclip_anomalib.demo.defects import visible_defect
from anoclip_anomalib.demo.held_out import DEFECTS_OF, HELD_OUT_CATEGORIES, HELD_OUT_DEFECTS
from anoclip_anomalib.demo.scene import Photograph

CATEGORIES = tuple(HELD_OUT_CATEGORIES)
"""The categories that can be written."""
_RECIPE = "demo_dataset.json"
_LIGHT = 0.5  # a production line has steadier light and a better camera than the training images


def write_demo_dataset(
    root: str | Path,
    categories: Sequence[str] = CATEGORIES,
    *,
    image_size: int = 256,
    train: int = 20,
    test_good: int = 20,
    test_bad: int = 10,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Write generated images so that ``MVTecAD(root=root, category=...)`` reads them.

    For each category: ``train/good``, ``test/good``, ``test/<defect>`` and ``ground_truth/<defect>/NNN_mask.png``. The
    encoder in this package was trained on none of these categories and defect looks. A category is written beside its
    place and then moved there, so that it is there whole or not at all; one that was finished with the same arguments is
    kept as it is.

    Args:
        root: Folder of the data set; created if needed.
        categories: Some of :data:`CATEGORIES`.
        image_size: Side of the square images in pixels.
        train: Good images for training (other detectors need them; AnoClip does not).
        test_good: Good test images.
        test_bad: Test images of each defect kind; each category has three kinds.
        seed: Decides every image. The same arguments give the same images.
        overwrite: Replace a category that is there with other arguments, or that something else wrote.

    Returns:
        ``root`` as a path.

    Raises:
        ValueError: A category is unknown, or a number is out of range.
        FileExistsError: A category's folder is there, was not made with these arguments, and ``overwrite`` is off.
    """
    root = Path(root)
    counts = {"train": train, "test_good": test_good, "test_bad": test_bad}
    check_recipe(categories, image_size, counts, seed)
    for category in categories:
        recipe = {"category": category, "image_size": image_size, **counts, "seed": seed}
        if not _is_written(root / category, recipe, overwrite=overwrite):
            _write_category(root / category, recipe)
    return root


def check_recipe(categories: Sequence[str], image_size: int, counts: dict[str, int], seed: int) -> None:
    """Raise a ``ValueError`` unless :func:`write_demo_dataset` can draw this."""
    if isinstance(categories, str) or not categories:
        raise ValueError(f"categories={categories!r} must be a list with at least one of {', '.join(CATEGORIES)}")
    unknown = [category for category in categories if category not in HELD_OUT_CATEGORIES]
    if unknown:
        raise ValueError(
            f"Unknown demonstration categories: {', '.join(map(repr, unknown))}; there are {', '.join(CATEGORIES)}"
        )
    if image_size < 32:
        raise ValueError(f"image_size={image_size} is too small: defects need at least 32 pixels")
    for name, count in {**counts, "seed": seed}.items():
        if count < (lowest := 0 if name == "seed" else 1):
            raise ValueError(f"{name}={count} must be at least {lowest}")


def _is_written(folder: Path, recipe: dict, *, overwrite: bool) -> bool:
    if not folder.exists():
        return False
    try:
        found = json.loads((folder / _RECIPE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found != recipe and not overwrite:
        what = "was generated with other settings" if found is not None else "was not written by this generator"
        raise FileExistsError(f"{folder} is there and {what}; choose another folder, or overwrite=True to replace it")
    return found == recipe


def _write_category(folder: Path, recipe: dict) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        _fill(beside, recipe)
        (beside / _RECIPE).write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
        beside.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        try:
            beside.rename(folder)
        except OSError:
            # Another process was quicker; what it wrote must be the same.
            if not _is_written(folder, recipe, overwrite=False):
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _fill(folder: Path, recipe: dict) -> None:
    category, size = recipe["category"], recipe["image_size"]
    groups = [("train", "good", recipe["train"]), ("test", "good", recipe["test_good"])]
    groups += [("test", defect, recipe["test_bad"]) for defect in DEFECTS_OF[category]]
    for split, kind, count in groups:
        for index in range(count):
            image, mask, _ = draw_sample(category, kind, size, [recipe["seed"], zlib.crc32(f"{split}/{kind}".encode()), index])
            _write(folder / split / kind / f"{index:03d}.png", image[..., ::-1])
            if kind != "good":
                _write(folder / "ground_truth" / kind / f"{index:03d}_mask.png", mask.astype(np.uint8) * 255)


def draw_sample(category: str, defect: str, size: int, seed: int | Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One test sample.

    Args:
        category: One of :data:`CATEGORIES`.
        defect: A defect kind, or ``"good"``.
        size: Side of the image in pixels.
        seed: Decides the sample.

    Returns:
        The image (size, size, 3) uint8, its mask (size, size) bool (empty for ``"good"``), and the same photograph
        without the defect.
    """
    rng = np.random.default_rng(seed if isinstance(seed, int) else [*seed, zlib.crc32(category.encode())])
    scene = HELD_OUT_CATEGORIES[category](rng, size)
    photograph = Photograph.draw(rng, size, _LIGHT)
    twin = photograph.take(scene.image)
    if defect == "good":
        return twin, np.zeros((size, size), bool), twin
    image, mask = visible_defect(rng, scene, HELD_OUT_DEFECTS[defect], area=0.008)
    return photograph.take(image), mask, twin


def _write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
