"""CLIP-based zero-shot anomaly detection for anomalib.

Importing the package is cheap: the public names are loaded when they are first used, and anomalib learns about the
models (``get_model("AnoClip")``, short names on the command line, ``anomalib benchmark``) as soon as it is loaded itself.
"""

from typing import TYPE_CHECKING

from anoclip_anomalib import registry

if TYPE_CHECKING:
    from anoclip_anomalib.aaclip.lightning_model import AaClip as AaClip
    from anoclip_anomalib.aaclip.torch_model import AaClipModel as AaClipModel
    from anoclip_anomalib.anoclip.callbacks import TestTimeAdaptation as TestTimeAdaptation
    from anoclip_anomalib.anoclip.lightning_model import AnoClip as AnoClip
    from anoclip_anomalib.anoclip.torch_model import AnoClipModel as AnoClipModel
    from anoclip_anomalib.baselines.trivial import CentreDistance as CentreDistance
    from anoclip_anomalib.baselines.trivial import LocalContrast as LocalContrast
    from anoclip_anomalib.data.generated import GeneratedParts as GeneratedParts
    from anoclip_anomalib.inspection.inspector import Inspector as Inspector
    from anoclip_anomalib.mutual.lightning_model import MutualClip as MutualClip
    from anoclip_anomalib.promptlearning.lightning_model import PromptClip as PromptClip
    from anoclip_anomalib.promptlearning.torch_model import PromptClipModel as PromptClipModel
    from anoclip_anomalib.prompts.builder import PromptBuilder as PromptBuilder

__version__ = "0.1.0"

__all__ = [*registry.PUBLIC, "__version__"]  # noqa: PLE0604


__getattr__ = registry.lazy(__name__, {name: entry.module for name, entry in registry.PUBLIC.items()})


def __dir__() -> list[str]:
    return sorted(__all__)


registry.register_with_anomalib()
