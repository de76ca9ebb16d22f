"""AnoCLIP in anomalib: wiring only."""

import json
import logging
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any, Literal

from anomalib import LearningType
from anomalib.data import Batch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch import Callback
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import nn
from torchvision.transforms.v2 import Compose, InterpolationMode, Normalize, Resize

from anoclip_anomalib.anoclip.tiling import Tiling
from anoclip_anomalib.anoclip.torch_model import NO_CLASS, AnoClipModel, Precision
from anoclip_anomalib.anoclip.visualizer import ContrastVisualizer
from anoclip_anomalib.clip import TextMean
from anoclip_anomalib.clip.constants import CLIP_MEAN, CLIP_STD
from anoclip_anomalib.evaluation import StreamingEvaluator, standard_metrics
from anoclip_anomalib.files import atomic_write
from anoclip_anomalib.prompts import PromptSettings
from anoclip_anomalib.registration import register_model

logger = logging.getLogger(__name__)

_ENCODER_PREFIX = "model.visual_encoder."


@register_model
class AnoClip(AnomalibModule):
    """AnoCLIP: zero-shot anomaly detection with value attention and domain-aware prompts (arXiv 2308.15939).

    Args:
        backbone: open_clip architecture with a ViT image tower, ``hf-hub:...``, or ``demo`` for the bundled encoder.
        pretrained: open_clip tag, a local ``.safetensors``, ``.pt`` or ``.bin`` file, ``demo`` or ``random``.
        class_name: The product. ``None`` takes the datamodule's category, or "object", with a warning, if there is none.
        prompts: Changes to the authors' prompts by name: normal_states, abnormal_states, extra_normal_states,
            extra_abnormal_states, industrial_domains, texture_domains, templates, class_names, texture_classes, texture.
        image_size: Side of the square, or (height, width), that images are resized to; with ``tiling="square"`` the
            shorter side. ``None`` for the size that the backbone was trained with.
        views: 1, or 22 for the mean image score over the authors' views.
        tiling: ``none`` resizes to ``image_size``; ``square`` keeps the aspect and cuts square tiles.
        local_attention: Attention of the local path: ``value``, ``query-key`` (baseline) or ``self-self``.
        local_blocks: How many of the last blocks the local path has; ``None`` for all, 0 for plain CLIP's patches.
        precision: Of the image encoder. Scores are always computed in float32.
        text_mean: ``before_norm`` (authors) or ``after_norm``.
        smoothing: Side of the mean filter on the patch scores, in patches.
        encode_batch_size: Tiles and views that go through the encoder at once; no effect on the result.
        text_cache_dir: Folder for text embeddings; ``None`` for the user's cache folder.
        pre_processor: ``True`` for bilinear resizing and CLIP's normalisation.
        post_processor: ``True`` for anomalib's.
        evaluator: ``True`` for anomalib's metrics; they see scores that the post-processor has normalised and clamped.
        visualizer: ``True`` for anomalib's.
        raw_evaluator: ``True`` for metrics of the raw scores, logged beside anomalib's with the prefix ``raw_``.

    Raises:
        ValueError: For an argument that is not usable, with what would be.
        WeightsUnavailableError: If weights are neither here nor to be had, with what to download and where to put it.
    """

    # Checkpoints leave out the frozen encoder, which is loaded by name.
    strict_loading = False

    def __init__(
        self,
        backbone: str = "ViT-B-16-plus-240",
        pretrained: str | None = "laion400m_e32",
        class_name: str | None = None,
        prompts: PromptSettings | None = None,
        image_size: int | tuple[int, int] | None = None,
        views: Literal[1, 22] = 1,
        tiling: Tiling = "none",
        local_attention: Literal["value", "query-key", "self-self"] = "value",
        local_blocks: int | None = None,
        precision: Precision = "float32",
        text_mean: TextMean = "before_norm",
        smoothing: int = 3,
        encode_batch_size: int = 64,
        text_cache_dir: str | None = None,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
        raw_evaluator: Evaluator | bool = True,
    ) -> None:
        model = AnoClipModel(
            backbone=backbone,
            pretrained=pretrained,
            class_name=class_name,
            prompts=prompts,
            image_size=image_size,
            views=views,
            tiling=tiling,
            local_attention=local_attention,
            local_blocks=local_blocks,
            precision=precision,
            text_mean=text_mean,
            smoothing=smoothing,
            encode_batch_size=encode_batch_size,
            text_cache_dir=text_cache_dir,
        )
        if pre_processor is True:
            pre_processor = self.configure_pre_processor(model.image_size, tiling=tiling)
        super().__init__(
            pre_processor=pre_processor,
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        self.save_hyperparameters(
            ignore=["pre_processor", "post_processor", "evaluator", "visualizer", "raw_evaluator", "model"]
        )
        self.model: AnoClipModel = model
        self.class_name = class_name
        self.raw_evaluator = self._resolve_component(raw_evaluator, Evaluator, self.configure_raw_evaluator)

    @property
    def weights_digest(self) -> str:
        """SHA-256 of CLIP's weights: a tag may stand for other weights under another version of open_clip."""
        return self.model.provenance["weights_digest"]

    def setup(self, stage: str) -> None:
        """Compute the text embeddings of the class that this stage is about.

        It is done on every call: anomalib sets the model up without a datamodule first in its benchmark, and with one later.
        """
        del stage
        self.model.set_class(self._class_name())

    def _class_name(self) -> str:
        asked = self._asked_class()
        if asked is not None:
            return asked
        if self.model.class_name is not None:  # from a checkpoint
            return self.model.class_name
        logger.warning(
            "No class name was given and the data has none: the prompts will say 'object'. "
            "Name the product, for instance --model.class_name cookie"
        )
        return "object"

    def _asked_class(self) -> str | None:
        """The class that was given, or that the data is about."""
        if self.class_name is not None:
            return self.class_name
        datamodule = getattr(self._trainer, "datamodule", None) if self._trainer is not None else None
        category = getattr(datamodule, "category", None)
        return str(category) if category else None

    def validation_step(self, batch: Batch, *args, **kwargs) -> STEP_OUTPUT:
        """Score a validation batch, from which thresholds and normalisation are derived."""
        del args, kwargs
        return batch.update(**self.model(batch.image)._asdict())

    def val_dataloader(self) -> list:
        """No validation data of its own: anomalib's benchmark and folder prediction validate without a datamodule."""
        return []

    @staticmethod
    def configure_optimizers() -> None:
        """Nothing is trained."""
        return

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """No special arguments."""
        return {}

    @property
    def learning_type(self) -> LearningType:
        """Zero-shot."""
        return LearningType.ZERO_SHOT

    @classmethod
    def configure_pre_processor(cls, image_size: tuple[int, int] | None = None, *, tiling: Tiling = "none") -> PreProcessor:
        """Bilinear resizing (the authors', not CLIP's bicubic) and CLIP's normalisation.

        Args:
            image_size: (height, width); ``None`` for 240 x 240.
            tiling: With ``"square"`` the shorter side becomes ``image_size[0]`` and the aspect is kept.
        """
        height, width = image_size or (240, 240)
        size = [height] if tiling == "square" else [height, width]
        return PreProcessor(
            transform=Compose(
                [
                    Resize(size, interpolation=InterpolationMode.BILINEAR, antialias=True),
                    Normalize(mean=CLIP_MEAN, std=CLIP_STD),
                ]
            )
        )

    def configure_post_processor(self) -> PostProcessor:
        """anomalib's post-processor."""
        return PostProcessor()

    @classmethod
    def configure_visualizer(cls) -> ContrastVisualizer:
        """anomalib's visualizer, with contrast where no normalisation was fitted."""
        return ContrastVisualizer()

    @staticmethod
    def configure_raw_evaluator() -> Evaluator:
        """The field's metrics on the raw scores, which anomalib's post-processor would clamp before they are measured."""
        return StreamingEvaluator(test_metrics=standard_metrics(prefix="raw_"))

    def configure_callbacks(self) -> list[Callback]:
        """The components in the order in which they see a batch; the raw evaluator comes before the post-processor."""
        components = (
            self.pre_processor,
            self.raw_evaluator,
            self.post_processor,
            self.evaluator,
            self.visualizer,
        )
        return [component for component in components if isinstance(component, Callback)]

    def on_test_start(self) -> None:
        """Keep with the results which weights and which class they come from."""
        if self.trainer.is_global_zero:
            with atomic_write(Path(self.trainer.default_root_dir) / "weights.json") as temporary:
                temporary.write_text(json.dumps(self._provenance(), indent=2) + "\n", encoding="utf-8")

    on_predict_start = on_test_start

    def _provenance(self) -> dict[str, str | None]:
        return {**self.model.provenance, "class_name": self.model.class_name}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen encoder out, and keep which one it was."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["state_dict"] = {
            name: tensor for name, tensor in checkpoint["state_dict"].items() if not name.startswith(_ENCODER_PREFIX)
        }
        checkpoint["anoclip"] = self._provenance()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the checkpoint's class, unless another one was asked for; say so if the weights are others."""
        super().on_load_checkpoint(checkpoint)
        saved: Mapping[str, str | None] = checkpoint.get("anoclip", {})
        if saved.get("weights_digest") not in (None, self.weights_digest):
            logger.warning(
                "The checkpoint was made with other CLIP weights (SHA-256 %s) than this model has (%s): scores will differ",
                saved["weights_digest"],
                self.weights_digest,
            )
        class_name, asked = saved.get("class_name"), self._asked_class()
        if asked is not None and class_name not in (None, asked):
            logger.warning("The checkpoint is about %r; its thresholds are used for %r, which was asked for", class_name, asked)
        if asked or class_name:
            self.model.set_class(str(asked or class_name))
            checkpoint["state_dict"]["model.text_embeddings"] = self.model.text_embeddings

    def to_torch(self, *args, **kwargs) -> Path:
        """Export as anomalib does; the exported graph has no adaptation."""
        self._say_that_exports_do_not_adapt()
        return super().to_torch(*args, **kwargs)

    def to_onnx(self, *args, **kwargs) -> Path:
        """Export as anomalib does; the exported graph has no adaptation."""
        self._say_that_exports_do_not_adapt()
        self._check_that_tiles_are_known(signature(super().to_onnx).bind(*args, **kwargs).arguments.get("input_size"))
        return super().to_onnx(*args, **kwargs)

    def to_openvino(self, *args, **kwargs) -> Path:
        """Export as anomalib does; the exported graph has no adaptation."""
        self._say_that_exports_do_not_adapt()
        self._check_that_tiles_are_known(signature(super().to_openvino).bind(*args, **kwargs).arguments.get("input_size"))
        return super().to_openvino(*args, **kwargs)

    def _check_that_tiles_are_known(self, input_size: tuple[int, int] | None) -> None:
        if self.model.tiling != "none" and input_size is None:
            msg = (
                f"With tiling={self.model.tiling!r} the number of tiles depends on the image's shape, which a graph cannot "
                "choose: export with the images' size, such as --input_size '[480, 640]', or with tiling='none'"
            )
            raise ValueError(msg)

    def _say_that_exports_do_not_adapt(self) -> None:
        if self.model.text_embeddings.numel() == 0:
            # Tracing would turn the missing embeddings into a graph that scores everything alike.
            raise ValueError(NO_CLASS)
        self.model.adapter = None
        logger.warning(
            "The exported graph scores class %r WITHOUT test-time adaptation, which needs gradients: its maps are those of "
            "a run without TestTimeAdaptation",
            self.model.class_name,
        )
