"""The methods that learn prompts, in anomalib: wiring only."""

from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.visualization import Visualizer
from torch import nn

from anoclip_anomalib.clip.weights import Activation, Precision
from anoclip_anomalib.promptlearning.methods import MethodName
from anoclip_anomalib.promptlearning.second_encoder import DINO, SimilarityMean
from anoclip_anomalib.promptlearning.torch_model import PromptClipModel
from anoclip_anomalib.registry import register_model
from anoclip_anomalib.zeroshot.learned_method import LearnedClip
from anoclip_anomalib.zeroshot.lightning import COMPONENTS, taken_by


@register_model
class PromptClip(LearnedClip, AnomalibModule):
    """AnomalyCLIP, Crane, Crane+, AdaCLIP or APRIL-GAN: learned on an auxiliary data set, zero-shot on every other one.

    Args:
        adapters: File of ``anoclip train prompts`` or ``anoclip convert``, or ``demo`` for those that come with the package for
            the demo encoder. There is no default: what a model was trained on is the user's choice.
        method: ``anomalyclip``, ``crane``, ``crane-plus``, ``adaclip`` or ``april-gan``; ``None`` for that of the file, of the
            bundled ones AnomalyCLIP.
        backbone: The one that the adapters were trained for; ``None`` takes it from their file.
        pretrained: Its weights, for instance where they lie on this machine; ``None`` likewise.
        class_name: The product, for the methods whose prompts name it (AdaCLIP, APRIL-GAN). ``None`` takes the datamodule's
            category, or "object", with a warning, if there is none.
        image_size: Side of the square, or (height, width), that images are resized to; ``None`` for that of the training.
        activation: Of CLIP's MLPs, as in the training; ``None`` takes it from the adapters' file.
        precision: Of the image encoder. Scores are always computed in float32.
        encode_batch_size: Images that go through the encoder at once; no effect on the result.
        smoothing: Standard deviation of the Gaussian on the maps in pixels; ``None`` for the authors'.
        rounded_tokens: Round learned tokens to float16 inside the towers, as the authors' code does.
        similarity_mean: Of Crane+: ``image``, or ``batch`` as in the authors' code, where a score depends on its neighbours.
        second_encoder: timm's name of Crane+'s second encoder.
        second_pretrained: Its weights as a file; ``None`` for timm's.
        seed: Of AdaCLIP's clustering.
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

    frozen_prefixes = tuple(f"model.{name}." for name in ("visual_encoder", "second_encoder", "text_tower", "heads"))

    def __init__(
        self,
        adapters: str | None = None,
        method: MethodName | None = None,
        backbone: str | None = None,
        pretrained: str | None = None,
        class_name: str | None = None,
        image_size: int | tuple[int, int] | None = None,
        activation: Activation | None = None,
        precision: Precision = "float32",
        encode_batch_size: int = 64,
        smoothing: float | None = None,
        rounded_tokens: bool = True,
        similarity_mean: SimilarityMean = "image",
        second_encoder: str = DINO,
        second_pretrained: str | None = None,
        seed: int = 0,
        allow_source_overlap: bool = False,
        text_cache_dir: str | None = None,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
        raw_evaluator: Evaluator | bool = True,
    ) -> None:
        model = PromptClipModel(**taken_by(PromptClipModel, locals()))
        pre_processor = self.pre_processor_for(model, pre_processor)
        super().__init__(**taken_by(AnomalibModule, locals()))
        self.connect(model, class_name=class_name, raw_evaluator=raw_evaluator)
        self.needs_class = model.needs_class
        self.allow_source_overlap = allow_source_overlap
        self.save_hyperparameters(ignore=COMPONENTS)

    def prepare_export(self) -> None:
        """Refuse what a graph cannot do.

        Raises:
            ValueError: If no class was set, and for methods whose text or similarities depend on more than a graph holds.
        """
        super().prepare_export()
        facts = self.model.facts
        if not self.model.method.text_is_static or facts.sees_other_test_images:
            why = (
                "its scores depend on the other images of a batch; use similarity_mean=image"
                if facts.sees_other_test_images
                else "it encodes its text anew for each image and clusters patches, which a graph cannot"
            )
            raise ValueError(f"{self.model.method.title} cannot be exported: {why}")
