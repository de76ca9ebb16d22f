"""What good images bring: a memory where the model has one, thresholds, the contrast of pictures; kept for each product."""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anoclip_anomalib.evaluation.thresholds import conformal_threshold, natural_threshold
from anoclip_anomalib.inspection.contrast import Contrast, contrast_from_good
from anoclip_anomalib.inspection.decision import NATURAL_RULE, Decision, GoodImage
from anoclip_anomalib.inspection.photographs import as_tensor, is_one
from anoclip_anomalib.inspection.scores import score_images
from anoclip_anomalib.zeroshot.buffers import FloatBuffers
from anoclip_anomalib.zeroshot.few_shot import remember_images
from anoclip_anomalib.zeroshot.normal_images import images_of_folder

logger = logging.getLogger(__name__)


def collect_good(good: "str | Path | Sequence[Any] | None") -> tuple[Any, ...]:
    """The good images: the files of a folder in order of their names, or photographs as they are given.

    Raises:
        ValueError: If there is no such folder, or no image.
    """
    if good is None:
        return ()
    if isinstance(good, str | Path):
        return tuple(images_of_folder(good, "good"))
    found = tuple(good) if isinstance(good, Iterable) and not is_one(good) else ()
    if not found:
        raise ValueError(f"good={type(good).__name__} holds no photographs: give a folder or a list with at least one")
    return found


def decide(
    module: Any, good: Sequence[Any], threshold: str | float, false_alarms: float
) -> tuple[Decision | None, Contrast | None]:
    """Show the good images to a model, and take thresholds from them.

    A model with a memory of normal images compares others with them, and its thresholds come from their scores when each is
    left out. Another model has not seen them, so that their scores are those of any good photograph. Both are exchangeable
    with new ones: the thresholds are conformal quantiles, which promise something for few images too.

    Args:
        module: The Lightning model, with its class set.
        good: The good images; may be empty.
        threshold: ``"auto"``, ``"natural"`` or a number.
        false_alarms: Share of good photographs that may be called defects.

    Returns:
        Decision and contrast; ``None`` where nothing tells them.
    """
    # Other models inherit AnoCLIP's reference without looking into it.
    reference = module.model.reference if hasattr(module, "normals") else None
    if reference is not None:
        reference.forget()
        reference.false_alarms = false_alarms
    decision = _without_good(module, threshold)
    if not good:
        return decision, None
    if reference is not None:
        remember_images(module, _images(good), len(good))
        scores, peaks = (row.cpu().numpy() for row in reference.left_out)
        ordinary = reference.ordinary
    else:
        scored = [one for image in _images(good) for one in score_images(module, [image])]
        scores, peaks = np.array([one.score for one in scored]), np.array([one.anomaly_map.max() for one in scored])
        ordinary = float(np.median([np.median(one.anomaly_map) for one in scored]))
    image, pixel = (conformal_threshold(values, false_alarms) for values in (scores, peaks))
    names = [str(one) if isinstance(one, str | Path) else None for one in good]
    kept = tuple(GoodImage(name, float(score)) for name, score in zip(names, scores, strict=False))
    if decision is None or (threshold == "natural" and reference is not None):
        decision = Decision(image.value, None, image.rule, image.false_alarms)
        if image.false_alarms > false_alarms:
            logger.warning(
                "%d good photographs cannot promise %.4g%% false alarms, only %.3g%%: that takes at least %d",
                len(good), 100 * false_alarms, 100 * image.false_alarms, math.ceil(1 / false_alarms - 1e-9) - 1,
            )  # fmt: skip
    return replace(decision, pixel_threshold=pixel.value, good=kept), contrast_from_good(ordinary, pixel.value)


def _without_good(module: Any, threshold: str | float) -> Decision | None:
    if isinstance(threshold, float):
        return Decision(threshold, None, f"given: {threshold:g}")
    value = natural_threshold(module) if threshold == "natural" else None
    return None if value is None else Decision(value, value, NATURAL_RULE)


def _images(good: Sequence[Any]) -> Iterator[torch.Tensor]:
    for photo in good:
        try:
            yield as_tensor(photo)
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"A good image cannot be used: {error}") from error


# What belongs to a product: everything in the model that the class and the good images decide

State = list[tuple[torch.nn.Module, str, Any]]


def state_of(model: torch.nn.Module) -> State:
    """What a model knows about the present product, for :func:`restore`: its parts, with name and value of what they know."""
    buffers = [(part, name) for part in model.modules() if isinstance(part, FloatBuffers) for name in part.float_buffers]
    others = [(model, name) for name in ("class_name", "adapter") if hasattr(model, name)]
    return [(part, name, getattr(part, name)) for part, name in (*buffers, *others)]


def restore(state: State) -> None:
    """Bring a model back to what it knew."""
    for part, name, value in state:
        setattr(part, name, value)
