"""What a result came from: versions, commit, weights, machine."""

import hashlib
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("anoclip_anomalib", "anomalib", "lightning", "numpy", "open_clip_torch", "tifffile", "torch", "torchvision")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result; absent packages are left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def commit(folder: Path | None = None) -> str | None:
    """The git commit of this package's checkout, ``-dirty`` with uncommitted changes; ``None`` when it is no checkout."""
    folder = folder or Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.check_output(["git", "-C", folder, *arguments], text=True, timeout=30, stderr=subprocess.PIPE).strip()

    try:
        # An installed package may lie in somebody else's repository, for example in a virtual environment inside a checkout.
        if not git("ls-files", Path(__file__).name if folder == Path(__file__).parent else "."):
            return None
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def weights_digest(model: Any) -> str:
    """A model's own ``weights_digest``, else that of its state."""
    own = getattr(model, "weights_digest", None)
    if isinstance(own, str) and own:
        return own
    return state_dict_digest({name: value for name, value in model.state_dict().items() if hasattr(value, "dtype")})


def state_dict_digest(state_dict: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the names, shapes, types and values of tensors, whatever their order and the format of their file."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def machine() -> dict[str, Any]:
    """Processor, GPU and operating system."""
    found: dict[str, Any] = {"system": platform.platform(), "processor": _processor()}
    if torch := sys.modules.get("torch"):
        found["threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            found["gpu"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    with suppress(OSError):
        if found := re.search(r"^model name[^:]*:(.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return found[1].strip()
    return platform.processor() or platform.machine()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
