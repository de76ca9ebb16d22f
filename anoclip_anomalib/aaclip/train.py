"""Training AA-CLIP: stage 1, stage 2, and the file that comes out of them. It can be stopped at any time and goes on."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from torch import nn

from anoclip_anomalib.aaclip.adapters import ImageAdapters, TextAdapters, new_image_adapters, new_text_adapters
from anoclip_anomalib.aaclip.adapters_file import METHOD, load_text_half, save_adapters, text_digest
from anoclip_anomalib.aaclip.cached_features import CachedFeatures, ComputeFeatures
from anoclip_anomalib.aaclip.settings import Recipe, StageName, StageSettings
from anoclip_anomalib.aaclip.text import embed_anchors
from anoclip_anomalib.aaclip.training import ImageStage, Stage, TextStage
from anoclip_anomalib.claims import Claims
from anoclip_anomalib.clip import LoadedClip, load_clip
from anoclip_anomalib.data.augment import Augmentation
from anoclip_anomalib.data.auxiliary import AuxiliaryDataModule, Drawn
from anoclip_anomalib.data.samples import Sample, image_digest
from anoclip_anomalib.data.sources import Source
from anoclip_anomalib.prompts.aaclip import described
from anoclip_anomalib.zeroshot.learned_weights import TrainingFacts
from anoclip_anomalib.zeroshot.stage_folder import checkpoints, epoch_of, kept_checkpoint, open_folder, read_checkpoint

logger = logging.getLogger(__name__)
Half = TypeVar("Half", bound=nn.Module)
CLIP_TEXT = "clip"
"""Name of the text half that is plain CLIP: no stage 1."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where and how a training runs. All but accumulation and precision leaves the result as it is.

    Attributes:
        accelerator: Lightning's.
        devices: Lightning's; several train together (DDP), each with batches of its own.
        precision: Lightning's; what is trained stays in float32.
        accumulate: Batches to a step.
        checkpointing: Compute blocks again in the backward pass instead of keeping their activations.
        num_workers: Processes that read images.
        cache_features: Keep the frozen features of the first stage on disk; its images are then not varied.
        progress: Whether a bar is shown.
    """

    accelerator: str = "auto"
    devices: int | str = 1
    precision: Literal["32", "16-mixed", "bf16-mixed"] = "32"
    accumulate: int = 1
    checkpointing: bool = False
    num_workers: int = 0
    cache_features: bool = False
    progress: bool = True


@dataclass(frozen=True, kw_only=True)
class Data:
    """The images of a source.

    Attributes:
        source: As its YAML says it.
        samples: Read from files.
        drawn: Drawn on the fly.
        photos: What the header must say about photographs in what is drawn.
    """

    source: Source
    samples: Sequence[Sample] = ()
    drawn: Drawn | None = None
    photos: Mapping[str, Any] | None = None


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
    run = _Run(recipe, data, Path(out), machine or Machine())
    with run.claimed():
        text = run.text_stage() if "text" in stages else run.given_text(text_from)
        run.save(text, run.image_stage(text) if "image" in stages else None)
    return run.out


class _Run:
    def __init__(self, recipe: Recipe, data: Data, out: Path, machine: Machine) -> None:
        self.recipe, self.data, self.out, self.machine = recipe, data, out, machine
        self.folder = Path(f"{out}.checkpoints")
        activation = recipe.activation or ("gelu" if recipe.reference else "as_trained")
        self.clip: LoadedClip = load_clip(recipe.backbone, recipe.pretrained, activation=activation)  # type: ignore[arg-type]
        self.kept: dict[str, dict[str, Any]] = {}
        self.descriptions: dict[str, list[str]] = {}

    @contextmanager
    def claimed(self):  # noqa: ANN201 - a context
        """Keep other processes out; those that this training starts itself belong to it."""
        if "LOCAL_RANK" in os.environ:
            yield
            return
        with Claims(self.folder).take("training") as mine:
            if not mine:
                msg = (
                    f"Another process trains in {self.folder}; choose another --out, or wait a minute if it has died elsewhere"
                )
                raise RuntimeError(msg)
            yield

    # Stages

    def text_stage(self) -> TextAdapters:
        """Train, or finish, the text half."""
        recipe = self.recipe
        half = _seeded(
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
            msg = f"Features cannot be cached: {what}"
            raise ValueError(msg)
        module = self._datamodule(recipe.text, None if cached else Augmentation(jitter=recipe.text.jitter))
        callbacks: list[Callback] = []
        if cached:
            logger.info("Cached features: the images of the first epoch, not varied, are used in every epoch of stage 1")
            folder = self.folder / "features"
            open_folder(folder, self._data_setting() | {"image_size": recipe.image_size, "kept_as": "float16"})
            cache = CachedFeatures(module.training, folder)
            module.training = cache
            callbacks = [ComputeFeatures(cache)]
        stage = TextStage(
            self.clip,
            half,
            [self._described(category) for category in module.categories],
            recipe.text,
            reference=recipe.reference,
            checkpointing=self.machine.checkpointing,
        )
        setting = {"text_mixing": recipe.text_mixing, "adapters": recipe.text_adapters, "cached_features": cached}
        return self._fit("text", stage, module, setting, callbacks)

    def image_stage(self, text: TextAdapters) -> ImageAdapters:
        """Train, or finish, the image half towards the anchors of a text half."""
        recipe = self.recipe
        half = _seeded(
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
            ),
        )
        module = self._datamodule(recipe.image, Augmentation(jitter=recipe.image.jitter))
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
        return self._fit("image", stage, module, setting, [])

    def given_text(self, source: str | Path | None) -> TextAdapters:
        """The text half for the image stage alone."""
        if source == CLIP_TEXT:
            if self.recipe.reference:
                msg = "Plain CLIP's anchors (--text clip) are not what mode 'reference' trains; train its text stage"
                raise ValueError(msg)
            return new_text_adapters(self.clip, reference=False, count=0)
        path = Path(source or self.out)
        if not path.is_file():
            msg = (
                f"The image stage needs text anchors, and there is no file {path}: run the text stage first "
                "(--stage text), name its file (--text FILE), or use plain CLIP's anchors (--text clip)"
            )
            raise ValueError(msg)
        text, facts = load_text_half(path)
        if (facts.backbone_digest or self.clip.digest) != self.clip.digest or facts.activation != self.clip.activation:
            msg = (
                f"The text half in {path} is for {facts.backbone} with activation {facts.activation!r} and other weights than "
                f"{self.clip.backbone} with {self.clip.activation!r}, which is trained here"
            )
            raise ValueError(msg)
        self.kept["text"] = facts.settings.get("text", {})
        return text

    def _described(self, category: str) -> list[str]:
        if category not in self.descriptions:
            self.descriptions[category] = described(category, self.recipe.descriptions)
        return self.descriptions[category]

    def _datamodule(self, settings: StageSettings, augmentation: Augmentation | None) -> AuxiliaryDataModule:
        return AuxiliaryDataModule(
            self.data.source,
            self.data.samples,
            drawn=self.data.drawn,
            image_size=max(settings.sizes, default=self.recipe.image_size),
            batch_size=settings.batch_size,
            augmentation=augmentation,
            num_workers=self.machine.num_workers,
            seed=self.recipe.seed,
        )

    def _data_setting(self) -> dict[str, Any]:
        """What a result depends on besides the stage: the data and the frozen CLIP."""
        source = asdict(self.data.source)
        for data in source["data"]:
            data["init_args"] = {key: value for key, value in data["init_args"].items() if key != "root"}
        return {
            "source": source,
            "images": [f"{one.category} {Path(one.image).name} {one.anomalous}" for one in self.data.samples],
            "clip": self.clip.digest,
            "activation": self.clip.activation,
        }

    def _fit(self, name: StageName, stage: Stage, module: AuxiliaryDataModule, setting: dict, callbacks: list[Callback]):  # noqa: ANN202 - the half
        machine, folder = self.machine, self.folder / name
        recipe = {"image_size": self.recipe.image_size, "mode": self.recipe.mode, "seed": self.recipe.seed}
        run = {"devices": machine.devices, "precision": machine.precision, "accumulate": machine.accumulate}
        descriptions = {category: self._described(category) for category in module.categories}
        setting = setting | recipe | run | asdict(stage.settings) | self._data_setting() | {"descriptions": descriptions}
        open_folder(folder, setting)
        found = checkpoints(folder)
        newest = found[-1] if found else None
        if newest is None or epoch_of(newest) < stage.settings.epochs:
            if newest is not None:
                logger.info("%s stage: going on after epoch %d of %d", name, epoch_of(newest), stage.settings.epochs)
            self._trainer(name, folder, stage.settings.epochs, callbacks).fit(
                stage, datamodule=module, ckpt_path=newest, weights_only=True
            )
        kept = kept_checkpoint(folder, best=module.held is not None)
        content = read_checkpoint(kept)
        stage.load_state_dict(content["state_dict"], strict=False)
        chosen = "lowest loss on held-out images" if module.held is not None else "last epoch"
        losses = {key: round(value, 6) for key, value in content["losses"].items()}
        self.kept[name] = {**asdict(stage.settings), **run, "epoch": epoch_of(kept), "chosen": chosen, "losses": losses}
        return stage.result.cpu()

    def _trainer(self, name: StageName, folder: Path, epochs: int, callbacks: list[Callback]) -> Trainer:
        machine = self.machine
        keep = ModelCheckpoint(
            dirpath=folder,
            filename="{epoch:04d}",
            auto_insert_metric_name=False,
            save_top_k=-1,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        bar = [TQDMProgressBar()] if machine.progress else []
        return Trainer(
            accelerator=machine.accelerator,
            devices=machine.devices,
            strategy="auto" if machine.devices in (1, "1") else "ddp",
            precision=machine.precision,
            accumulate_grad_batches=machine.accumulate,
            max_epochs=epochs,
            callbacks=[*callbacks, *bar, _EpochLine(name), keep],
            logger=False,
            enable_progress_bar=machine.progress,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            deterministic="warn",
            default_root_dir=folder,
        )

    # The file

    def save(self, text: TextAdapters, image: ImageAdapters | None) -> None:
        """Write what was trained with all that is known about it, once."""
        if os.environ.get("LOCAL_RANK", "0") != "0":
            return
        recipe, source = self.recipe, self.data.source
        sets = [
            {"class": one.class_path, "name": str(one.init_args.get("name", "")), "categories": list(one.categories)}
            for one in source.data
        ]
        used = self._datamodule(recipe.image if image is not None else recipe.text, None)
        settings: dict[str, Any] = {"descriptions": {name: self._described(name) for name in used.categories}}
        settings |= {name: kept for name, kept in self.kept.items() if kept}
        if source.generated is not None:
            settings["generated"] = {**asdict(source.generated), "photographs": dict(self.data.photos or {})}
        facts = TrainingFacts(
            method=METHOD,
            mode=recipe.mode,
            backbone=self.clip.backbone,
            pretrained=self.clip.pretrained,
            backbone_digest=self.clip.digest,
            activation=self.clip.activation,
            image_size=recipe.image_size,
            source=source.name,
            categories=list(used.categories),
            split=source.split if source.data else "",
            images=len(used.training),
            masks=True,
            seed=recipe.seed,
            data_sets=sets,
            image_digests=sorted(image_digest(sample.image) for sample in self.data.samples),
            settings=settings,
        )
        save_adapters(self.out, text, image, facts)


class _EpochLine(Callback):
    """One line for each epoch: what a bar shows is gone when it moves on, and a pipe has none."""

    def __init__(self, stage: StageName) -> None:
        self.stage = stage

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Stage)
        if trainer.is_global_zero:
            losses = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in pl_module.epoch_losses().items())
            logger.info("%s stage, epoch %d of %s: %s", self.stage, trainer.current_epoch + 1, trainer.max_epochs, losses)


def _seeded(seed: int, build: Callable[[], Half]) -> Half:
    """Initial weights from a seed, without touching the caller's random numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
