"""What a zero-shot method tells about itself, and what the wiring needs of its torch model."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from anomalib.data import InferenceBatch

from anoclip_anomalib.clip import LoadedClip
from anoclip_anomalib.versions import state_dict_digest
from anoclip_anomalib.zeroshot.features import Features
from anoclip_anomalib.zeroshot.tiling import Tiling

NO_CLASS = "The model knows no class yet: give class_name (for instance class_name='bottle') or call set_class() first"


@dataclass(frozen=True)
class MethodFacts:
    """What a reader of a table must know about a method.

    Attributes:
        auxiliary_data: Labelled or normal data that the method itself was trained on, beyond its backbone's pre-training.
        category_data: What it sees of the category before the test.
        adapts_on_test_images: Whether parameters change on test images.
        sees_other_test_images: Whether an image's result depends on other test images.
        order_dependent: Whether it depends on the order of the test images.
    """

    auxiliary_data: str = "none"
    category_data: str = "its name"
    adapts_on_test_images: bool = False
    sees_other_test_images: bool = False
    order_dependent: bool = False


def stated_facts(model: Any, callbacks: Sequence[Any] = ()) -> dict[str, Any]:
    """What a Lightning model states about its method, with what its callbacks change of it; empty where nobody does."""
    own = getattr(model, "method_facts", None)
    facts = {} if own is None else asdict(own)
    for callback in callbacks:
        facts |= getattr(callback, "changed_facts", {})
    return facts


class ZeroShotModel(Protocol):
    """The torch model that :class:`anoclip_anomalib.zeroshot.lightning.ZeroShotClip` wires into anomalib.

    It is an ``nn.Module`` whose frozen encoder is its submodule ``visual_encoder``, which checkpoints leave out.

    Attributes:
        class_name: The class that the text embeddings were made for; ``None`` before :meth:`set_class`.
        text_embeddings: (2, D) buffer, normal then anomalous; empty before :meth:`set_class`.
        image_size: (height, width) that the pre-processor resizes to.
        tiling: ``"none"``, or ``"square"`` where only the shorter side is resized.
        provenance: Backbone, weights, versions: plain strings, kept with results and in checkpoints.
        weights_digest: SHA-256 of all weights, see :func:`weights_digest`.
        facts: For tables.
        natural_threshold: The image score and map value at which the method is undecided without any data; ``None`` if there
            is no such score.
    """

    class_name: str | None
    text_embeddings: torch.Tensor
    image_size: tuple[int, int]
    tiling: Tiling
    provenance: dict[str, str]

    @property
    def weights_digest(self) -> str: ...  # noqa: D102

    @property
    def facts(self) -> MethodFacts: ...  # noqa: D102

    @property
    def natural_threshold(self) -> float | None: ...  # noqa: D102

    def set_class(self, class_name: str) -> None:
        """Compute the text embeddings of a class."""

    def encode(self, images: torch.Tensor) -> Features:
        """(B, 3, H, W) normalised images -> what is known about them."""

    def score(self, features: Features) -> InferenceBatch:
        """Features -> ``pred_score`` (B,) and ``anomaly_map`` (B, 1, H, W)."""

    def __call__(self, images: torch.Tensor) -> InferenceBatch:
        """Both steps."""


def check_class(model: Any) -> None:
    """Raise a ``RuntimeError`` for a torch model with text whose class was not set."""
    if model.text_embeddings.numel() == 0:
        raise RuntimeError(NO_CLASS)


def weights_digest(clip: LoadedClip, learned: Mapping[str, torch.Tensor] | None = None) -> str:
    """SHA-256 of a method's weights.

    Args:
        clip: The frozen CLIP.
        learned: The method's own learned weights by name, if it has any.

    Returns:
        CLIP's own digest where nothing was learned.
    """
    if not learned:
        return clip.digest
    return hashlib.sha256(f"{clip.digest} {state_dict_digest(dict(learned))}".encode()).hexdigest()
