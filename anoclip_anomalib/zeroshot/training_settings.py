"""How a part of a model is trained on a source, checked without importing torch."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from anoclip_anomalib.checks import refuse

Schedule = Literal["milestones", "cosine", "constant"]


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Steps and their size.

    Attributes:
        epochs: Passes over the source.
        batch_size: Images in a step of one process.
        lr: Of Adam.
        betas: Of Adam.
        schedule: ``"milestones"`` halves the rate at some steps; ``"cosine"`` lets it fall to 2 %; or ``"constant"``.
        milestones: Those steps (not epochs).
        warmup: Steps over which the rate rises to its value.
        hold: Part of the steps that ``"cosine"`` waits before it falls.
        average: Decay of the moving average over the steps that is kept instead of the last weights; 0 for none.
        normal_aware: Weight of :func:`anoclip_anomalib.zeroshot.losses.normal_aware_loss` on the image's feature; 0 for none.
    """

    epochs: int
    batch_size: int
    lr: float
    betas: tuple[float, float] = (0.5, 0.999)
    schedule: Schedule = "constant"
    milestones: tuple[int, ...] = ()
    warmup: int = 0
    hold: float = 0.0
    average: float = 0.0
    normal_aware: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For headers and checkpoints; what is younger than some of them stands in it only where it is used."""
        own = asdict(self)
        return own if self.normal_aware else {name: value for name, value in own.items() if name != "normal_aware"}

    def faults(self) -> dict[str, bool]:
        """What would be wrong -> whether it is."""
        return {
            f"epochs={self.epochs} must be at least 1": self.epochs < 1,
            f"batch_size={self.batch_size} must be at least 1": self.batch_size < 1,
            f"lr={self.lr} must be greater than 0": not self.lr > 0,
            f"betas={self.betas} must be two numbers in [0, 1)": len(self.betas) != 2
            or not all(0 <= b < 1 for b in self.betas),
            f"schedule={self.schedule!r} is unknown; choose one of {get_args(Schedule)}": self.schedule
            not in get_args(Schedule),
            f"warmup={self.warmup} must not be negative": self.warmup < 0,
            f"hold={self.hold} must lie in [0, 1)": not 0 <= self.hold < 1,
            f"average={self.average} must lie in [0, 1)": not 0 <= self.average < 1,
            f"normal_aware={self.normal_aware} must not be negative": not self.normal_aware >= 0,
        }

    def check(self, stage: str) -> None:
        """Raise a ``ValueError`` for the first value that is out of range."""
        refuse(self.faults(), f"{stage} stage: ")


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """What every training is asked for besides its steps.

    Attributes:
        backbone: See :func:`anoclip_anomalib.clip.load_clip`.
        pretrained: See there.
        activation: See there; ``None`` for what the method's authors have, else as trained.
        image_size: Side of the square in pixels.
        seed: Of initial weights, order and augmentation.
        taps: Blocks behind which patches are read, counted from 1; ``None`` for the ends of the four quarters.
    """

    backbone: str = "ViT-L-14-336"
    pretrained: str | None = "openai"
    activation: str | None = None
    image_size: int = 518
    seed: int = 111
    taps: tuple[int, ...] | None = None

    def faults(self) -> dict[str, bool]:
        """What would be wrong -> whether it is."""
        taps = self.taps
        return {
            f"image_size={self.image_size} must be at least 1": self.image_size < 1,
            f"seed={self.seed} must not be negative": self.seed < 0,
            f"taps={taps} must be a rising list of blocks, counted from 1": taps is not None
            and (not taps or list(taps) != sorted(set(taps)) or taps[0] < 1),
        }
