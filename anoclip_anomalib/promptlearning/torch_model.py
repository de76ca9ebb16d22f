"""The methods of the table as one plain torch module: images in, image score and pixel map out."""

from pathlib import Path
from typing import NamedTuple, get_args

import torch
import torch.nn.functional as F
from anomalib.data import InferenceBatch

from anoclip_anomalib.checks import refuse
from anoclip_anomalib.clip import LoadedClip, TextEncoder, TextTower, VisualEncoder, embed_class, embed_tokens
from anoclip_anomalib.promptlearning import scoring
from anoclip_anomalib.promptlearning.hybrid_prompts import HybridLearner, embed_for_images
from anoclip_anomalib.promptlearning.linear_heads import LinearHeads
from anoclip_anomalib.promptlearning.local_patches import local_patches, tap_images
from anoclip_anomalib.promptlearning.prompt_learner import PromptLearner, embed_prompts
from anoclip_anomalib.promptlearning.prompts_file import check_fit, load_prompts
from anoclip_anomalib.promptlearning.second_encoder import DINO, SecondEncoder, SimilarityMean
from anoclip_anomalib.prompts.april_gan import ADACLIP_TEMPLATES, sentences
from anoclip_anomalib.zeroshot.clip_model import ClipModel
from anoclip_anomalib.zeroshot.features import check_images
from anoclip_anomalib.zeroshot.method import MethodFacts, check_class, weights_digest

NO_ADAPTERS = (
    "PromptClip needs adapters: a file that `anoclip train prompts` or `anoclip convert` wrote (adapters=FILE), or "
    "adapters='demo' for those that come with the package for the demo encoder"
)


class PromptFeatures(NamedTuple):
    """What is read from a batch of images.

    Attributes:
        levels: For each level (B, h * w, E) unit patch features.
        class_token: (B, E) unit vectors.
        text: (B, 2, E), where the text depends on the image; else ``None``.
        grid: (h, w).
        size: (H, W) of the images.
    """

    levels: tuple[torch.Tensor, ...]
    class_token: torch.Tensor
    text: torch.Tensor | None
    grid: tuple[int, int]
    size: tuple[int, int]


class PromptClipModel(ClipModel):
    """A method of :mod:`anoclip_anomalib.promptlearning.methods` with learned weights.

    Args:
        adapters: File of ``anoclip train prompts`` or ``anoclip convert``, or ``"demo"`` for the bundled ones.
        method: ``"anomalyclip"``, ``"crane"``, ``"crane-plus"``, ``"adaclip"`` or ``"april-gan"``; ``None`` for the
            file's, of the bundled ones AnomalyCLIP.
        backbone: See :func:`anoclip_anomalib.clip.load_clip`; ``None`` for the one that the adapters were made for.
        pretrained: See there; ``None`` likewise.
        class_name: The product; AnomalyCLIP and Crane do without. ``None``: :meth:`set_class` must be called before use.
        image_size: Side of the square, or (height, width); ``None`` for the size of the training.
        activation: See :func:`load_clip`; ``None`` for that of the training.
        precision: Of the image encoder; what follows it is computed in float32.
        encode_batch_size: Images that go through the encoder at once; no effect on the result.
        smoothing: Standard deviation of the Gaussian on the maps in pixels; ``None`` for the authors' 4 of 518, or none.
        rounded_tokens: Round learned tokens inside the towers to float16, as the authors' code does.
        similarity_mean: Crane+'s similarities are compared with their mean over the ``"image"`` or, as the authors do, over
            the ``"batch"``.
        second_encoder: timm's name of Crane+'s second encoder.
        second_pretrained: Its weights as a file; ``None`` for timm's.
        seed: Of AdaCLIP's clustering.
        text_cache_dir: Folder for text embeddings; ``None`` for the user's cache folder.
        clip: A CLIP that is loaded already, instead of ``backbone`` and ``pretrained``.

    Attributes:
        text_embeddings: (2, E) unit vectors, normal then anomalous; empty before a class is set. AdaCLIP's depend on the image:
            here they are those of its sentences in plain CLIP, which it does not score with.
        class_name: The class that they were made for.
        training_facts: What the adapters were trained on.

    Raises:
        ValueError: For an argument that is not usable, and for adapters of another method, backbone or activation.
    """

    natural_threshold = 0.5
    sentence_tokens: torch.Tensor
    sentence_ends: torch.Tensor

    def __init__(
        self,
        *,
        adapters: str | Path | None,
        method: str | None = None,
        backbone: str | None = None,
        pretrained: str | None = None,
        class_name: str | None = None,
        image_size: int | tuple[int, int] | None = None,
        activation: str | None = None,
        precision: str = "float32",
        encode_batch_size: int = 64,
        smoothing: float | None = None,
        rounded_tokens: bool = True,
        similarity_mean: SimilarityMean = "image",
        second_encoder: str = DINO,
        second_pretrained: str | Path | None = None,
        seed: int = 0,
        text_cache_dir: str | Path | None = None,
        clip: LoadedClip | None = None,
    ) -> None:
        super().__init__()
        if not adapters:
            raise ValueError(NO_ADAPTERS)
        _check(encode_batch_size, smoothing, similarity_mean)
        learned, self.method, learner = load_prompts(adapters, method)
        self.training_facts = learned.facts
        learned.check_backbone(backbone, activation)
        clip, size = learned.clip_for(clip, pretrained, image_size)
        check_fit(learned, learner, clip)
        encoder = VisualEncoder(clip.visual_tower(precision), local_blocks=0)
        self.take_clip(clip, encoder, size, encode_batch_size, text_cache_dir)
        self.smoothing, self.seed, tensors = smoothing, seed, learned.tensors
        self.similarity_mean: SimilarityMean = similarity_mean
        self.provenance |= {"method": self.method.name, "adapters": learned.origin, "adapters_digest": learned.digest}
        self.second_encoder: SecondEncoder | None = None
        if self.method.second_encoder:
            self.second_encoder = SecondEncoder(second_encoder, second_pretrained)
            self.provenance["second_encoder"] = f"{second_encoder} {self.second_encoder.digest}"
            state = self.second_encoder.model.state_dict()
            tensors = tensors | {f"second.{name}": tensor for name, tensor in state.items()}
        self.weights_digest = weights_digest(clip, tensors)
        for name in ("sentence_tokens", "sentence_ends"):
            self.register_buffer(name, torch.empty(0), persistent=False)
        self.heads: LinearHeads | None = None
        self.text_tower: TextTower | None = None
        if isinstance(learner, PromptLearner):
            learner.rounded = rounded_tokens
            with torch.inference_mode(mode=False):
                self.text_embeddings = embed_prompts(clip, learner, cache_dir=text_cache_dir)
        else:
            self.heads = learner
        if isinstance(learner, HybridLearner):
            learner.set_rounded(rounded_tokens)
            self.text_tower = TextTower(clip.text_tower)
        if class_name is not None:
            self.set_class(class_name)

    @property
    def needs_class(self) -> bool:
        """Whether the prompts name the product."""
        return self.method.needs_class

    @property
    def facts(self) -> MethodFacts:
        """What tables say about the method."""
        return MethodFacts(
            auxiliary_data=self.training_facts.auxiliary_data,
            category_data="its name" if self.needs_class else "nothing",
            sees_other_test_images=self.second_encoder is not None and self.similarity_mean == "batch",
        )

    def set_class(self, class_name: str) -> None:
        """Compute what the text says about a class; nothing for the methods whose prompts say "object".

        Args:
            class_name: The product, as the data set names it.

        Raises:
            ValueError: If the name is empty.
        """
        if self.needs_class:
            self._set_sentences(class_name)
        self.class_name = class_name

    def _set_sentences(self, class_name: str) -> None:
        hybrid = self.text_tower is not None
        name = class_name.replace("-", " ") if hybrid else class_name
        normal, abnormal = sentences(name, ADACLIP_TEMPLATES) if hybrid else sentences(name)
        clip, device = self._clip.clip, self.text_embeddings.device
        with torch.inference_mode(mode=False):
            encoder = TextEncoder(clip, cache_dir=self.text_cache_dir)
            text = embed_class(encoder, normal, abnormal, mean="after_norm")
            self.text_embeddings = text.class_embeddings.to(device)
            if hybrid:
                embeddings, ends = embed_tokens(clip.text_tower, clip.tokenize([*normal, *abnormal]))
                self.sentence_tokens, self.sentence_ends = embeddings.detach().to(device), ends.to(device)
        self._normal_sentences = len(normal)

    def encode(self, images: torch.Tensor) -> PromptFeatures:
        """Read images.

        Args:
            images: (B, 3, H, W), normalised with CLIP's mean and standard deviation; H and W multiples of the patch size.

        Raises:
            RuntimeError: If the method needs a class and none was set.
            ValueError: If they are no colour images, or their size does not fit the patch size.
        """
        check_images(images)
        check_class(self)
        batches = (images,) if self.facts.sees_other_test_images else self._batches(images)
        parts = [self._encode(batch) for batch in batches]
        levels = tuple(torch.cat(level) for level in zip(*(part.levels for part in parts), strict=True))
        texts = [part.text for part in parts if part.text is not None]
        class_token = torch.cat([part.class_token for part in parts])
        return PromptFeatures(levels, class_token, torch.cat(texts) if texts else None, parts[0].grid, parts[0].size)

    def _encode(self, images: torch.Tensor) -> PromptFeatures:
        text, visual, size = None, self.visual_encoder.visual, (images.shape[-2], images.shape[-1])
        heads = self.heads
        if heads is None:
            mean = self.similarity_mean
            levels, class_token, grid = local_patches(visual, images, self.method, self.second_encoder, similarity_mean=mean)
            return PromptFeatures(tuple(levels), class_token, None, grid, size)
        tapped, class_token, condition, grid = tap_images(visual, images, self.method, heads)
        with torch.autocast(images.device.type, enabled=False):
            levels = heads.levels(tapped)
            if isinstance(heads, HybridLearner):
                assert self.text_tower is not None
                assert condition is not None
                class_token, prompts = heads.class_token(class_token), heads.text_prompts(condition.float())
                known = (self.sentence_tokens, self.sentence_ends, self._normal_sentences)
                text = embed_for_images(self.text_tower, *known, prompts)
            class_token = F.normalize(class_token, dim=-1)
        return PromptFeatures(tuple(levels), class_token, text, grid, size)

    def score(self, features: PromptFeatures) -> InferenceBatch:
        """Score what was read from images.

        Returns:
            ``pred_score`` (B,) and ``anomaly_map`` (B, 1, H, W), float32, probabilities.

        Raises:
            RuntimeError: If the method needs a class and none was set.
        """
        check_class(self)
        method = self.method
        with torch.autocast(features.class_token.device.type, enabled=False):
            text = self.text_embeddings.float() if features.text is None else features.text
            maps = scoring.anomaly_map(method, features.levels, text, features.grid, features.size)
            own = scoring.SIGMA * min(features.size) if method.smoothed else 0.0
            return InferenceBatch(
                pred_score=scoring.image_score(method, features.levels, features.class_token, text, seed=self.seed),
                anomaly_map=scoring.smooth(maps, own if self.smoothing is None else self.smoothing),
            )


def _check(encode_batch_size: int, smoothing: float | None, similarity_mean: str) -> None:
    faults = {
        f"encode_batch_size={encode_batch_size} must be at least 1": encode_batch_size < 1,
        f"smoothing={smoothing} must not be negative": smoothing is not None and not smoothing >= 0,
        f"similarity_mean={similarity_mean!r} is unknown; choose 'image' or 'batch'": similarity_mean
        not in get_args(SimilarityMean),
    }
    refuse(faults)
