"""Reading weight files without running code from them."""

import pickle
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from anoclip_anomalib.versions import state_dict_digest as state_dict_digest

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


class WeightFileError(ValueError):
    """A weight file that cannot be used; the message says which one and why."""


def read_state_dict(path: str | Path, entry: str | Sequence[str] = "state_dict") -> dict[str, torch.Tensor]:
    """Read the tensors of a ``.safetensors``, ``.pt``, ``.pth`` or ``.bin`` file onto the CPU.

    Args:
        path: The file. The ``module.`` prefix of data-parallel training is removed.
        entry: A training checkpoint with this entry, or the first of these, is unwrapped.

    Returns:
        Name -> tensor.

    Raises:
        FileNotFoundError: If there is no such file.
        WeightFileError: If the file is truncated, holds pickled Python objects, is of another format, or holds anything but
            finite, dense tensors by name.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Weight file not found: {path}")
    if path.suffix not in SUFFIXES:
        raise WeightFileError(f"Weight file {path} has the unknown suffix {path.suffix!r}; supported: {', '.join(SUFFIXES)}")
    content = _read(path)
    if isinstance(content, dict):
        found = [name for name in ([entry] if isinstance(entry, str) else entry) if isinstance(content.get(name), dict)]
        content = content[found[0]] if found else content
    if not isinstance(content, dict) or not content:
        raise WeightFileError(f"Weight file {path} does not hold a state dictionary (names and tensors)")
    for name, tensor in content.items():
        fault = _fault(tensor) if isinstance(name, str) else "a name that is no text"
        if fault:
            raise WeightFileError(
                f"Weight file {path} does not hold a state dictionary (names and dense tensors): under {name!r} is {fault}"
                f"{_entries(content, entry)}"
            )
    check_finite(content, f"Weight file {path}")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def check_finite(state_dict: dict[str, torch.Tensor], where: str) -> None:
    """Refuse weights with which every result would be NaN.

    Args:
        state_dict: Name -> tensor.
        where: What holds them, for the error.

    Raises:
        WeightFileError: Naming the first tensor with NaN or infinite values.
    """
    for name, tensor in state_dict.items():
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise WeightFileError(f"{where} has NaN or infinite values in {name!r}; get it again, or train it again")


def _entries(content: dict, wanted: str | Sequence[str]) -> str:
    """Which state dictionaries a checkpoint has instead of the one that was looked for."""
    others = [name for name, value in content.items() if isinstance(name, str) and isinstance(value, dict)]
    return f". It has {', '.join(map(repr, others[:3]))}, not {wanted!r}" if others and isinstance(wanted, str) else ""


def _fault(value: object) -> str | None:
    """What is wrong with an entry of a state dictionary."""
    if not isinstance(value, torch.Tensor):
        return f"a value of type {type(value).__name__}"
    if value.is_meta or value.is_quantized or value.is_nested or value.layout != torch.strided:
        return "a tensor that is sparse, quantized, nested or without values"
    return None


def _read(path: Path) -> object:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises nearly anything
        with path.open("rb") as file:  # what torch or pickle wrote begins as a zip archive or with a pickle's protocol byte
            begins_well = file.read(2).startswith((b"PK", b"\x80"))
        if isinstance(error, pickle.UnpicklingError) and begins_well:
            fault = "holds pickled Python objects besides tensors, which could run code when loaded; it is refused. "
            fault += "Save its tensors as .safetensors where you trust it, and use that file"
        elif "TorchScript" in str(error):
            fault = "is a TorchScript archive; name the open_clip tag instead (such as 'openai'), "
            fault += "or save its state_dict() as .safetensors"
        else:
            kind = "" if isinstance(error, SafetensorError | pickle.UnpicklingError) else f"{type(error).__name__}: "
            fault = f"is damaged or truncated ({kind}{error}); get it again"
        raise WeightFileError(f"Weight file {path} {fault}") from error
