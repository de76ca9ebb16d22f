"""The bundled encoder's files: float16 weights with provenance in the header, and the open_clip configuration."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from anoclip_anomalib.files import atomic_write

WEIGHTS = Path(__file__).parent / "weights" / "demo_clip.safetensors"
CONFIG = Path(__file__).parent / "weights" / "demo_clip.json"
NOTICE = "This encoder demonstrates the software; it is no inspector of real parts."


def save_weights(
    folder: Path, state: Mapping[str, Tensor], config: Mapping[str, object], provenance: Mapping[str, str]
) -> None:
    """Write ``demo_clip.safetensors`` and ``demo_clip.json`` into ``folder``.

    Args:
        folder: Created if it is missing; files in it are replaced one at a time, each atomically.
        state: Parameters of the CLIP; buffers that its constructor computes (the causal mask) are left out.
        config: Keyword arguments of ``open_clip.model.CLIP``.
        provenance: How the weights came about; goes into the safetensors header beside the notice.
    """
    kept = {name: tensor for name, tensor in state.items() if tensor.is_floating_point() and name != "attn_mask"}
    tensors = {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in kept.items()}
    with atomic_write(folder / WEIGHTS.name) as path:
        save_file(tensors, path, metadata={**provenance, "notice": NOTICE})
    with atomic_write(folder / CONFIG.name) as path:
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
