"""Facts of the MVTec AD 2 leaderboard's format (benchmark.mvtec.com): objects, splits, counts, file names.

    <name>/anomaly_images/<object>/<split>/NNN_<suffix>.tiff              float16 anomaly maps
    <name>/anomaly_images_thresholded/<object>/<split>/NNN_<suffix>.png   0 = normal, 255 = anomalous

NNN counts from 000 with three digits. Nothing else may lie in the folder.
"""

from collections.abc import Mapping
from pathlib import PurePosixPath

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

MAPS = "anomaly_images"
MASKS = "anomaly_images_thresholded"
EXTENSIONS: Mapping[str, str] = {MAPS: ".tiff", MASKS: ".png"}


def expected_stems(split: str, count: int) -> list[str]:
    """File stems of one split, in order: ``000_regular``, ``001_regular``, ... (or ``_mixed``)."""
    return [f"{number:03d}_{SPLIT_SUFFIXES[split]}" for number in range(count)]


def file_path(kind: str, object_name: str, split: str, stem: str) -> PurePosixPath:
    """Path of one result inside the submission folder; ``kind`` is ``MAPS`` or ``MASKS``."""
    return PurePosixPath(kind, object_name, split, stem + EXTENSIONS[kind])
