"""A training beside a frozen CLIP that can be stopped at any time and goes on, whatever the method."""

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from anoclip_anomalib.claims import Claims
from anoclip_anomalib.clip import load_clip
from anoclip_anomalib.clip.patch_embedding import check_image_size
from anoclip_anomalib.clip.weights import seeded as seeded
from anoclip_anomalib.data.augment import Augmentation
from anoclip_anomalib.data.auxiliary import AuxiliaryDataModule, Drawn
from anoclip_anomalib.data.samples import Sample, image_digest
from anoclip_anomalib.data.sources import Source
from anoclip_anomalib.progress import Progress
from anoclip_anomalib.zeroshot.cached_features import CachedFeatures, ComputeFeatures
from anoclip_anomalib.zeroshot.learned_weights import TrainingFacts
from anoclip_anomalib.zeroshot.stage_folder import checkpoints, epoch_of, kept_checkpoint, open_folder, read_checkpoint
from anoclip_anomalib.zeroshot.training import Training
from anoclip_anomalib.zeroshot.training_settings import TrainingRecipe

logger = logging.getLogger(__name__)


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


class TrainingRun:
    """The stages of a training, each in a folder of its own beside the file that comes out.

    Args:
        recipe: Which CLIP, the size of the images, and the seed of order and augmentation.
        data: What to train on.
        out: The ``.safetensors`` to write.
        activation: Of CLIP's MLPs, where the recipe does not say it.
        machine: Where to run.

    Attributes:
        clip: The frozen CLIP.
        folder: ``<out>.checkpoints``.
        kept: Stage -> how it was trained and which epoch was kept.

    Raises:
        ValueError: If the size is not a multiple of the patch size.
    """

    def __init__(
        self, recipe: TrainingRecipe, data: Data, out: str | Path, *, activation: str, machine: Machine | None = None
    ) -> None:
        activation = recipe.activation or activation
        self.clip = load_clip(recipe.backbone, recipe.pretrained, activation=activation)  # type: ignore[arg-type]
        # Before a folder is made that another size would not fit.
        check_image_size(self.clip.model.visual, recipe.image_size, recipe.image_size)
        self.data, self.out, self.machine = data, Path(out), machine or Machine()
        self.image_size, self.seed = recipe.image_size, recipe.seed
        self.folder = Path(f"{out}.checkpoints")
        self.kept: dict[str, dict[str, Any]] = {}

    @contextmanager
    def claimed(self):  # noqa: ANN201 - a context
        """Keep other processes out; those that this training starts itself belong to it."""
        with nullcontext(True) if "LOCAL_RANK" in os.environ else Claims(self.folder).take("training") as mine:
            if not mine:
                raise RuntimeError(
                    f"Another process trains in {self.folder}; choose another --out, or wait a minute if it has died elsewhere"
                )
            yield

    def datamodule(
        self, batch_size: int, augmentation: Augmentation | None, image_size: int | None = None
    ) -> AuxiliaryDataModule:
        """The images of the source, in another size if one is given."""
        return AuxiliaryDataModule(
            self.data.source,
            self.data.samples,
            drawn=self.data.drawn,
            image_size=image_size or self.image_size,
            batch_size=batch_size,
            augmentation=augmentation,
            num_workers=self.machine.num_workers,
            seed=self.seed,
        )

    def data_setting(self) -> dict[str, Any]:
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

    def cache_features(self, module: AuxiliaryDataModule, folder: str = "features", **setting: Any) -> list[Callback]:
        """Let a stage train on features of the first epoch's images, kept on disk.

        Args:
            module: Its training images are replaced.
            folder: Below the training's own.
            setting: What the features depend on besides data, CLIP and image size.

        Returns:
            Callbacks for :meth:`fit`.
        """
        logger.info("Cached features: the images of the first epoch, not varied, are used in every epoch")
        path = self.folder / folder
        open_folder(path, self.data_setting() | {"image_size": self.image_size, "kept_as": "float16"} | setting)
        cache = CachedFeatures(module.training, path)
        module.training = cache
        return [ComputeFeatures(cache)]

    def fit(
        self,
        name: str,
        stage: Training,
        module: AuxiliaryDataModule,
        setting: dict[str, Any],
        callbacks: Sequence[Callback] = (),
    ) -> nn.Module:
        """Train a stage, or what is left of it.

        Args:
            name: Of the stage and its folder.
            stage: What is trained.
            module: The images.
            setting: What decides the result besides data, CLIP, machine and the stage's settings.
            callbacks: Of the stage.

        Returns:
            The trained part, on the CPU: of the last epoch, or of the best one on held-out images.
        """
        machine, folder = self.machine, self.folder / name
        run = {"devices": machine.devices, "precision": machine.precision, "accumulate": machine.accumulate}
        own = {"image_size": self.image_size, "seed": self.seed}
        setting = setting | own | run | stage.settings.as_dict() | self.data_setting()
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
        self.kept[name] = {**stage.settings.as_dict(), **run, "epoch": epoch_of(kept), "chosen": chosen, "losses": losses}
        return stage.result.cpu()

    def _trainer(self, name: str, folder: Path, epochs: int, callbacks: Sequence[Callback]) -> Trainer:
        machine = self.machine
        keep = ModelCheckpoint(
            dirpath=folder,
            filename="{epoch:04d}",
            auto_insert_metric_name=False,
            save_top_k=-1,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        return Trainer(
            accelerator=machine.accelerator,
            devices=machine.devices,
            strategy="auto" if machine.devices in (1, "1") else "ddp",
            precision=machine.precision,
            accumulate_grad_batches=machine.accumulate,
            max_epochs=epochs,
            callbacks=[*callbacks, _Display(name, quiet=not machine.progress), keep],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            deterministic="warn",
            default_root_dir=folder,
        )

    def facts(self, method: str, module: AuxiliaryDataModule, settings: dict[str, Any], mode: str = "clean") -> TrainingFacts:
        """The header of what was trained.

        Args:
            method: Name.
            module: The images.
            settings: Of the method; how each stage was trained is added.
            mode: Of the method.
        """
        source = self.data.source
        sets = [
            {"class": one.class_path, "name": str(one.init_args.get("name", "")), "categories": list(one.categories)}
            for one in source.data
        ]
        settings = settings | {name: kept for name, kept in self.kept.items() if kept}
        if source.generated is not None:
            settings["generated"] = {**asdict(source.generated), "photographs": dict(self.data.photos or {})}
        return TrainingFacts(
            method=method,
            mode=mode,
            backbone=self.clip.backbone,
            pretrained=self.clip.pretrained,
            backbone_digest=self.clip.digest,
            activation=self.clip.activation,
            image_size=self.image_size,
            source=source.name,
            categories=list(module.categories),
            split=source.split if source.data else "",
            images=len(module.training),
            seed=self.seed,
            data_sets=sets,
            image_digests=sorted(image_digest(sample.image) for sample in self.data.samples),
            settings=settings,
        )


def writes_results() -> bool:
    """Whether this is the first of the processes that train together."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


class _Display(Callback):
    """How far an epoch is, and a line for each: what a bar shows is gone when it moves on."""

    def __init__(self, stage: str, *, quiet: bool) -> None:
        self.stage, self.display = stage, Progress(quiet=quiet)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            text = f"{self.stage} stage, epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
            self.display.start(text, int(trainer.num_training_batches))

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.is_global_zero:
            self.display.advance()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.display.close()
        assert isinstance(pl_module, Training)
        if trainer.is_global_zero:
            losses = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in pl_module.epoch_losses().items())
            logger.info("%s stage, epoch %d of %s: %s", self.stage, trainer.current_epoch + 1, trainer.max_epochs, losses)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.display.close()
