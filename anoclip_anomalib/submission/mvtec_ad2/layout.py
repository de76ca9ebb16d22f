"""Facts of MVTec AD 2 and its leaderboard's format (benchmark.mvtec.com): objects, splits, counts, file names, images.

    <name>/anomaly_images/<object>/<split>/NNN_<suffix>.tiff              float16 anomaly maps
    <name>/anomaly_images_thresholded/<object>/<split>/NNN_<suffix>.png   0 = normal, 255 = anomalous

NNN counts from 000 with three digits. Nothing else may lie in the folder.
"""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

IMAGES_PER_SPLIT: Mapping[str, int] = {
    "can": 321,
    "fabric": 314,
    "fruit_jelly": 255,
    "rice": 277,
    "sheet_metal": 142,
    "vial": 276,
    "wallplugs": 232,
    "walnuts": 228,
}
"""Images in each of the two private splits of every object (2045 per split)."""

SPLIT_SUFFIXES: Mapping[str, str] = {"test_private": "regular", "test_private_mixed": "mixed"}

FOLDERS: Mapping[str, str] = {
    "validation": "validation/good",
    "test_public_good": "test_public/good",
    "test_public_bad": "test_public/bad",
    **{split: split for split in SPLIT_SUFFIXES},
}
"""Where an object's images lie: the private splits have no labels."""

MAPS = "anomaly_images"
MASKS = "anomaly_images_thresholded"
EXTENSIONS: Mapping[str, str] = {MAPS: ".tiff", MASKS: ".png"}


def expected_stems(split: str, count: int) -> list[str]:
    """File stems of one split, in order: ``000_regular``, ``001_regular``, ... (or ``_mixed``)."""
    return [f"{number:03d}_{SPLIT_SUFFIXES[split]}" for number in range(count)]


def file_path(kind: str, object_name: str, split: str, stem: str) -> PurePosixPath:
    """Path of one result inside the submission folder; ``kind`` is ``MAPS`` or ``MASKS``."""
    return PurePosixPath(kind, object_name, split, stem + EXTENSIONS[kind])


def images_of(root: Path, object_name: str, part: str) -> list[Path]:
    """The images of one part (a key of ``FOLDERS``) of an object, sorted; empty if its folder is missing."""
    folder = root / object_name / FOLDERS[part]
    return sorted(path for path in folder.glob("*") if path.suffix in {".png", ".PNG"})


def check_images(root: Path, counts: Mapping[str, int]) -> None:
    """Make sure before hours of prediction that the images are those the leaderboard expects.

    Raises:
        FileNotFoundError: If objects, validation images or private images are missing; all of them are listed.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; --data.root must be MVTec AD 2's, with can/, fabric/, ... in it")
    faults = []
    for object_name, count in counts.items():
        if not images_of(root, object_name, "validation"):
            faults.append(f"{root / object_name / FOLDERS['validation']} has no PNG images (the threshold needs them)")
        for split in SPLIT_SUFFIXES:
            found = {path.stem for path in images_of(root, object_name, split)}
            if differing := sorted(found.symmetric_difference(expected_stems(split, count))):
                faults.append(
                    f"{root / object_name / split} has {len(found)} images, the leaderboard expects {count} "
                    f"({len(differing)} names differ: {', '.join(differing[:3])}, ...)"
                )
    if faults:
        raise FileNotFoundError("This is not the complete data set:\n  " + "\n  ".join(faults))
