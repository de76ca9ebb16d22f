"""Which images a data set keeps out of a test, and why."""

import copy
import csv
import logging
from pathlib import Path

from anomalib.data import AnomalibDataModule

from anoclip_anomalib.evaluation.output_names import path_cell
from anoclip_anomalib.evaluation.resolution import datasets_of, path_list
from anoclip_anomalib.files import atomic_write, printable

logger = logging.getLogger(__name__)


def left_out(datamodule: object) -> list[tuple[str, str]]:
    """Test images that a datamodule does not test: most hold back a part for validation, or replace some by generated ones.

    Args:
        datamodule: Anomalib's, after ``setup``; others leave nothing out.

    Returns:
        (path, reason) for each, in order.
    """
    if not isinstance(datamodule, AnomalibDataModule) or not hasattr(datamodule, "test_data"):
        return []
    whole = copy.copy(datamodule)
    whole._setup()  # the data set before anomalib divides it
    validation = _images(getattr(datamodule, "val_data", None))
    mode, ratio = datamodule.val_split_mode.value, datamodule.val_split_ratio
    chosen = "unseeded" if datamodule.seed is None else f"seed {datamodule.seed}"
    held_back = f"held back for validation: val_split_mode={mode}, val_split_ratio={ratio:g}, {chosen}"
    replaced = f"not used: test_split_mode={datamodule.test_split_mode.value}"
    missing = sorted(_tested(whole) - _tested(datamodule))
    return [(path, held_back if path in validation else replaced) for path in missing]


def write_left_out(path: Path, datamodule: object) -> None:
    """Write ``left_out.csv`` (path, reason) and say how many there are; nothing is written if all images are tested."""
    rows = left_out(datamodule)
    for reason in sorted({reason for _, reason in rows}):
        count = sum(other == reason for _, other in rows)
        logger.warning("%d test image(s) %s. They are named in %s", count, reason, printable(path))
    if rows:
        with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerows([("path", "reason"), *((path_cell(image), reason) for image, reason in rows)])


def _tested(datamodule: AnomalibDataModule) -> set[str]:
    """Images of the loader: MVTec AD 2's test part is not what its ``test_data`` says."""
    return set().union(*map(_images, datasets_of(datamodule.test_dataloader())))


def _images(dataset: object) -> set[str]:
    samples = getattr(dataset, "samples", None)
    if samples is None or "image_path" not in samples:
        return set()
    return {path for path in path_list(samples["image_path"].tolist(), len(samples)) if path}
