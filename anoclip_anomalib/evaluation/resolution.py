"""Bring maps and masks of a batch to one size: the model's, or that of the original files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils._pytree import tree_leaves


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Detach, bring to the CPU; floating dtypes numpy does not know (bfloat16) become float32."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def squeeze_channel(array: np.ndarray) -> np.ndarray:
    """(B, 1, H, W) or (B, H, W) to (B, H, W).

    Raises:
        ValueError: For any other shape.
    """
    if array.ndim == 4 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 3:
        raise ValueError(f"Expected (B, H, W) or (B, 1, H, W), got {array.shape}")
    return array


def resize_map(anomaly_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a map (H, W) bilinearly to ``size`` (height, width), float32."""
    if anomaly_map.shape == tuple(size):
        return np.asarray(anomaly_map, dtype=np.float32)
    return cv2.resize(np.asarray(anomaly_map, np.float32), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width of an image file, read from its header."""
    with Image.open(path) as image:
        return image.height, image.width


def read_mask(path: str | Path) -> np.ndarray:
    """Read a mask file as (H, W) uint8 of 0 and 1 (anything but black is anomalous).

    Raises:
        ValueError: If the file is no readable image.
    """
    mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise ValueError(f"Mask {path} is no readable image")
    return (mask > 0).astype(np.uint8)


def path_list(paths: Any, length: int) -> list[str | None]:
    """Paths of a batch as a list; missing ones (``None``, "", NaN, and the "None" that anomalib collates) are ``None``."""
    if paths is None:
        return [None] * length
    paths = [paths] if isinstance(paths, str | Path) else list(paths)
    return [str(path) if isinstance(path, str | Path) and str(path) not in ("", "None") else None for path in paths]


def datasets_of(dataloaders: Any) -> list[Any]:
    """The datasets behind a trainer's data loader or loaders (``trainer.test_dataloaders``); ``None`` where there is none.

    Loaders may be nested in lists and mappings.
    """
    return [getattr(loader, "dataset", None) for loader in tree_leaves(dataloaders)]


def mask_paths_of(dataloaders: Any) -> dict[str, str]:
    """Image path to mask path of the datasets behind a trainer's dataloaders.

    anomalib drops the mask paths of a batch whose first image has none; the dataset still knows them.
    """
    found = {}
    for dataset in datasets_of(dataloaders):
        samples = getattr(dataset, "samples", None)
        if samples is not None and {"image_path", "mask_path"} <= set(samples.columns):
            pairs = zip(samples["image_path"], samples["mask_path"], strict=True)
            found.update({str(image): mask for image, mask in pairs if path_list([mask], 1)[0] is not None})
    return found


@contextmanager
def restored_mask_paths(batch: Any, mask_paths: dict[str, str]) -> Iterator[None]:
    """Give a batch its mask paths (see :func:`mask_paths_of`) for the time of the block."""
    images = path_list(batch.image_path, len(batch.image)) if mask_paths else []
    if not any(images):
        yield
        return
    before, batch.mask_path = batch.mask_path, [mask_paths.get(image or "", "None") for image in images]
    try:
        yield
    finally:
        batch.mask_path = before


def map_mask_pairs(batch: Any, resolution: str = "model") -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (map, mask) groups of equal size, each (N, H, W), from a batch.

    Args:
        batch: Anomalib batch with ``anomaly_map`` and ``gt_mask``; for "original" also ``image_path`` and ``mask_path``.
        resolution: "model" compares the batch's own tensors; "original" reads each mask file again and resizes the map
            to it (an image without a mask file is normal: an empty mask of the image's size).

    Raises:
        ValueError: Unknown resolution, map and mask of different sizes, an anomalous image whose mask file is missing.
    """
    maps = squeeze_channel(to_numpy(batch.anomaly_map))
    if resolution == "model":
        masks = batch.gt_mask
        masks = squeeze_channel(to_numpy(masks if masks.ndim > 2 else masks[None]))
        if masks.shape != maps.shape:
            raise ValueError(f"The model's map is {maps.shape}, the mask {masks.shape}: sizes must be equal")
        yield maps, masks
    elif resolution == "original":
        images, masks = path_list(batch.image_path, len(maps)), path_list(batch.mask_path, len(maps))
        labels = [None] * len(maps) if batch.gt_label is None else to_numpy(batch.gt_label).reshape(-1).tolist()
        for anomaly_map, image, mask, label in zip(maps, images, masks, labels, strict=True):
            if mask is not None and Path(mask).is_file():
                target = read_mask(mask)
            elif label:
                raise ValueError(
                    f"{image} is anomalous but its batch names no mask file ({mask}); anomalib drops the mask paths of a "
                    "batch whose first image is normal: measure with the callback RawEvaluation, or eval_batch_size 1"
                )
            elif image is None:
                raise ValueError("The original resolution needs image_path in the batch")
            else:
                target = np.zeros(image_size(image), dtype=np.uint8)
            yield resize_map(anomaly_map, target.shape)[None], target[None]
    else:
        raise ValueError(f'resolution="{resolution}" must be "model" or "original"')
