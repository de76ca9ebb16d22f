"""The labelled images of anomalib's image datamodules, with their masks, for methods that learn from them."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from anoclip_anomalib.data.sources import DataSpec

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
    """The labelled images of a data set's test split.

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
        try:
            datamodule.prepare_data()
            datamodule.setup()
            rows = datamodule.test_data.samples
        except Exception as error:
            where = f"{spec.class_path}{f' {category}' if category else ''}"
            raise ValueError(
                f"The source's data set {where} cannot be read from {getattr(datamodule, 'root', '?')}: {error}"
            ) from error
        name = category or str(getattr(datamodule, "category", None) or getattr(datamodule, "name", None) or "object")
        masks = rows["mask_path"] if "mask_path" in rows else [""] * len(rows)
        for image, mask, label in zip(rows["image_path"], masks, rows["label_index"], strict=True):
            if int(label) and not (isinstance(mask, str | Path) and Path(mask).is_file()):
                raise ValueError(
                    f"{image} of the source is anomalous and has no mask ({mask!r}); a source needs a mask for each defect"
                )
            samples.append(Sample(str(image), str(mask) if int(label) else None, name))
    kinds = {sample.anomalous for sample in samples}
    if kinds != {True, False}:
        missing = "images" if not kinds else "anomalous images" if True not in kinds else "normal images"
        raise ValueError(
            f"The source's data set {spec.class_path} has no {missing}: normal and anomalous images with masks are needed"
        )
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
            values = np.asarray(
                opened.convert("RGB") if opened.mode not in ("1", "L") and opened.mode[0] not in "IF" else opened
            )
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(f"Cannot read mask {path}: {error}") from error
    values = values.max(axis=-1) if values.ndim == 3 else values
    return torch.from_numpy(values >= 128 if lossy else values > 0).float()


def choose_shots(samples: Sequence[Sample], shots: int, seed: int) -> list[Sample]:
    """``shots`` images of each category, half of them anomalous (fewer where there are not enough), from a seed."""
    rng = np.random.default_rng(seed)
    chosen: list[Sample] = []
    for group in _groups(samples):
        picked = rng.permutation(len(group))[: shots // 2]
        chosen += [group[index] for index in sorted(picked)]
    return chosen


def hold_out(samples: Sequence[Sample], part: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Samples for training and samples held out, ``part`` of each category and label, from a seed."""
    rng = np.random.default_rng(seed)
    training: list[Sample] = []
    held: list[Sample] = []
    for group in _groups(samples):
        order = rng.permutation(len(group))
        count = round(part * len(group))
        held += [group[index] for index in sorted(order[:count])]
        training += [group[index] for index in sorted(order[count:])]
    return training, held


def _groups(samples: Sequence[Sample]) -> list[list[Sample]]:
    """The samples of each category and label, in an order that does not depend on how the data set lists them."""
    groups: dict[tuple[str, bool], list[Sample]] = {}
    for sample in sorted(samples, key=lambda one: one.image):
        groups.setdefault((sample.category, sample.anomalous), []).append(sample)
    return [group for _, group in sorted(groups.items())]


def image_digest(path: str | Path) -> str:
    """The first 12 hexadecimal digits of an image file's SHA-256: the same image under another name is known by it."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]
