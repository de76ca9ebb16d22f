"""How AA-CLIP is trained, checked without importing torch. The defaults are the authors' (``train.py``)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from anoclip_anomalib.checks import refuse
from anoclip_anomalib.prompts.aaclip import Descriptions
from anoclip_anomalib.zeroshot.training_settings import TrainingRecipe, TrainingSettings

Mode = Literal["clean", "reference"]
Loss = Literal["authors", "balanced"]
StageName = Literal["text", "image"]
Projections = Literal["clip", "random"]
ClassToken = Literal["adapted", "clip"]
MIXING = 0.1
"""Share of an adapter's output in the adapted tokens (authors' ``i_w`` and ``t_w``)."""


def usable_scales(scales: Sequence[float], *, reference: bool) -> bool:
    """Whether an image can be read at these shares of its size: from 0.5 to 2, and in mode ``"reference"`` 1 alone."""
    return bool(scales) and all(0.5 <= scale <= 2 for scale in scales) and (not reference or tuple(scales) == (1,))


@dataclass(frozen=True, kw_only=True)
class StageSettings(TrainingSettings):
    """How a stage is trained.

    Attributes:
        sizes: Sides that batches are scaled to in turn, in pixels; empty for the image size alone.
        loss: Segmentation loss: the ``"authors"``' focal and Dice loss, or ``"balanced"`` for small defects.
        pairs: With ``"balanced"``: weight of what compares both images of a generated part (heat on the good one where the
            other has its defect, and the order of their verdicts); 0 for none.
        detection_scale: Factor of the products in the detection loss (authors: 1, no temperature).
        jitter: Largest relative change of brightness, contrast and saturation of the images.
    """

    sizes: tuple[int, ...] = ()
    loss: Loss = "authors"
    pairs: float = 0.0
    detection_scale: float = 1.0
    jitter: float = 0.0

    def faults(self) -> dict[str, bool]:
        """See :class:`TrainingSettings`."""
        return super().faults() | {
            f"loss={self.loss!r} is unknown; choose one of {get_args(Loss)}": self.loss not in get_args(Loss),
            f"pairs={self.pairs} must not be negative": not self.pairs >= 0,
            f"pairs={self.pairs} is for loss 'balanced'": self.pairs > 0 and self.loss != "balanced",
            f"detection_scale={self.detection_scale} must be greater than 0": not self.detection_scale > 0,
            f"jitter={self.jitter} must lie in [0, 1]": not 0 <= self.jitter <= 1,
        }


TEXT_STAGE = StageSettings(epochs=5, batch_size=16, lr=1e-5)
IMAGE_STAGE = StageSettings(epochs=20, batch_size=2, lr=5e-4, schedule="milestones", milestones=(16_000, 32_000), jitter=0.5)


@dataclass(frozen=True, kw_only=True)
class Recipe(TrainingRecipe):
    """A training; without ``activation`` it is exact GELU in mode ``"reference"``.

    Attributes:
        mode: ``"clean"`` or ``"reference"``.
        text: The first stage.
        image: The second stage.
        text_mixing: Share of the text adapters' output.
        image_mixing: Share of the image adapters' output.
        text_adapters: Adapted blocks of the text tower; ``None`` for the first quarter (3 of 12).
        image_adapters: Adapted blocks of the image tower; ``None`` for the first quarter, at least 6.
        projections: Where the image half's projections begin: at ``"clip"``'s own, or at ``"random"`` as the authors' do.
        class_share: Share of the class token in the detection vector; the authors' has patches alone (0). 1, for plain CLIP's
            class token alone, leaves nothing of the vector to learn.
        image_weight: Share of the detection vector in the image score at test time; ``None`` for the authors' 0.5, or with
            loss ``"balanced"`` what :func:`~anoclip_anomalib.aaclip.train.trained_image_weight` says.
        class_token: Which class token: the ``"adapted"`` one or plain ``"clip"``'s.
        scales: Of the image size, at which images are read at test time; the maps are averaged (authors: 1).
        descriptions: What the prompts say for a class, instead of the authors' description or its name.
    """

    mode: Mode = "clean"
    text: StageSettings = TEXT_STAGE
    image: StageSettings = IMAGE_STAGE
    text_mixing: float = MIXING
    image_mixing: float = MIXING
    text_adapters: int | None = None
    image_adapters: int | None = None
    projections: Projections = "clip"
    class_share: float = 0.0
    image_weight: float | None = None
    class_token: ClassToken = "adapted"
    scales: tuple[float, ...] = (1.0,)
    descriptions: Descriptions = field(default_factory=dict)

    @property
    def reference(self) -> bool:
        """Whether it is as the authors' code."""
        return self.mode == "reference"

    def check(self) -> None:
        """Raise a ``ValueError`` for the first value that cannot be used."""
        self.text.check("text")
        self.image.check("image")
        faults = {
            f"mode={self.mode!r} is unknown; choose 'clean' or 'reference'": self.mode not in get_args(Mode),
            f"mixing must lie in [0, 1]; got {self.text_mixing} and {self.image_mixing}": not (
                0 <= self.text_mixing <= 1 and 0 <= self.image_mixing <= 1
            ),
            f"projections={self.projections!r} is unknown; choose 'clip' or 'random'": self.projections
            not in get_args(Projections),
            f"class_share={self.class_share} must lie in [0, 1]; in mode 'reference' it is 0": not 0 <= self.class_share <= 1
            or (self.reference and self.class_share > 0),
            "class_share=1 is for class_token 'clip', and then there is nothing that normal_aware could train": self.class_share
            == 1
            and (self.class_token != "clip" or self.image.normal_aware > 0),
            "class_token='clip' needs a class_share above 0, its share of the detection vector": self.class_token == "clip"
            and self.class_share == 0,
            f"image_weight={self.image_weight} must lie in [0, 1]; in mode 'reference' it is 0.5": self.image_weight is not None
            and (self.reference or not 0 <= self.image_weight <= 1),
            f"class_token={self.class_token!r} is unknown; choose one of {get_args(ClassToken)}": self.class_token
            not in get_args(ClassToken),
            f"scales={self.scales} must be numbers from 0.5 to 2; in mode 'reference' 1 alone": not usable_scales(
                self.scales, reference=self.reference
            ),
        }
        refuse(faults | self.faults())
