"""What a row came from: method facts, preprocessing, weights, versions, machine."""

import socket
from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import datetime, timezone
from importlib.resources import files
from typing import Any

import yaml
from torch import nn

from anoclip_anomalib.comparison.suite.suite import Job
from anoclip_anomalib.versions import commit, machine, versions, weights_digest
from anoclip_anomalib.zeroshot.method import MethodFacts, stated_facts

FACTS = tuple(fact.name for fact in fields(MethodFacts))
NOT_STATED = "not stated"


def method_facts(job: Job, model: Any = None, callbacks: Sequence[Any] = ()) -> dict[str, Any]:
    """The five facts about a job's method; what nobody stated says so.

    Args:
        job: Its model's class and own ``provenance`` decide where the model says nothing about itself.
        model: That really ran; its ``method_facts``, if it has them, come before the list of other people's models.
        callbacks: That ran with it; their ``changed_facts``, if they have them, are laid over the model's.
    """
    known = yaml.safe_load(files(__package__).joinpath("provenance.yaml").read_text(encoding="utf-8"))["models"]
    names = (type(model).__name__, job.model.spec.class_path.rpartition(".")[2])
    silent = getattr(model, "method_facts", None) is None
    listed: dict[str, Any] = next((known[name] for name in names if silent and name in known), {})
    return dict.fromkeys(FACTS, NOT_STATED) | listed | stated_facts(model, callbacks) | job.model.provenance


def preprocessing(model: Any) -> dict[str, Any]:
    """How images reach the network and maps leave it, as far as the model tells: resize, normalisation, smoothing."""
    transform = getattr(getattr(model, "pre_processor", None), "transform", None)
    steps = list(getattr(transform, "transforms", [])) or ([transform] if transform is not None else [])
    found: dict[str, Any] = {"image_size": None, "resize": None, "transform": [str(step) for step in steps]}
    for step in steps:
        kind = type(step).__name__
        if kind in ("Resize", "CenterCrop"):
            size = found["image_size"] = list(step.size) if isinstance(step.size, list | tuple) else step.size
        if kind == "Resize":
            keeps = isinstance(size, int) or len(size or ()) == 1
            aspect = "shorter side, aspect kept" if keeps else "both sides, aspect not kept"
            found["resize"] = f"{getattr(step.interpolation, 'value', step.interpolation)}, {aspect}"
    return found | {"smoothing": _smoothing(model)}


def _smoothing(model: Any) -> str:
    torch_model = getattr(model, "model", None)
    for name in ("smoothing", "smooth_kernel", "smoothing_kernel"):
        if isinstance(value := getattr(torch_model, name, None), int | float | str):
            return f"{name} {value}"
    for module in torch_model.modules() if isinstance(torch_model, nn.Module) else ():
        if "gaussian" in type(module).__name__.lower():
            sigma = getattr(module, "sigma", None)
            return f"Gaussian, sigma {sigma}" if isinstance(sigma, int | float) else "Gaussian"
    return NOT_STATED


def provenance_of(job: Job, model: Any, callbacks: Sequence[Any] = ()) -> dict[str, Any]:
    """Everything that a row states about its origin."""
    return {
        "method": method_facts(job, model, callbacks),
        "preprocessing": preprocessing(model),
        "learning_type": str(getattr(getattr(model, "learning_type", None), "value", NOT_STATED)),
        "weights_digest": getattr(model, "weights_digest", None) or weights_digest(model.model),
        "versions": versions(),
        "commit": commit(),
        "config": {"model": asdict(job.model), "data": asdict(job.data), "protocol": asdict(job.protocol)},
        "seed": job.seed,
        "hardware": machine() | {"host": socket.gethostname()},
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
