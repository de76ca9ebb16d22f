"""Mutual scoring in anomalib: a first pass collects features, the second hands out the scores."""

import logging
from typing import Any, Literal

from anomalib.data import Batch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.visualization import Visualizer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import nn

from anoclip_anomalib.clip.weights import Precision
from anoclip_anomalib.mutual.pool import SMALLEST
from anoclip_anomalib.mutual.run import Scored, score_pool
from anoclip_anomalib.mutual.torch_model import MutualModel
from anoclip_anomalib.prompts import PromptSettings
from anoclip_anomalib.registry import register_model
from anoclip_anomalib.zeroshot.first_pass import first_pass, images_to_come
from anoclip_anomalib.zeroshot.lightning import COMPONENTS, ZeroShotClip, taken_by
from anoclip_anomalib.zeroshot.tiling import Tiling

logger = logging.getLogger(__name__)


@register_model
class MutualClip(ZeroShotClip, AnomalibModule):
    """Unlabelled images score each other (MuSc, arXiv 2401.16753): a defect has few relatives in the other images.

    Nothing is trained. It is *transductive*: without a saved pool every result depends on all images of the run, and tables
    say so (``sees_other_test_images``). It needs many images of which most are good.

    Args:
        backbone: As in AnoClip, with the next two.
        pretrained: See there.
        class_name: See there; for ``with_text``.
        prompts: See there.
        image_size: See there.
        tiling: See there.
        precision: See there.
        local_attention: Of the text's patch scores.
        depths: Blocks, counted from 1, whose patches are compared; ``None`` for the quarters of the encoder's depth.
        neighbourhoods: Sides of the neighbourhoods, in patches, that they are averaged over; odd.
        lowest: Share of the other images whose distances are averaged, the nearest ones.
        similar: Image scores are averaged over so many images with similar class tokens; [1, 8, 9] for VisA.
        with_text: Fuse with AnoCLIP's text scores from the same encoder pass.
        subsets: Images score each other in so many random parts, to save time.
        memory_gib: Features and distances that may be held in memory; beyond that they go to disk in half precision.
        features_folder: Where they lie then; ``None`` for the system's temporary folder.
        pool: A saved pool that every image is scored against alone, instead of the images of the run.
        encode_batch_size: Images that go through the encoder at once; no effect on the result.
        text_cache_dir: Folder for text embeddings; ``None`` for the user's cache folder.
        pre_processor: ``True`` for bilinear resizing and CLIP's normalisation.
        post_processor: ``True`` for anomalib's.
        evaluator: ``True`` for anomalib's metrics; they see scores that the post-processor has normalised and clamped.
        visualizer: ``True`` for anomalib's.
        raw_evaluator: ``True`` for metrics of the raw scores, logged beside anomalib's with the prefix ``raw_``.

    Raises:
        ValueError: For an argument that is not usable, with what would be.
    """

    def __init__(
        self,
        backbone: str = "ViT-B-16-plus-240",
        pretrained: str | None = None,
        class_name: str | None = None,
        prompts: PromptSettings | None = None,
        image_size: int | tuple[int, int] | None = None,
        tiling: Tiling = "none",
        precision: Precision = "float32",
        local_attention: Literal["value", "query-key", "self-self"] = "value",
        depths: list[int] | None = None,
        neighbourhoods: list[int] | tuple[int, ...] = (1, 3, 5),
        lowest: float = 0.3,
        similar: list[int] | tuple[int, ...] = (1, 2, 3),
        with_text: bool = False,
        subsets: int = 1,
        memory_gib: float = 4.0,
        features_folder: str | None = None,
        pool: str | None = None,
        encode_batch_size: int = 64,
        text_cache_dir: str | None = None,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
        raw_evaluator: Evaluator | bool = True,
    ) -> None:
        for name, value in (("subsets", subsets), ("memory_gib", memory_gib)):
            if not value > 0:
                raise ValueError(f"{name}={value} must be greater than 0")
        given = locals() | {"class_name": class_name if with_text else None}
        model = MutualModel(**taken_by(MutualModel, given))
        pre_processor = self.pre_processor_for(model, pre_processor)
        super().__init__(**taken_by(AnomalibModule, locals()))
        self.connect(model, class_name=class_name, raw_evaluator=raw_evaluator)
        self.needs_class = with_text
        self.subsets, self.budget, self.features_folder = subsets, int(memory_gib * 2**30), features_folder
        if pool is not None:
            model.load_pool(pool)
        self._scores: Scored | None = None
        self._places: dict[str, int] = {}
        self._next = 0
        # The file may be gone when a checkpoint, which holds the pool itself, is loaded.
        self.save_hyperparameters(ignore=(*COMPONENTS, "pool"))

    def prepare_images(self) -> None:
        """Have the images of the stage score each other, unless there is a saved pool.

        Too few validation images get no scores: thresholds and normalisation, all that they are for, are then absent.

        Raises:
            ValueError: If they are fewer than three, of different shapes, or their features do not fit anywhere.
        """
        self._scores, self._places, self._next = None, {}, 0
        if self.model.has_pool:
            return
        count = sum(images for _, images in images_to_come(self.trainer))
        if self.trainer.validating and count < SMALLEST:
            logger.warning(
                "The validation split has %d images, and mutual scoring needs at least %d: there are no thresholds, and scores "
                "stay as they are",
                count,
                SMALLEST,
            )
            return
        batches: list[tuple[int, list[str]]] = []

        def encoded(add: Any) -> None:
            def visit(batch: Batch) -> None:
                batches.append((len(batch.image), [str(path) for path in _paths(batch) if path]))
                add(self.model.encode(batch.image))

            first_pass(self, visit, everywhere=True)

        self._scores = score_pool(
            self.model,
            count,
            encoded,
            subsets=self.subsets,
            budget=self.budget,
            folder=self.features_folder,
            device=self.device,
            progress=self.trainer.is_global_zero,
        )
        start = 0
        for size, paths in batches:
            self._places.update({path: start + index for index, path in enumerate(paths)} if len(paths) == size else {})
            start += size

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> STEP_OUTPUT:
        """Hand out the scores of a validation batch, if there are any."""
        if self._scores is None and not self.model.has_pool:
            return batch
        return super().validation_step(batch, batch_idx, dataloader_idx)

    def scored(self, batch: Batch) -> Batch:
        """A batch with its scores of the first pass, or those that a saved pool gives."""
        if self.model.has_pool:
            return super().scored(batch)
        known = [self._places.get(str(path)) for path in _paths(batch)]
        if len(known) != len(batch.image) or None in known:  # images without paths come in order
            known = list(range(self._next, self._next + len(batch.image)))
        self._next += len(batch.image)
        assert self._scores is not None  # from prepare_images
        found = self._scores.of([place for place in known if place is not None])
        return batch.update(**{name: getattr(found, name).to(self.device) for name in ("pred_score", "anomaly_map")})

    def prepare_export(self) -> None:
        """Refuse to export without a saved pool.

        Raises:
            ValueError: If there is none.
        """
        super().prepare_export()
        if not self.model.has_pool:
            raise ValueError(
                "Only a model with a saved pool can be exported: `anoclip pool build FOLDER --out P`, then --model.pool P"
            )


def _paths(batch: Batch) -> list[Any]:
    return batch.image_path if isinstance(batch.image_path, list) else [batch.image_path]
