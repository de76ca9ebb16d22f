"""AA-CLIP in anomalib: wiring only."""

import torch
from anomalib.data import Batch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.visualization import Visualizer
from torch import nn

from anoclip_anomalib.aaclip.settings import Mode
from anoclip_anomalib.aaclip.torch_model import AaClipModel, ScoreRange
from anoclip_anomalib.clip.weights import Activation, Precision
from anoclip_anomalib.registry import register_model
from anoclip_anomalib.zeroshot.first_pass import first_pass
from anoclip_anomalib.zeroshot.learned_method import LearnedClip
from anoclip_anomalib.zeroshot.lightning import COMPONENTS, taken_by


@register_model
class AaClip(LearnedClip, AnomalibModule):
    """AA-CLIP: anchors and patches adapted on an auxiliary data set, zero-shot on every other one (arXiv 2503.06661).

    Args:
        adapters: File of ``anoclip train aaclip`` or ``anoclip convert aaclip``, or ``demo`` for the bundled ones of the
            small demo encoder. There is no default: what a model was trained on is the user's choice.
        backbone: The one that the adapters were trained for; ``None`` takes it from their file.
        pretrained: Its weights, for instance where they lie on this machine; ``None`` likewise.
        class_name: The product. ``None`` takes the datamodule's category, or "object", with a warning, if there is none.
        description: What the prompts say instead of the class name: a text, several (averaged), or a mapping from class to
            these. ``None`` for the authors' descriptions where there is one.
        image_size: Side of the square, or (height, width), that images are resized to; ``None`` for that of the training.
        mode: ``clean``: a score depends on its image alone. ``reference``: the authors' scores, whose class-wise
            normalisation needs all test images, in a pass of its own. ``None`` for the mode of the training.
        activation: Of CLIP's MLPs, as in the training; ``None`` takes it from the adapters' file.
        image_weight: Share of the detection vector in the image score; the map's maximum has the rest. ``None`` for 0.5, or
            in mode ``"clean"`` for what the adapters were trained to.
        scales: Of the image size, at which an image is read; the maps are averaged. Not in mode ``reference``. ``None`` for
            those that the adapters' file names, else 1.
        blur_kernel: Side of the Gaussian on the patch grid, in patches, odd; 1 for none.
        blur_sigma: Its standard deviation, in patches.
        precision: Of the image encoder. Scores are always computed in float32.
        encode_batch_size: Images that go through the encoder at once; no effect on the result.
        allow_source_overlap: Test on the data that the adapters were trained on too, which is otherwise refused.
        text_cache_dir: Folder for text embeddings; ``None`` for the user's cache folder.
        pre_processor: ``True`` for bicubic resizing and CLIP's normalisation.
        post_processor: ``True`` for anomalib's.
        evaluator: ``True`` for anomalib's metrics; they see scores that the post-processor has normalised and clamped.
        visualizer: ``True`` for anomalib's.
        raw_evaluator: ``True`` for metrics of the raw scores, logged beside anomalib's with the prefix ``raw_``.

    Raises:
        ValueError: For an argument that is not usable, with what would be.
        FileNotFoundError: If there is no such file of adapters.
        WeightsUnavailableError: If weights are neither here nor to be had, with what to download and where to put it.
    """

    frozen_prefixes = ("model.visual_encoder.", "model.image_adapters.")

    def __init__(
        self,
        adapters: str | None = None,
        backbone: str | None = None,
        pretrained: str | None = None,
        class_name: str | None = None,
        description: str | list[str] | dict[str, str | list[str]] | None = None,
        image_size: int | tuple[int, int] | None = None,
        mode: Mode | None = None,
        activation: Activation | None = None,
        image_weight: float | None = None,
        scales: list[float] | None = None,
        blur_kernel: int = 7,
        blur_sigma: float = 1.0,
        precision: Precision = "float32",
        encode_batch_size: int = 64,
        allow_source_overlap: bool = False,
        text_cache_dir: str | None = None,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
        raw_evaluator: Evaluator | bool = True,
    ) -> None:
        model = AaClipModel(**taken_by(AaClipModel, locals()))
        pre_processor = self.pre_processor_for(model, pre_processor)
        super().__init__(**taken_by(AnomalibModule, locals()))
        self.connect(model, class_name=class_name, raw_evaluator=raw_evaluator)
        self.allow_source_overlap = allow_source_overlap
        self.save_hyperparameters(ignore=COMPONENTS)

    def prepare_images(self) -> None:
        """In mode ``reference``: take the range of the class's test images, in a pass of its own, over all processes."""
        if self.model.mode != "reference":
            return
        found: list[ScoreRange] = []

        def visit(batch: Batch) -> None:
            found.append(ScoreRange.of(*self.model.raw_scores(self.model.encode(batch.image))))

        first_pass(self, visit)
        own = torch.full((4,), -torch.inf, device=self.device)
        for one in found:
            own = torch.maximum(own, torch.stack([-one.map_low, one.map_high, -one.score_low, one.score_high]))
        low, high, score_low, score_high = self.trainer.strategy.reduce(own, reduce_op="max").unbind()
        self.model.score_range = ScoreRange(-low, high, -score_low, score_high)

    def prepare_export(self) -> None:
        """Refuse what a graph cannot do.

        Raises:
            ValueError: If no class was set, and in mode ``reference``.
        """
        super().prepare_export()
        if self.model.mode == "reference":
            raise ValueError(
                "In mode 'reference' a score depends on all test images of the class, which an exported graph does not see; "
                "export with mode='clean' (--model.mode clean)"
            )
