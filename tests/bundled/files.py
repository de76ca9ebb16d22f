"""Reading the bundled encoder's files as they are."""

from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from anoclip_anomalib.bundled.weights_file import WEIGHTS


def read_weights(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Parameters (float32) and header of ``demo_clip.safetensors`` in ``folder``."""
    with safe_open(folder / WEIGHTS.name, framework="pt") as file:
        return {name: file.get_tensor(name).float() for name in file.keys()}, dict(file.metadata())  # noqa: SIM118
