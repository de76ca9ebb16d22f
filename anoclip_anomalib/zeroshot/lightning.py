"""The wiring that every zero-shot method on CLIP needs inside anomalib."""

import json
import logging
from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalib import LearningType
from anomalib.data import AnomalibDataModule, Batch
from anomalib.metrics import Evaluator
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import nn
from torchvision.transforms.v2 import Compose, InterpolationMode, Normalize, Resize

from anoclip_anomalib.clip.constants import CLIP_MEAN, CLIP_STD
from anoclip_anomalib.evaluation import StreamingEvaluator, Threshold, standard_metrics
from anoclip_anomalib.evaluation.epoch_metrics import EpochMetrics
from anoclip_anomalib.files import atomic_write
from anoclip_anomalib.zeroshot.buffers import image_memories
from anoclip_anomalib.zeroshot.method import NO_CLASS, MethodFacts, ZeroShotModel
from anoclip_anomalib.zeroshot.tiling import Tiling
from anoclip_anomalib.zeroshot.visualizer import ContrastVisualizer

if TYPE_CHECKING:
    from anomalib.models.components import AnomalibModule as _Base
else:
    _Base = object  # anomalib lists direct subclasses of AnomalibModule only

logger = logging.getLogger(__name__)

COMPONENTS = ("pre_processor", "post_processor", "evaluator", "visualizer", "raw_evaluator", "model")
"""Constructor arguments that are no hyperparameters."""
_PROVENANCE = "anoclip"  # key in checkpoints; of this package, whatever the method


def taken_by(target: Callable, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the given arguments that a function or class takes, for a constructor that hands most of its own on.

    Of a class that hands others on to its base (``**arguments``), those of the base too.
    """
    taken = signature(target).parameters
    named = [name for name, one in taken.items() if one.kind is not one.VAR_KEYWORD]
    found = {name: given[name] for name in named if name in given}
    if isinstance(target, type) and target.__base__ and len(named) < len(taken):
        return taken_by(target.__base__, given) | found
    return found


class Untrained(_Base):
    """Mixin: what a Lightning model of which nothing is trained tells anomalib."""

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """No special arguments."""
        return {}

    @property
    def learning_type(self) -> LearningType:
        """Zero-shot."""
        return LearningType.ZERO_SHOT

    def val_dataloader(self) -> list:
        """No validation data of its own: anomalib's benchmark and folder prediction validate without a datamodule."""
        return []

    @staticmethod
    def configure_optimizers() -> None:
        """Nothing is trained."""
        return

    def configure_post_processor(self) -> PostProcessor:
        """Anomalib's post-processor."""
        return PostProcessor()


class ZeroShotClip(Untrained):
    """Mixin: ``class Method(ZeroShotClip, AnomalibModule)``, this one first.

    It sets the class up by its name, measures raw scores, keeps the frozen encoder out of checkpoints, writes
    ``weights.json`` beside the results, and refuses exports that could not work.

    A method's constructor builds its torch model, calls ``super().__init__`` with anomalib's components, then
    :meth:`connect` and ``self.save_hyperparameters(ignore=COMPONENTS)``.

    Attributes:
        needs_class: ``False`` for a method without text, whose class name is neither asked for nor missed.
        frozen_prefixes: Weights that checkpoints leave out, because they are loaded by name.
        interpolation: How the pre-processor resizes.
        default_size: (height, width) that it resizes to where no size is given.
    """

    # Checkpoints leave out the frozen encoder, which is loaded by name.
    strict_loading = False
    needs_class = True
    frozen_prefixes: tuple[str, ...] = ("model.visual_encoder.",)
    interpolation = InterpolationMode.BILINEAR
    default_size = (240, 240)

    model: Any
    class_name: str | None
    raw_evaluator: Evaluator | None

    def connect(self, model: ZeroShotModel, *, class_name: str | None = None, raw_evaluator: Evaluator | bool = True) -> None:
        """Take over the method; to be called once, after ``super().__init__()``.

        Not done by a constructor of this class: Lightning would keep its arguments, the model too, as hyperparameters.

        Args:
            model: The method.
            class_name: The product. ``None`` takes the datamodule's category, or "object", with a warning, if there is none.
            raw_evaluator: ``True`` for metrics of the raw scores, logged beside anomalib's with the prefix ``raw_``.
        """
        self.model = model
        self.class_name = class_name
        self.raw_evaluator = self._resolve_component(raw_evaluator, Evaluator, self.configure_raw_evaluator)
        self._raw_epoch: EpochMetrics | None = None
        self._class_is_a_guess = False

    @classmethod
    def pre_processor_for(cls, model: ZeroShotModel, pre_processor: nn.Module | bool) -> nn.Module | bool:
        """What ``pre_processor=True`` means for a model: resizing to its image size; anything else stays as it is."""
        if pre_processor is not True:
            return pre_processor
        return cls.configure_pre_processor(model.image_size, tiling=model.tiling)

    # What the method says about itself

    @property
    def weights_digest(self) -> str:
        """SHA-256 of all weights: a tag may stand for other weights under another version of open_clip."""
        return self.model.weights_digest

    @property
    def method_facts(self) -> MethodFacts:
        """What tables say about the method."""
        return self.model.facts

    @property
    def natural_threshold(self) -> float | None:
        """The raw score at which the method is undecided without any data; ``None`` where there is no such score."""
        return self.model.natural_threshold

    @property
    def image_threshold(self) -> Threshold | None:
        """The image threshold that the method has from normal images; zero-shot methods have none."""
        return None

    # The class

    def setup(self, stage: str) -> None:
        """Compute the text embeddings of the class that this stage is about.

        It is done on every call: anomalib sets the model up without a datamodule first in its benchmark, and with one later.

        Raises:
            ValueError: If anomalib wants to validate and the datamodule has no images for it.
        """
        datamodule = self._datamodule()
        if stage == "validate" and isinstance(datamodule, AnomalibDataModule) and not hasattr(datamodule, "val_data"):
            raise ValueError(
                f"{datamodule.name}: val_split_mode is {datamodule.val_split_mode.value!r}, and anomalib takes the threshold "
                "and the range of scores from validation images before it tests; choose 'same_as_test', 'from_test', "
                "'from_train' or 'synthetic'"
            )
        if not self.needs_class:
            return
        name = self._asked_class() or self.model.class_name  # the latter from a checkpoint
        self._class_is_a_guess = name is None or (self._class_is_a_guess and self._asked_class() is None)
        self.model.set_class(name or "object")

    def _asked_class(self) -> str | None:
        """The class that was given, or that the data is about."""
        if self.class_name is not None:
            return self.class_name
        category = getattr(self._datamodule(), "category", None)
        return str(category) if category else None

    def _datamodule(self) -> Any:
        return getattr(self._trainer, "datamodule", None) if self._trainer is not None else None

    # Steps; raw scores are measured before any callback changes them

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> STEP_OUTPUT:
        """Score a validation batch, from which thresholds and normalisation are derived."""
        del batch_idx
        return self._measured(self.scored(batch), self.trainer.val_dataloaders, dataloader_idx)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> STEP_OUTPUT:
        """Score a test batch."""
        del batch_idx
        return self._measured(self.scored(batch), self.trainer.test_dataloaders, dataloader_idx)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> STEP_OUTPUT:
        """Score a batch without labels."""
        del batch_idx, dataloader_idx
        return self.scored(batch)

    def scored(self, batch: Batch) -> Batch:
        """A batch with the scores and maps of its images."""
        return batch.update(**self.model(batch.image)._asdict())

    def _measured(self, scored: Any, loaders: Any, index: int) -> STEP_OUTPUT:
        if self._raw_epoch is not None:
            self._raw_epoch.update(scored, loaders, index)
        return scored

    def on_validation_epoch_start(self) -> None:
        """Begin to measure raw scores."""
        self._raw_epoch = None
        if self.raw_evaluator is not None:
            kind = "test_metrics" if self.trainer.testing else "val_metrics"
            self.raw_evaluator.setup(self.trainer, self, kind)
            self._raw_epoch = EpochMetrics(getattr(self.raw_evaluator, kind))
            self._raw_epoch.start()

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the raw scores."""
        if self._raw_epoch is not None:
            self._raw_epoch.log(self)
        self._raw_epoch = None

    on_test_epoch_end = on_validation_epoch_end

    def prepare_images(self) -> None:
        """What a method does before the images of a stage are scored; nothing here."""

    def on_validation_start(self) -> None:
        """Say which class is missing, before images are scored."""
        if self._class_is_a_guess:
            logger.warning(
                "No class name was given and the data has none: the prompts will say 'object'. "
                "Name the product, for instance --model.class_name cookie"
            )
        self.prepare_images()

    def on_test_start(self) -> None:
        """Keep with the results which weights and which class they come from."""
        ZeroShotClip.on_validation_start(self)
        if self.trainer.is_global_zero:
            with atomic_write(Path(self.trainer.default_root_dir) / "weights.json") as temporary:
                temporary.write_text(json.dumps(self._provenance(), indent=2) + "\n", encoding="utf-8")

    on_predict_start = on_test_start

    def teardown(self, stage: str) -> None:
        """Take this model's components out of the Trainer again.

        Lightning replaces the callbacks of an earlier model by comparing types, and would keep ours beside those of another
        kind of model: pictures would be drawn twice, and metrics measured twice.
        """
        super().teardown(stage)
        own = self.configure_callbacks()
        self.trainer.callbacks = [callback for callback in self.trainer.callbacks if callback not in own]

    # Components

    @classmethod
    def configure_pre_processor(cls, image_size: tuple[int, int] | None = None, *, tiling: Tiling = "none") -> PreProcessor:
        """Resizing, bilinear as AnoCLIP's authors have it, not CLIP's bicubic, and CLIP's normalisation.

        Args:
            image_size: (height, width); ``None`` for the class's ``default_size``.
            tiling: With ``"square"`` the shorter side becomes ``image_size[0]`` and the aspect is kept.
        """
        height, width = image_size or cls.default_size
        size = [height] if tiling == "square" else [height, width]
        resize = Resize(size, interpolation=cls.interpolation, antialias=True)
        return PreProcessor(transform=Compose([resize, Normalize(mean=CLIP_MEAN, std=CLIP_STD)]))

    @classmethod
    def configure_visualizer(cls) -> ContrastVisualizer:
        """Anomalib's visualizer, with contrast where no normalisation was fitted."""
        return ContrastVisualizer()

    @staticmethod
    def configure_raw_evaluator() -> Evaluator:
        """The field's metrics on the raw scores, which anomalib's post-processor would clamp before they are measured."""
        return StreamingEvaluator(test_metrics=standard_metrics(prefix="raw_"))

    # Checkpoints

    def _provenance(self) -> dict[str, str | None]:
        return {**self.model.provenance, "weights_digest": self.weights_digest, "class_name": self.model.class_name}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen encoder out, and keep which one it was."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["state_dict"] = {
            name: tensor for name, tensor in checkpoint["state_dict"].items() if not name.startswith(self.frozen_prefixes)
        }
        checkpoint[_PROVENANCE] = self._provenance()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the checkpoint's class, unless another one was asked for; say so if the weights are others."""
        super().on_load_checkpoint(checkpoint)
        saved: Mapping[str, str | None] = checkpoint.get(_PROVENANCE, {})
        if saved.get("weights_digest") not in (None, self.weights_digest):
            digests = f"(SHA-256 {saved['weights_digest']}) than this model has ({self.weights_digest})"
            if checkpoint["state_dict"].keys() & {f"model.{name}" for name in image_memories(self.model)}:
                raise ValueError(
                    f"The checkpoint remembers images as other CLIP weights saw them {digests}: nothing can be compared with "
                    "them. Name the weights that it was made with, or make the model anew with the normal images or the pool"
                )
            logger.warning("The checkpoint was made with other CLIP weights %s: scores will differ", digests)
        class_name, asked = saved.get("class_name"), self._asked_class()
        if asked is not None and class_name not in (None, asked):
            logger.warning("The checkpoint is about %r; its thresholds are used for %r, which was asked for", class_name, asked)
        if self.needs_class and (asked or class_name):
            self.model.set_class(str(asked or class_name))
        own = getattr(self.model, "text_embeddings", None)
        if own is not None and own.numel():  # of the weights that this model has, whatever the checkpoint's were
            checkpoint["state_dict"]["model.text_embeddings"] = own

    # Export

    def prepare_export(self) -> None:
        """Bring the model into the state that can be exported, or refuse.

        Raises:
            ValueError: If no class was set.
        """
        if self.needs_class and self.model.text_embeddings.numel() == 0:
            # Tracing would turn the missing embeddings into a graph that scores everything alike.
            raise ValueError(NO_CLASS)

    def to_torch(self, *args, **kwargs) -> Path:
        """Export as anomalib does, after :meth:`prepare_export`."""
        self.prepare_export()
        return super().to_torch(*args, **kwargs)

    def to_onnx(self, *args, **kwargs) -> Path:
        """Export as anomalib does, after :meth:`prepare_export`."""
        return self._graph(super().to_onnx, *args, **kwargs)

    def to_openvino(self, *args, **kwargs) -> Path:
        """Export as anomalib does, after :meth:`prepare_export`."""
        return self._graph(super().to_openvino, *args, **kwargs)

    def _graph(self, export: Callable[..., Path], *args, **kwargs) -> Path:
        self.prepare_export()
        sized = signature(export).bind(*args, **kwargs).arguments.get("input_size") is not None
        if not sized and self.model.tiling != "none":
            raise ValueError(
                f"With tiling={self.model.tiling!r} the number of tiles depends on the image's shape, which a graph cannot "
                "choose: export with the images' size, such as --input_size '[480, 640]', or with tiling='none'"
            )
        if not sized and self.input_size is None:
            height, width = self.model.image_size
            raise ValueError(
                "Without a pre-processor that resizes, the exported graph takes images of one size: name it, such as "
                f"--input_size '[{height}, {width}]', or export with the pre-processor"
            )
        return export(*args, **kwargs)
