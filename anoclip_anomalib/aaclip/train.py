"""Training AA-CLIP: stage 1, stage 2, and the file that comes out of them. It can be stopped at any time and goes on."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Callback

from anoclip_anomalib.aaclip.adapters import ImageAdapters, TextAdapters, new_image_adapters, new_text_adapters
from anoclip_anomalib.aaclip.adapters_file import METHOD, load_text_half, save_adapters, text_digest
from anoclip_anomalib.aaclip.scoring import TEMPERATURE
from anoclip_anomalib.aaclip.settings import Recipe, StageName, StageSettings
from anoclip_anomalib.aaclip.text import embed_anchors
from anoclip_anomalib.aaclip.training import ImageStage, Stage, TextStage
from anoclip_anomalib.data.augment import Augmentation
from anoclip_anomalib.data.auxiliary import AuxiliaryDataModule
from anoclip_anomalib.prompts.aaclip import described
from anoclip_anomalib.zeroshot.train import Data, Machine, TrainingRun, seeded, writes_results

CLIP_TEXT = "clip"
"""Name of the text half that is plain CLIP: no stage 1."""


def train(
    recipe: Recipe,
    data: Data,
    out: str | Path,
    *,
    stages: Sequence[StageName] = ("text", "image"),
    text_from: str | Path | None = None,
    machine: Machine | None = None,
) -> Path:
    """Train, or go on where an interrupted training of the same setting stopped.

    Every epoch leaves a checkpoint in ``<out>.checkpoints/<stage>/``; the result of a stage is that of its last epoch, or
    where the source holds images out, of the epoch with the lowest loss on them.

    Args:
        recipe: How to train.
        data: What to train on.
        out: The ``.safetensors`` to write; with ``stages=("text",)`` it has no image half.
        stages: ``"text"``, ``"image"`` or both.
        text_from: For the image stage alone: a file with a text half, or ``"clip"`` for plain CLIP's anchors. ``None`` for
            the text half in ``out``.
        machine: Where to run.

    Returns:
        ``out``.

    Raises:
        ValueError: For a setting that cannot be used, for a folder of another setting, and for an image stage without text
            anchors.
        RuntimeError: If another process trains there.
        FloatingPointError: If the loss is not finite.
    """
    recipe.check()
    run = _Run(recipe, data, Path(out), machine)
    with run.claimed():
        text = run.text_stage() if "text" in stages else run.given_text(text_from)
        run.save(text, run.image_stage(text) if "image" in stages else None)
    return run.out


class _Run(TrainingRun):
    def __init__(self, recipe: Recipe, data: Data, out: Path, machine: Machine | None) -> None:
        super().__init__(recipe, data, out, activation="gelu" if recipe.reference else "as_trained", machine=machine)
        self.recipe = recipe
        self.descriptions: dict[str, list[str]] = {}

    # Stages

    def text_stage(self) -> TextAdapters:
        """Train, or finish, the text half."""
        recipe = self.recipe
        half = seeded(
            recipe.seed,
            partial(
                new_text_adapters,
                self.clip,
                reference=recipe.reference,
                count=recipe.text_adapters,
                mixing=recipe.text_mixing,
            ),
        )
        cached = self.machine.cache_features
        if cached and (recipe.reference or recipe.text.sizes):
            what = "in mode 'reference' features depend on the batch" if recipe.reference else "several sizes were asked for"
            raise ValueError(f"Features cannot be cached: {what}")
        module = self._images(recipe.text, None if cached else Augmentation(jitter=recipe.text.jitter))
        callbacks = self.cache_features(module) if cached else []
        stage = TextStage(
            self.clip,
            half,
            [self._described(category) for category in module.categories],
            recipe.text,
            reference=recipe.reference,
            checkpointing=self.machine.checkpointing,
        )
        setting = {"text_mixing": recipe.text_mixing, "adapters": recipe.text_adapters, "cached_features": cached}
        return self._stage("text", stage, module, setting, callbacks)

    def image_stage(self, text: TextAdapters) -> ImageAdapters:
        """Train, or finish, the image half towards the anchors of a text half."""
        recipe = self.recipe
        half = seeded(
            recipe.seed + 1,
            partial(
                new_image_adapters,
                self.clip,
                reference=recipe.reference,
                count=recipe.image_adapters,
                taps=recipe.taps,
                mixing=recipe.image_mixing,
                projections=recipe.projections,
                class_share=recipe.class_share,
                class_token=recipe.class_token,
            ),
        )
        module = self._images(recipe.image, Augmentation(jitter=recipe.image.jitter))
        anchors = [embed_anchors(self.clip, text, self._described(category)) for category in module.categories]
        stage = ImageStage(self.clip, half, torch.stack(anchors), recipe.image, checkpointing=self.machine.checkpointing)
        setting = {
            "mixing": recipe.image_mixing,
            "adapters": recipe.image_adapters,
            "taps": half.taps,
            "projections": recipe.projections,
            "class_share": recipe.class_share,
            "text": text_digest(text),
        }
        # Left out where it is as it always was: a folder that an earlier version began goes on.
        setting |= {} if recipe.class_token == "adapted" else {"class_token": recipe.class_token}
        return self._stage("image", stage, module, setting, [])

    def given_text(self, source: str | Path | None) -> TextAdapters:
        """The text half for the image stage alone."""
        if source == CLIP_TEXT:
            if self.recipe.reference:
                raise ValueError(
                    "Plain CLIP's anchors (--text clip) are not what mode 'reference' trains; train its text stage"
                )
            return new_text_adapters(self.clip, reference=False, count=0)
        path = Path(source or self.out)
        if not path.is_file():
            raise ValueError(
                f"The image stage needs text anchors, and there is no file {path}: run the text stage first "
                "(--stage text), name its file (--text FILE), or use plain CLIP's anchors (--text clip)"
            )
        text, facts = load_text_half(path)
        if (facts.backbone_digest or self.clip.digest) != self.clip.digest or facts.activation != self.clip.activation:
            raise ValueError(
                f"The text half in {path} is for {facts.backbone} with activation {facts.activation!r} and other weights than "
                f"{self.clip.backbone} with {self.clip.activation!r}, which is trained here"
            )
        self.kept["text"] = facts.settings.get("text", {})
        return text

    def _described(self, category: str) -> list[str]:
        if category not in self.descriptions:
            self.descriptions[category] = described(category, self.recipe.descriptions)
        return self.descriptions[category]

    def _stage(  # noqa: ANN202 - the half
        self, name: StageName, stage: Stage, module: AuxiliaryDataModule, setting: dict, callbacks: list[Callback]
    ):
        descriptions = {category: self._described(category) for category in module.categories}
        return self.fit(name, stage, module, setting | {"mode": self.recipe.mode, "descriptions": descriptions}, callbacks)

    def _images(self, settings: StageSettings, augmentation: Augmentation | None) -> AuxiliaryDataModule:
        size = max(settings.sizes, default=self.recipe.image_size)
        return self.datamodule(settings.batch_size, augmentation, size)

    # The file

    def save(self, text: TextAdapters, image: ImageAdapters | None) -> None:
        """Write what was trained with all that is known about it, once."""
        if not writes_results():
            return
        used = self._images(self.recipe.image if image is not None else self.recipe.text, None)
        settings: dict[str, object] = {"descriptions": {name: self._described(name) for name in used.categories}}
        if self.recipe.image_weight is not None:
            settings["image_weight"] = self.recipe.image_weight
        elif self.recipe.image.loss == "balanced" and not self.recipe.reference:
            settings["image_weight"] = trained_image_weight(self.recipe.image)
        if self.recipe.scales != (1,):
            settings["scales"] = list(self.recipe.scales)
        save_adapters(self.out, text, image, self.facts(METHOD, used, settings, self.recipe.mode))


def trained_image_weight(settings: StageSettings) -> float:
    """Share of the detection vector in the image score: both verdicts at the temperatures that ``"balanced"`` trains them at.

    Near 0.5 the sigmoid is a line, so that the shares do what another temperature would do.
    """
    return round(settings.detection_scale / (settings.detection_scale + TEMPERATURE), 4)
