"""How the methods are trained, checked without importing torch. The defaults are the authors'."""

from dataclasses import dataclass

from anoclip_anomalib.checks import refuse
from anoclip_anomalib.promptlearning.methods import MethodName, PromptMethod, find_method
from anoclip_anomalib.zeroshot.training_settings import TrainingRecipe, TrainingSettings


@dataclass(frozen=True, kw_only=True)
class LossChoice:
    """What a method's authors minimise.

    Attributes:
        segmentation: Weight of focal and Dice loss of each level. Crane's four taps are one tensor and their losses are summed,
            each with weight 2: 8.
        normal_dice: Whether the Dice loss of the normal class takes part.
        image: Weight of the image loss; 0 for none.
        image_temperature: Of the cosines in the image loss.
        nearest: Whether maps are upsampled without interpolation.
        rows: Whether each row of pixels is an item of the Dice loss (AdaCLIP's code drops the batch axis).
        weight_decay: Of AdamW; 0 for Adam.
    """

    segmentation: float
    normal_dice: bool
    image: float
    image_temperature: float = 0.07
    nearest: bool = False
    rows: bool = False
    weight_decay: float = 0.0


LOSSES: dict[str, LossChoice] = {
    "anomalyclip": LossChoice(segmentation=4, normal_dice=True, image=1),
    "crane": LossChoice(segmentation=8, normal_dice=False, image=0.2, image_temperature=0.01, nearest=True),
    "crane-plus": LossChoice(segmentation=2, normal_dice=False, image=0.2, image_temperature=0.01, nearest=True),
    "adaclip": LossChoice(segmentation=1, normal_dice=True, image=1, image_temperature=0.01, rows=True, weight_decay=0.01),
    "april-gan": LossChoice(segmentation=1, normal_dice=False, image=0),
}
TRAINING: dict[str, TrainingSettings] = {
    "anomalyclip": TrainingSettings(epochs=15, batch_size=8, lr=1e-3),
    "crane": TrainingSettings(epochs=5, batch_size=8, lr=1e-3, betas=(0.6, 0.999)),
    "crane-plus": TrainingSettings(epochs=5, batch_size=8, lr=1e-3, betas=(0.6, 0.999)),
    "adaclip": TrainingSettings(epochs=5, batch_size=1, lr=1e-2),
    "april-gan": TrainingSettings(epochs=15, batch_size=8, lr=1e-3),
}


@dataclass(frozen=True, kw_only=True)
class PromptRecipe(TrainingRecipe):
    """A training; without ``activation`` it is exact GELU for AdaCLIP and APRIL-GAN, who alone have ``taps``.

    Attributes:
        method: See :data:`anoclip_anomalib.promptlearning.methods.METHODS`.
        training: Steps and their size.
        second_encoder: timm's name of Crane+'s second encoder; ``None`` for the authors'.
        second_pretrained: Its weights as a file; ``None`` for timm's.
        knowledge: Regularise by knowledge prompts: ``True`` for those that come with the package, or a YAML file.
        knowledge_weight: Of this term.
        knowledge_margin: Cosine between both prompts from which on they are pushed apart.
    """

    method: MethodName
    training: TrainingSettings
    second_encoder: str | None = None
    second_pretrained: str | None = None
    knowledge: bool | str = False
    knowledge_weight: float = 1.0
    knowledge_margin: float = 0.5

    @property
    def choice(self) -> PromptMethod:
        """The row of the table."""
        return find_method(self.method)

    @property
    def loss(self) -> LossChoice:
        """What is minimised."""
        return LOSSES[self.method]

    def check(self) -> None:
        """Raise a ``ValueError`` for the first value that cannot be used."""
        method = self.choice
        self.training.check(method.name)
        has_taps = method.learned != "prompts"
        faults = {
            f"knowledge_weight={self.knowledge_weight} must be greater than 0": not self.knowledge_weight > 0,
            f"knowledge_margin={self.knowledge_margin} must lie in [-1, 1]": not -1 <= self.knowledge_margin <= 1,
            f"Knowledge prompts regularise learned prompts, which {method.title} does not have": bool(self.knowledge)
            and has_taps,
            f"{method.title} has no image loss that normal_aware could be added to": self.training.normal_aware > 0
            and not self.loss.image,
            f"{method.title} has no taps to choose": self.taps is not None and not has_taps,
            f"{method.title} has no second encoder": not method.second_encoder
            and (self.second_encoder, self.second_pretrained) != (None, None),
        }
        refuse(faults | self.faults())
