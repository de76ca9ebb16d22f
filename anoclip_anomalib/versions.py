"""What a result came from: versions, commit, weights, machine."""

import hashlib
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("anoclip_anomalib", "anomalib", "lightning", "numpy", "open_clip_torch", "tifffile", "torch", "torchvision")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result; absent packages are left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit(folder: Path | None = None) -> str | None:
    """The git commit of this package's checkout, ``-dirty`` with uncommitted changes; None when it is no checkout."""
    folder = folder or Path(__file__).parent

    def git(*arguments: str) -> str:
        result = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=30, check=True)
        return result.stdout.strip()

    try:
        # An installed package may lie in somebody else's repository, for example in a virtual environment inside a checkout.
        if not git("ls-files", Path(__file__).name if folder == Path(__file__).parent else "."):
            return None
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def weights_digest(model: Any) -> str:
    """A model's own ``weights_digest``, else the SHA-256 of its state's names, types, shapes and values."""
    own = getattr(model, "weights_digest", None)
    if isinstance(own, str) and own:
        return own
    import torch

    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if not isinstance(value, torch.Tensor):
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def machine() -> dict[str, Any]:
    """Processor, GPU and operating system."""
    found: dict[str, Any] = {"system": platform.platform(), "processor": _processor()}
    torch = sys.modules.get("torch")
    if torch is not None:
        found["threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            found["gpu"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
