"""Images in tiles and views against sentences about a class: what AnoCLIP and mutual scoring share."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from anomalib.data import InferenceBatch

from anoclip_anomalib.clip import LocalAttention, TextEncoder, TextMean, VisualEncoder, check_text_mean, embed_class
from anoclip_anomalib.clip.declared import check_declared_size
from anoclip_anomalib.clip.local_attention import Weights
from anoclip_anomalib.clip.weights import LoadedClip, Precision, load_clip
from anoclip_anomalib.prompts import PromptBuilder, PromptSettings
from anoclip_anomalib.zeroshot.buffers import TEXT
from anoclip_anomalib.zeroshot.clip_model import ClipModel
from anoclip_anomalib.zeroshot.features import Features, as_size, check_images
from anoclip_anomalib.zeroshot.method import check_class
from anoclip_anomalib.zeroshot.neighbourhoods import quarter_depths
from anoclip_anomalib.zeroshot.scoring import abnormal_probability, cosine_difference, mean_filter, upsample
from anoclip_anomalib.zeroshot.tiling import TileLayout, Tiling, plan_tiles
from anoclip_anomalib.zeroshot.views import grouped, views

DEFAULT_WEIGHTS = "laion400m_e32"
"""AnoCLIP's authors' weights; ``load_clip`` knows that the demo encoder has only its own."""


class PatchAdapter(Protocol):
    """What may stand between the patch tokens and their scores, see ``TextModel.adapter``."""

    def __call__(self, patch_tokens: torch.Tensor, grid: tuple[int, int], layout: TileLayout) -> torch.Tensor:
        """(B, T, h * w, D) patch tokens of T tiles an image -> tokens of the same shape."""
        ...


class TextModel(ClipModel):
    """A frozen CLIP whose class tokens and local patches are compared with a normal and an abnormal embedding of sentences.

    Args:
        backbone: See :func:`anoclip_anomalib.clip.load_clip`.
        pretrained: See there; ``None`` for the bundled weights of ``"demo"``, ``laion400m_e32`` of any other backbone.
        class_name: The product, as the data set names it. ``None``: :meth:`set_class` must be called before use.
        prompts: Changes to the authors' prompts: the arguments of :class:`anoclip_anomalib.prompts.PromptBuilder`.
        image_size: (height, width) or the side of a square, that the images will have; with ``tiling="square"`` the
            length of their shorter side. ``None`` for the size that the backbone was trained with.
        views: 1, or 22 for the mean over the authors' views in the image score.
        tiling: ``"none"``, or ``"square"`` for square tiles of non-square images.
        local_attention: See :class:`anoclip_anomalib.clip.VisualEncoder`.
        local_blocks: See there.
        precision: Of the image encoder; what follows it is computed in float32.
        text_mean: See :func:`anoclip_anomalib.clip.embed_class`.
        smoothing: Side of the mean filter on the patch scores, in patches, odd; 1 for none.
        encode_batch_size: Tiles and views that go through the encoder at once; no effect on the result.
        text_cache_dir: Folder for text embeddings; ``None`` for the user's cache folder.
        depths: Blocks, counted from 1, whose patches are read besides, to be compared with those of other images; ``None``
            for the quarters of the encoder's depth.
        clip: A CLIP that is loaded already, to use instead of ``backbone`` and ``pretrained``.

    Attributes:
        text_embeddings: (2, D) unit vectors, normal then anomalous; empty before a class is set.
        prompt_bank: (N, D) unit vectors of all sentences, normal first; for adapters.
        adapter: ``None``, or a function that replaces the patch tokens before they are scored. The seam of test-time
            adaptation: the model knows nothing else about it.
        reads_text: Whether text has a say in the scores.
        class_name: The class that the embeddings were made for.
        provenance: Backbone, weights and their digest, version of open_clip.

    Raises:
        ValueError: For an argument that is not usable; see also the classes named above.
    """

    float_buffers: tuple[str, ...] = TEXT
    prompt_bank: torch.Tensor

    def __init__(
        self,
        *,
        backbone: str = "ViT-B-16-plus-240",
        pretrained: str | None = None,
        class_name: str | None = None,
        prompts: PromptSettings | Mapping | None = None,
        image_size: int | tuple[int, int] | None = None,
        views: int = 1,
        tiling: Tiling = "none",
        local_attention: str | Weights | LocalAttention = "value",
        local_blocks: int | None = None,
        precision: Precision = "float32",
        text_mean: TextMean = "before_norm",
        smoothing: int = 3,
        encode_batch_size: int = 64,
        text_cache_dir: str | Path | None = None,
        depths: Sequence[int] | None = None,
        clip: LoadedClip | None = None,
    ) -> None:
        super().__init__()
        self.prompt_builder = PromptBuilder.from_settings(prompts)
        if smoothing < 1 or smoothing % 2 == 0:
            raise ValueError(f"smoothing={smoothing} must be an odd number of patches, 1 for no smoothing")
        if encode_batch_size < 1:
            raise ValueError(f"encode_batch_size={encode_batch_size} must be at least 1")
        check_text_mean(text_mean)
        plan_tiles(1, 1, tiling)  # refuses an unknown tiling now rather than at the first image
        self.view_functions = _views(views)
        size = as_size(image_size)
        _check_square(size or (1, 1), tiling)
        if clip is None:
            check_declared_size(backbone, size)
            clip = load_clip(backbone, pretrained or DEFAULT_WEIGHTS)
        encoder = VisualEncoder(clip.visual_tower(precision), local_attention=local_attention, local_blocks=local_blocks)
        self.take_clip(clip, encoder, size, encode_batch_size, text_cache_dir)
        _check_square(self.image_size, tiling)
        self.tiling, self.smoothing = tiling, smoothing
        self.text_mean: TextMean = text_mean
        self.adapter: PatchAdapter | None = None
        blocks = self.visual_encoder.depth
        chosen = tuple(depths) if depths is not None else quarter_depths(blocks)
        if not chosen or not all(1 <= depth <= blocks for depth in chosen):
            raise ValueError(f"depths={list(chosen)} must be numbers of blocks from 1 to {blocks}, the encoder's depth")
        self.depths = chosen
        self.register_buffer("prompt_bank", torch.empty(0), persistent=False)
        if class_name is not None:
            self.set_class(class_name)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "depths" not in state:  # a model that an earlier version has exported
            self.depths = self.reference.depths

    @property
    def reads_text(self) -> bool:  # noqa: D102 - described above
        return True

    def set_class(self, class_name: str) -> None:
        """Compute the text embeddings of a class, or take them from the cache.

        Args:
            class_name: The product, as the data set names it.

        Raises:
            ValueError: If the name is empty.
        """
        prompt_set = self.prompt_builder.sentences(class_name)
        # Lightning calls setup outside inference mode, users may not: an inference tensor could not be adapted on later.
        with torch.inference_mode(mode=False):
            encoder = TextEncoder(self._clip.clip, cache_dir=self.text_cache_dir)
            text = embed_class(encoder, prompt_set.normal_sentences, prompt_set.abnormal_sentences, mean=self.text_mean)
        device = self.text_embeddings.device
        self.text_embeddings = text.class_embeddings.to(device)
        self.prompt_bank = text.prompt_bank.to(device)
        self.class_name = class_name

    def encode(self, images: torch.Tensor, *, levels: bool = False) -> Features:
        """Take images through the encoder, in one walk; needs no class.

        Args:
            images: (B, 3, H, W), normalised with CLIP's mean and standard deviation. H and W are multiples of the patch size;
                with tiling only the shorter of them needs to be.
            levels: Whether to read the original stream at ``depths`` too.

        Returns:
            Class tokens of the image and its other views, the patch tokens of the local path, not adapted, and the levels.

        Raises:
            ValueError: If the images are no colour images, or their size does not fit the patch size.
        """
        check_images(images)
        layout = plan_tiles(images.shape[-2], images.shape[-1], self.tiling)
        tiles = layout.split(images)
        depths = self.depths if levels else ()
        encoded = (self.visual_encoder(part, depths) for part in self._batches(tiles))
        class_tokens, patch_tokens, grids, read = zip(*encoded, strict=True)
        views_of_tiles = [torch.cat(class_tokens)]
        for _, batch in grouped(self.view_functions, tiles, self._limit):
            views_of_tiles += [self.visual_encoder.encode_class_token(part) for part in self._batches(batch)]
        count = 1 + len(self.view_functions)
        return Features(
            torch.cat(views_of_tiles).unflatten(0, (count, -1, len(layout))),
            torch.cat(patch_tokens).unflatten(0, (-1, len(layout))),
            grids[0],
            layout,
            torch.stack([torch.cat(level) for level in zip(*read, strict=True)]).unflatten(1, (-1, len(layout)))
            if depths
            else None,
        )

    @staticmethod
    def as_batch(patches: torch.Tensor, scores: torch.Tensor, features: Features) -> InferenceBatch:
        """Patch scores (B, T, L) and image scores as anomalib wants them."""
        maps = patches.flatten(0, 1).unflatten(1, features.grid).unsqueeze(1)
        return InferenceBatch(pred_score=scores, anomaly_map=features.layout.stitch(upsample(maps, features.layout.tile)))

    def text_scores(self, features: Features) -> tuple[torch.Tensor, torch.Tensor]:
        """Patch scores (B, T, L) and image scores (B,) by text.

        Raises:
            RuntimeError: If no class was set.
        """
        check_class(self)
        return self._patch_scores(features), self._image_score(features)

    def _image_score(self, features: Features) -> torch.Tensor:
        own, others = features.class_tokens.flatten(1, 2).split((1, len(features.class_tokens) - 1))
        total = self._probability(own[0])
        step = len(others) if self._limit is None else max(1, self._limit // own.shape[1])
        for group in others.split(max(step, 1)) if len(others) else ():
            total = total + self._probability(group.flatten(0, 1)).unflatten(0, (len(group), -1)).sum(dim=0)
        return (total / len(features.class_tokens)).unflatten(0, (-1, len(features.layout))).mean(dim=1)

    def _probability(self, embeddings: torch.Tensor) -> torch.Tensor:
        return abnormal_probability(cosine_difference(embeddings, self.text_embeddings))

    @property
    def weights_digest(self) -> str:
        """SHA-256 of all weights: CLIP's, as nothing else is learned."""
        return self.provenance["weights_digest"]

    def _patch_scores(self, features: Features) -> torch.Tensor:
        """(B, T, L) by text."""
        patch_tokens = features.patch_tokens.float()
        if self.adapter is not None:
            patch_tokens = self.adapter(patch_tokens, features.grid, features.layout)
        scores = self._probability(patch_tokens.flatten(0, 1)).unflatten(1, features.grid)
        return mean_filter(scores, self.smoothing).flatten(1).unflatten(0, patch_tokens.shape[:2])


_views = views  # `views` is also the name of an argument


def _check_square(size: tuple[int, int], tiling: Tiling) -> None:
    if tiling == "square" and size[0] != size[1]:
        raise ValueError(f"With tiling='square' image_size is the length of the shorter side, one number; got {size}")
