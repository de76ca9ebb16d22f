"""AnoCLIP in anomalib: wiring only."""

import logging
from typing import Any, Literal

from anomalib import LearningType
from anomalib.data import Batch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.visualization import Visualizer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import nn

from anoclip_anomalib.anoclip.torch_model import AnoClipModel
from anoclip_anomalib.clip import TextMean
from anoclip_anomalib.clip.weights import Precision
from anoclip_anomalib.evaluation import Threshold
from anoclip_anomalib.prompts import PromptSettings
from anoclip_anomalib.registry import register_model
from anoclip_anomalib.zeroshot.few_shot import FewShot
from anoclip_anomalib.zeroshot.lightning import COMPONENTS, ZeroShotClip, taken_by
from anoclip_anomalib.zeroshot.normal_reference import TEXT_WEIGHT
from anoclip_anomalib.zeroshot.tiling import Tiling

logger = logging.getLogger(__name__)

LocalAttentionName = Literal[
    "value", "query-key", "self-self", "self-calibrated", "self-calibrated-lof", "self-calibrated-norm"
]


@register_model
class AnoClip(ZeroShotClip, AnomalibModule):
    """AnoCLIP: zero-shot anomaly detection with value attention and domain-aware prompts (arXiv 2308.15939).

    Args:
        backbone: open_clip architecture with a ViT image tower, ``hf-hub:...``, or ``demo`` for the bundled encoder.
        pretrained: open_clip tag, a local ``.safetensors``, ``.pt`` or ``.bin`` file, or ``random``. ``None`` for the bundled
            weights of ``demo``, and ``laion400m_e32`` of any other backbone.
        class_name: The product. ``None`` takes the datamodule's category, or "object", with a warning, if there is none.
        prompts: Changes to the authors' prompts by name: normal_states, abnormal_states, extra_normal_states,
            extra_abnormal_states, industrial_domains, texture_domains, templates, class_names, texture_classes, texture,
            knowledge.
        image_size: Side of the square, or (height, width), that images are resized to; with ``tiling="square"`` the
            shorter side. ``None`` for the size that the backbone was trained with.
        views: 1, or 22 for the mean image score over the authors' views.
        tiling: ``none`` resizes to ``image_size``; ``square`` keeps the aspect and cuts square tiles.
        local_attention: Attention of the local path: ``value``, ``query-key`` (baseline) or ``self-self``; or SC-CLIP's
            features: ``self-calibrated``, with ``-lof`` or ``-norm`` resolving outliers, which removes small defects.
        local_blocks: How many of the last blocks the local path has; ``None`` for all, 0 for plain CLIP's patches.
        precision: Of the image encoder. Scores are always computed in float32.
        text_mean: ``before_norm`` (authors) or ``after_norm``.
        smoothing: Side of the mean filter on the patch scores, in patches.
        encode_batch_size: Tiles and views that go through the encoder at once; no effect on the result.
        text_cache_dir: Folder for text embeddings; ``None`` for the user's cache folder.
        normal_images: Folder with photographs of good parts, which images are compared with besides the text.
        k_shot: Instead of a folder: how many images of the datamodule's training split; 0 for none.
        k_seed: Which ones; ``None`` for the run's seed (``--seed_everything``), 0 without one.
        turned_normals: Remember mirrored and turned copies of the normal images too, for parts that lie any way.
        depths: Blocks, counted from 1, whose patches are compared; ``None`` for the quarters of the encoder's depth.
        neighbourhoods: Sides of the neighbourhoods, in patches, that they are averaged over; odd.
        coreset: Share of the normal images' patches that are kept.
        text_weight: Of the text beside normal images; 0 for the images alone.
        false_alarms: Share of good images that the thresholds of normal images may call bad, if there are enough to promise it.
        pre_processor: ``True`` for bilinear resizing and CLIP's normalisation.
        post_processor: ``True`` for anomalib's.
        evaluator: ``True`` for anomalib's metrics; they see scores that the post-processor has normalised and clamped.
        visualizer: ``True`` for anomalib's.
        raw_evaluator: ``True`` for metrics of the raw scores, logged beside anomalib's with the prefix ``raw_``.

    Raises:
        ValueError: For an argument that is not usable, with what would be.
        WeightsUnavailableError: If weights are neither here nor to be had, with what to download and where to put it.
    """

    def __init__(
        self,
        backbone: str = "ViT-B-16-plus-240",
        pretrained: str | None = None,
        class_name: str | None = None,
        prompts: PromptSettings | None = None,
        image_size: int | tuple[int, int] | None = None,
        views: Literal[1, 22] = 1,
        tiling: Tiling = "none",
        local_attention: LocalAttentionName = "value",
        local_blocks: int | None = None,
        precision: Precision = "float32",
        text_mean: TextMean = "before_norm",
        smoothing: int = 3,
        encode_batch_size: int = 64,
        text_cache_dir: str | None = None,
        normal_images: str | None = None,
        k_shot: int = 0,
        k_seed: int | None = None,
        turned_normals: bool = False,
        depths: list[int] | None = None,
        neighbourhoods: list[int] | tuple[int, ...] = (1, 3),
        coreset: float = 1.0,
        text_weight: float = TEXT_WEIGHT,
        false_alarms: float = 0.05,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
        raw_evaluator: Evaluator | bool = True,
    ) -> None:
        self.normals = FewShot(folder=normal_images, k=k_shot, seed=k_seed, turned=turned_normals)
        model = AnoClipModel(**taken_by(AnoClipModel, locals()))
        pre_processor = self.pre_processor_for(model, pre_processor)
        super().__init__(**taken_by(AnomalibModule, locals()))
        self.connect(model, class_name=class_name, raw_evaluator=raw_evaluator)
        # The folder may be gone when a checkpoint, which holds the memory itself, is loaded.
        self.save_hyperparameters(ignore=(*COMPONENTS, "normal_images"))

    @property
    def learning_type(self) -> LearningType:
        """Few-shot with normal images, else zero-shot."""
        few = self.normals.asked or len(self.model.reference) > 0
        return LearningType.FEW_SHOT if few else LearningType.ZERO_SHOT

    @property
    def image_threshold(self) -> Threshold | None:
        """What the normal images say, see :class:`anoclip_anomalib.zeroshot.normal_reference.NormalReference`."""
        reference = self.model.reference
        return reference.image_threshold if len(reference) else None

    def prepare_images(self) -> None:
        """Remember the normal images, unless they are remembered already."""
        self.normals.prepare(self)

    def test_step(self, batch: Batch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        """Score a test batch."""
        return self.normals.seen(super().test_step(batch, *args, **kwargs))

    def predict_step(self, batch: Batch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        """Score a batch without labels."""
        return self.normals.seen(super().predict_step(batch, *args, **kwargs))

    def on_test_end(self) -> None:
        """Say so if the normal images look wrong."""
        self.normals.finish(self.model.reference)

    on_predict_end = on_test_end

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep which images are remembered."""
        super().on_save_checkpoint(checkpoint)
        self.normals.save(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over which images are remembered."""
        super().on_load_checkpoint(checkpoint)
        self.normals.load(checkpoint)

    def prepare_export(self) -> None:
        """Remember the normal images, and empty the seam: the exported graph has no adaptation, which needs gradients."""
        super().prepare_export()
        self.normals.prepare(self)
        self.model.adapter = None
        logger.warning(
            "The exported graph scores class %r WITHOUT test-time adaptation, which needs gradients: its maps are those of "
            "a run without TestTimeAdaptation",
            self.model.class_name,
        )
