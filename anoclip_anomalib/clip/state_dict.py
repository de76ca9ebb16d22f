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
        msg = f"Weight file not found: {path}"
        raise FileNotFoundError(msg)
    if path.suffix not in SUFFIXES:
        msg = f"Weight file {path} has the unknown suffix {path.suffix!r}; supported: {', '.join(SUFFIXES)}"
        raise WeightFileError(msg)
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if isinstance(content, dict):
        found = [name for name in ([entry] if isinstance(entry, str) else entry) if isinstance(content.get(name), dict)]
        content = content[found[0]] if found else content
    if not isinstance(content, dict) or not content:
        msg = f"Weight file {path} does not hold a state dictionary (names and tensors)"
        raise WeightFileError(msg)
    for name, tensor in content.items():
        fault = _fault(tensor) if isinstance(name, str) else "a name that is no text"
        if fault:
            msg = f"Weight file {path} does not hold a state dictionary (names and dense tensors): under {name!r} is {fault}"
            raise WeightFileError(msg)
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
            msg = f"{where} has NaN or infinite values in {name!r}; get it again, or train it again"
            raise WeightFileError(msg)


def _fault(value: object) -> str | None:
    """What is wrong with an entry of a state dictionary."""
    if not isinstance(value, torch.Tensor):
        return f"a value of type {type(value).__name__}"
    if value.is_meta or value.is_quantized or value.is_nested or value.layout != torch.strided:
        return "a tensor that is sparse, quantized, nested or without values"
    return None


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        msg = f"Weight file {path} is damaged or truncated ({error}); get it again"
        raise WeightFileError(msg) from error


def _read_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if _is_pickle(path):
            msg = (
                f"Weight file {path} holds pickled Python objects besides tensors, which could run code when loaded; "
                "it is refused. Save its tensors as .safetensors where you trust it, and use that file"
            )
            raise WeightFileError(msg) from error
        msg = f"Weight file {path} is damaged or truncated ({error}); get it again"
        raise WeightFileError(msg) from error
    except Exception as error:
        if "TorchScript" in str(error):
            msg = (
                f"Weight file {path} is a TorchScript archive; name the open_clip tag instead (such as 'openai'), "
                "or save its state_dict() as .safetensors"
            )
        else:
            msg = f"Weight file {path} is damaged or truncated ({type(error).__name__}: {error}); get it again"
        raise WeightFileError(msg) from error


def _is_pickle(path: Path) -> bool:
    """Whether a file begins as what torch or pickle wrote (a zip archive or a pickle's protocol byte)."""
    with path.open("rb") as file:
        return file.read(2).startswith((b"PK", b"\x80"))
