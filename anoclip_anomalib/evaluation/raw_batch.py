"""Reading a model's raw scores from a batch, before anomalib's PostProcessor changes them."""

from typing import Any

import numpy as np
from anomalib.post_processing import PostProcessor

from anoclip_anomalib.evaluation.resolution import path_list, squeeze_channel, to_numpy


def raw_scores(batch: Any, *, finite: bool = True) -> np.ndarray:
    """Image scores (B,) of a batch; where a model gives none, the maximum of its map (as anomalib does).

    Args:
        batch: Of a data set of images.
        finite: Refuse scores that are not.

    Raises:
        ValueError: If there is neither, or a score is not finite (the images are named).
    """
    if batch.pred_score is not None:
        scores: np.ndarray = to_numpy(batch.pred_score).reshape(-1).astype(np.float64)
    elif batch.anomaly_map is not None:
        scores = squeeze_channel(to_numpy(batch.anomaly_map)).max(axis=(1, 2)).astype(np.float64)
    else:
        raise ValueError("The model gave neither pred_score nor anomaly_map")
    return _checked(scores, "image score", batch) if finite else scores


def raw_maps(batch: Any, *, finite: bool = True) -> np.ndarray | None:
    """Maps (B, H, W) of a batch, or ``None``; see :func:`raw_scores` for the arguments.

    Raises:
        ValueError: If a map is not finite (the images are named).
    """
    if batch.anomaly_map is None:
        return None
    maps = squeeze_channel(to_numpy(batch.anomaly_map))
    return _checked(maps, "map", batch) if finite else maps


def _checked(values: np.ndarray, what: str, batch: Any) -> np.ndarray:
    if bad := [i for i, value in enumerate(values) if not np.isfinite(value).all()]:
        paths = path_list(batch.image_path, len(values))
        raise ValueError(f"The model's {what} is not finite for {', '.join(str(paths[i]) for i in bad)}")
    return values


def require_before_post_processor(callback: Any, callbacks: list) -> None:
    """Make sure that a callback runs before any PostProcessor.

    Raises:
        ValueError: Otherwise; raw scores could not be read then.
    """
    order = list(callbacks)
    first = next((i for i, other in enumerate(order) if isinstance(other, PostProcessor)), None)
    if first is not None and callback in order and order.index(callback) > first:
        raise ValueError(f"{type(callback).__name__} must run before the PostProcessor: pass it to Engine(callbacks=[...])")
