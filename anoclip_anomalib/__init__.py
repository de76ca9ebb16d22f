"""CLIP-based zero-shot anomaly detection for anomalib.

Importing the package is cheap: the public names are loaded when they are first used, and anomalib learns about the
models (``get_model("AnoClip")``, short names on the command line, ``anomalib benchmark``) as soon as it is loaded itself.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from anoclip_anomalib.registration import register_with_anomalib

if TYPE_CHECKING:
    from anoclip_anomalib.anoclip.callbacks import TestTimeAdaptation
    from anoclip_anomalib.anoclip.lightning_model import AnoClip
    from anoclip_anomalib.anoclip.torch_model import AnoClipModel
    from anoclip_anomalib.prompts.builder import PromptBuilder

__version__ = "0.1.0"

_PUBLIC_NAMES = {
    "AnoClip": "anoclip_anomalib.anoclip.lightning_model",
    "AnoClipModel": "anoclip_anomalib.anoclip.torch_model",
    "PromptBuilder": "anoclip_anomalib.prompts.builder",
    "TestTimeAdaptation": "anoclip_anomalib.anoclip.callbacks",
}

__all__ = ["AnoClip", "AnoClipModel", "PromptBuilder", "TestTimeAdaptation", "__version__"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC_NAMES:
        return getattr(import_module(_PUBLIC_NAMES[name]), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)


register_with_anomalib()
