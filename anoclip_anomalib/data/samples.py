"""The labelled images of anomalib's image datamodules, with their masks, for methods that learn from them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.data.utils import ValSplitMode
from PIL import Image

from anoclip_anomalib.data.folders import check_masks
from anoclip_anomalib.data.sources import DataSpec
from anoclip_anomalib.versions import sha256_of

_LOSSY = ("JPEG", "WEBP")


@dataclass(frozen=True)
class Sample:
    """One labelled image.

    Attributes:
        image: Its file.
        mask: The file of its mask; ``None`` for a normal image.
        category: Of which class it is.
    """

    image: str
    mask: str | None
    category: str

    @property
    def anomalous(self) -> bool:
        """Whether it shows a defect."""
        return self.mask is not None


Build = Callable[[DataSpec, str | None], Any]
"""(data set, category or ``None``) -> anomalib's datamodule."""


def labelled_samples(spec: DataSpec, build: Build, categories: Sequence[str]) -> list[Sample]:
    """All labelled images of a data set's test split, the same in every process and run.

    Args:
        spec: The data set.
        build: Makes its datamodule.
        categories: Those that are wanted; without any the data set has none.

    Raises:
        ValueError: If the test split cannot be read, an anomalous image has no mask, or there are no anomalous or no normal
            images at all.
    """
    samples = []
    for category in categories or (None,):
        datamodule = build(spec, category)
        # Folder and others would hold half of the test split back for a validation, another half in each process.
        if datamodule.val_split_mode == ValSplitMode.FROM_TEST:
            datamodule.val_split_mode = ValSplitMode.NONE
        if datamodule.seed is None:  # of a test split that is drawn from the training images
            datamodule.seed = 0
        try:
            check_masks(datamodule)
            datamodule.prepare_data()
            datamodule.setup()
            rows = datamodule.test_data.samples
        except Exception as error:
            where, root = f"{spec.class_path}{f' {category}' if category else ''}", getattr(datamodule, "root", "?")
            raise ValueError(f"The source's data set {where} cannot be read from {root}: {error}") from error
        name = category or str(getattr(datamodule, "category", None) or getattr(datamodule, "name", None) or "object")
        masks = rows["mask_path"] if "mask_path" in rows else [""] * len(rows)
        for image, mask, label in zip(rows["image_path"], masks, rows["label_index"], strict=True):
            if int(label) and not (isinstance(mask, str | Path) and Path(mask).is_file()):
                fault = f"is anomalous and has no mask ({mask!r}); a source needs a mask for each defect"
                raise ValueError(f"{image} of the source {fault}")
            samples.append(Sample(str(image), str(mask) if int(label) else None, name))
    kinds = {sample.anomalous for sample in samples}
    if kinds != {True, False}:
        missing = "images" if not kinds else "anomalous images" if True not in kinds else "normal images"
        needed = "normal and anomalous images with masks are needed"
        raise ValueError(f"The source's data set {spec.class_path} has no {missing}: {needed}")
    return samples


def read_mask(path: str | Path) -> torch.Tensor:
    """Read a mask: bilevel, grey, palette or colour, of 8 or 16 bits; whatever is not black is anomalous.

    Args:
        path: An image file. In lossy formats, which leave grey around edges, a pixel counts from half of white on.

    Returns:
        (H, W) float32, 0 or 1.

    Raises:
        OSError: If the file is no image; the message names it.
    """
    try:
        with Image.open(path) as opened:
            lossy = opened.format in _LOSSY
            one_band = opened.mode in ("1", "L") or opened.mode[0] in "IF"
            values = np.asarray(opened if one_band else opened.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(f"Cannot read mask {path}: {error}") from error
    values = values.max(axis=-1) if values.ndim == 3 else values
    return torch.from_numpy(values >= 128 if lossy else values > 0).float()


def choose_shots(samples: Sequence[Sample], shots: int, seed: int) -> list[Sample]:
    """``shots`` images of each category, half of them anomalous (fewer where there are not enough), from a seed."""
    return [group[index] for group, order in _shuffled(samples, seed) for index in sorted(order[: shots // 2])]


def hold_out(samples: Sequence[Sample], part: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Samples for training and samples held out, ``part`` of each category and label, from a seed."""
    training: list[Sample] = []
    held: list[Sample] = []
    for group, order in _shuffled(samples, seed):
        count = round(part * len(group))
        held += [group[index] for index in sorted(order[:count])]
        training += [group[index] for index in sorted(order[count:])]
    return training, held


def _shuffled(samples: Sequence[Sample], seed: int) -> Iterator[tuple[list[Sample], np.ndarray]]:
    """The samples of each category and label, however the data set lists them, with a random order of their indices."""
    rng = np.random.default_rng(seed)
    ordered = sorted(samples, key=lambda one: (one.category, one.anomalous, one.image))
    for _, group in groupby(ordered, key=lambda one: (one.category, one.anomalous)):
        own = list(group)
        yield own, rng.permutation(len(own))


def image_digest(path: str | Path) -> str:
    """The first 12 hexadecimal digits of an image file's SHA-256: the same image under another name is known by it."""
    return sha256_of(Path(path))[:12]
