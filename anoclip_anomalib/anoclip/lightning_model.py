"""AnoCLIP in anomalib: wiring only."""

import logging
from typing import Literal

from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.visualization import Visualizer
from torch import nn

from anoclip_anomalib.anoclip.torch_model import AnoClipModel
from anoclip_anomalib.clip import TextMean
from anoclip_anomalib.clip.weights import Precision
from anoclip_anomalib.prompts import PromptSettings
from anoclip_anomalib.registry import register_model
from anoclip_anomalib.zeroshot.lightning import COMPONENTS, ZeroShotClip
from anoclip_anomalib.zeroshot.tiling import Tiling

logger = logging.getLogger(__name__)


@register_model
class AnoClip(ZeroShotClip, AnomalibModule):
    """AnoCLIP: zero-shot anomaly detection with value attention and domain-aware prompts (arXiv 2308.15939).

    Args:
        backbone: open_clip architecture with a ViT image tower, ``hf-hub:...``, or ``demo`` for the bundled encoder.
        pretrained: open_clip tag, a local ``.safetensors``, ``.pt`` or ``.bin`` file, or ``random``. ``None`` for the bundled
            weights of ``demo``, and ``laion400m_e32`` of any other backbone.
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

    def __init__(
        self,
        backbone: str = "ViT-B-16-plus-240",
        pretrained: str | None = None,
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
        super().__init__(
            pre_processor=self.pre_processor_for(model, pre_processor),
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        self.connect(model, class_name=class_name, raw_evaluator=raw_evaluator)
        self.save_hyperparameters(ignore=COMPONENTS)

    def prepare_export(self) -> None:
        """Empty the seam: the exported graph has no adaptation, which needs gradients."""
        super().prepare_export()
        self.model.adapter = None
        logger.warning(
            "The exported graph scores class %r WITHOUT test-time adaptation, which needs gradients: its maps are those of "
            "a run without TestTimeAdaptation",
            self.model.class_name,
        )
