"""From the words of a user to a model that is ready to score photographs."""

import copy
import os
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

from anoclip_anomalib import registry
from anoclip_anomalib.checks import did_you_mean

DEMO = "demo"
DEMO_SIZES = {"AnoClip": 192}
"""Model -> image size that is best for the bundled encoder on the generated parts, see docs/inspect.md."""


def check_model(name: str) -> str:
    """A model's name, if there is such a model; known without torch.

    Raises:
        ValueError: With the nearest name.
    """
    if name in registry.MODELS:
        return name
    hint = did_you_mean(str(name), registry.MODELS, f"there are {', '.join(registry.MODELS)}")
    raise ValueError(f"Unknown model {name!r}{hint}")


def usual_model(adapters: str | None, *others: Any) -> str:
    """The model of an inspection where none is named.

    Args:
        adapters: As given.
        others: What else was said besides product and size: encoder, good photographs, adaptation, settings; ``None`` for
            what was not.

    Returns:
        AaClip with adapters, and where nothing was said: its bundled ones give the bundled encoder the better maps
        (docs/training.md). Else AnoClip, which takes every encoder, compares with good photographs and can be adapted.
    """
    return "AaClip" if adapters is not None or all(other is None for other in others) else "AnoClip"


def build_model(
    name: str,
    backbone: str | None,
    weights: str | None,
    adapters: str | None,
    image_size: int | tuple[int, int] | None,
    settings: dict[str, Any],
) -> Any:
    """A Lightning model of this package, without what anomalib needs around it.

    Args:
        name: One of ``registry.MODELS``.
        backbone: ``None`` for the one that learned weights belong to, else the bundled one.
        weights: Of the backbone; a file of learned weights is recognised.
        adapters: Learned weights, for a model that has any.
        image_size: ``None`` for what suits the encoder.
        settings: Further arguments of the model.

    Raises:
        ValueError: For an argument that the model does not have, or cannot use.
        FileNotFoundError: If a file of weights is not there.
        WeightsUnavailableError: If weights must be downloaded and cannot be.
    """
    model_class: Callable = registry.load(check_model(name))
    known = set(signature(model_class).parameters)
    learns = "adapters" in known
    if learns and adapters is None and weights is not None and _is_learned(weights):
        weights, adapters = None, weights
    if learns and adapters is None and backbone in (None, DEMO) and weights is None:
        adapters = DEMO
    if backbone is None and not learns and "backbone" in known:
        if weights not in (None, DEMO, "random"):
            raise ValueError(
                f"weights={weights!r} are of which encoder? Name its architecture: backbone='ViT-B-16', for instance"
            )
        backbone = DEMO
    if image_size is None and backbone == DEMO:
        image_size = DEMO_SIZES.get(name)
    given = {"backbone": backbone, "pretrained": weights, "adapters": adapters, "image_size": image_size, **settings}
    given = {key: value for key, value in given.items() if value is not None}
    for key in given:
        if key not in known:
            shown = {"pretrained": "weights"}.get(key, key)
            raise ValueError(f"{name} has no setting {shown!r}{did_you_mean(key, known)}")
    off = {part: False for part in ("post_processor", "evaluator", "visualizer", "raw_evaluator") if part in known}
    module = model_class(**given, **off).eval()
    if module.method_facts.sees_other_test_images:
        what = (
            "pool=FILE (--set pool=FILE), made by `anoclip pool build FOLDER --out FILE`" if "pool" in known else "mode='clean'"
        )
        raise ValueError(
            f"With these settings {name} scores images by each other, not one by one: give {what}, or run `anoclip predict`"
        )
    return module


def on_device(module: Any, device: str) -> tuple[Any, str]:
    """The model on a device, and the device's name.

    Args:
        module: A model on the CPU.
        device: ``"auto"``, or as torch names them.

    Raises:
        ValueError: If there is no such device.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={device!r} is not to be had: {str(error).splitlines()[0]}") from error
    if torch.device(device).type == "cpu":
        return module, device
    # Models of one process share the encoder that they were loaded with; others may want it to stay where it is.
    return copy.deepcopy(module).to(device), device


def _is_learned(path: str) -> bool:
    """Whether a file has the header of learned weights."""
    from anoclip_anomalib.zeroshot.learned_weights import HEADER

    if not (path.endswith(".safetensors") and os.path.isfile(path)):
        return False
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(Path(path), framework="pt") as file:
            return HEADER in (file.metadata() or {})
    except SafetensorError:
        return False
