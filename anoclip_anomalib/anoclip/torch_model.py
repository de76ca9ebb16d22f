"""AnoCLIP as a plain torch module: images in, image score and pixel map out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

import torch
from anomalib.data import InferenceBatch
from torch import nn

from anoclip_anomalib.anoclip.image_views import grouped, views
from anoclip_anomalib.anoclip.scoring import abnormal_probability, cosine_difference, mean_filter, upsample
from anoclip_anomalib.anoclip.tiling import TileLayout, Tiling, plan_tiles
from anoclip_anomalib.clip import (
    EncodedImages,
    LocalAttention,
    TextEncoder,
    TextMean,
    VisualEncoder,
    check_text_mean,
    embed_class,
    load_clip,
)
from anoclip_anomalib.prompts import PromptBuilder, PromptSettings

Precision = Literal["float32", "bfloat16", "float16"]
NO_CLASS = "The model knows no class yet: give class_name (for instance class_name='bottle') or call set_class() first"


class PatchAdapter(Protocol):
    """What may stand between the patch tokens and their scores, see ``AnoClipModel.adapter``."""

    def __call__(self, patch_tokens: torch.Tensor, grid: tuple[int, int], layout: TileLayout) -> torch.Tensor:
        """(B, T, h * w, D) patch tokens of T tiles an image -> tokens of the same shape."""
        ...


class AnoClipModel(nn.Module):
    """AnoCLIP without adaptation (arXiv 2308.15939): value attention, domain-aware prompts, cosine scores.

    Args:
        backbone: See :func:`anoclip_anomalib.clip.load_clip`.
        pretrained: See there.
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

    Attributes:
        text_embeddings: (2, D) unit vectors, normal then anomalous; empty before a class is set.
        prompt_bank: (N, D) unit vectors of all sentences, normal first; for adapters.
        adapter: ``None``, or a function that replaces the patch tokens before they are scored. The seam of test-time
            adaptation: the model knows nothing else about it.
        class_name: The class that the embeddings were made for.
        provenance: Backbone, weights and their digest, version of open_clip.

    Raises:
        ValueError: For an argument that is not usable; see also the classes named above.
    """

    text_embeddings: torch.Tensor
    prompt_bank: torch.Tensor

    def __init__(
        self,
        *,
        backbone: str = "ViT-B-16-plus-240",
        pretrained: str | None = "laion400m_e32",
        class_name: str | None = None,
        prompts: PromptSettings | Mapping | None = None,
        image_size: int | tuple[int, int] | None = None,
        views: int = 1,
        tiling: Tiling = "none",
        local_attention: str | LocalAttention = "value",
        local_blocks: int | None = None,
        precision: Precision = "float32",
        text_mean: TextMean = "before_norm",
        smoothing: int = 3,
        encode_batch_size: int = 64,
        text_cache_dir: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.prompt_builder = PromptBuilder.from_settings(prompts)
        if smoothing < 1 or smoothing % 2 == 0:
            msg = f"smoothing={smoothing} must be an odd number of patches, 1 for no smoothing"
            raise ValueError(msg)
        if encode_batch_size < 1:
            msg = f"encode_batch_size={encode_batch_size} must be at least 1"
            raise ValueError(msg)
        check_text_mean(text_mean)
        plan_tiles(1, 1, tiling)  # refuses an unknown tiling now rather than at the first image
        self.view_functions = _views(views)
        clip = load_clip(backbone, pretrained)
        self.backbone, self.pretrained = backbone, pretrained
        self.provenance = clip.provenance
        self.visual_encoder = VisualEncoder(
            clip.visual_tower(precision), local_attention=local_attention, local_blocks=local_blocks
        )
        self.image_size = _image_size(image_size, tiling, self.visual_encoder)
        self.tiling: Tiling = tiling
        self.smoothing = smoothing
        self.text_mean: TextMean = text_mean
        self.encode_batch_size = encode_batch_size
        self.text_cache_dir = text_cache_dir
        self.adapter: PatchAdapter | None = None
        self.class_name: str | None = None
        self.register_buffer("text_embeddings", torch.empty(0))
        self.register_buffer("prompt_bank", torch.empty(0), persistent=False)
        if class_name is not None:
            self.set_class(class_name)

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
            encoder = TextEncoder(load_clip(self.backbone, self.pretrained), cache_dir=self.text_cache_dir)
            text = embed_class(encoder, prompt_set.normal_sentences, prompt_set.abnormal_sentences, mean=self.text_mean)
        device = self.text_embeddings.device
        self.text_embeddings = text.class_embeddings.to(device)
        self.prompt_bank = text.prompt_bank.to(device)
        self.class_name = class_name

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        """Score images.

        Args:
            images: (B, 3, H, W), normalised with CLIP's mean and standard deviation. H and W are multiples of the patch size;
                with tiling only the shorter of them needs to be.

        Returns:
            ``pred_score`` (B,) and ``anomaly_map`` (B, 1, H, W), probabilities of the anomalous class, near 0.5, float32.

        Raises:
            RuntimeError: If no class was set.
            ValueError: If the image size does not fit the patch size.
        """
        if self.text_embeddings.numel() == 0:
            raise RuntimeError(NO_CLASS)
        layout = plan_tiles(images.shape[-2], images.shape[-1], self.tiling)
        tiles = layout.split(images)
        encoded = self._encode(tiles)
        with torch.autocast(images.device.type, enabled=False):
            pred_score = self._image_score(encoded.class_token, tiles).unflatten(0, (-1, len(layout))).mean(dim=1)
            anomaly_map = self._pixel_map(encoded.patch_tokens, encoded.grid, layout)
        return InferenceBatch(pred_score=pred_score, anomaly_map=anomaly_map)

    def _encode(self, tiles: torch.Tensor) -> EncodedImages:
        parts = [self.visual_encoder(part) for part in self._batches(tiles)]
        class_tokens, patch_tokens, grids = zip(*parts, strict=True)
        return EncodedImages(torch.cat(class_tokens), torch.cat(patch_tokens), grids[0])

    def _image_score(self, class_token: torch.Tensor, tiles: torch.Tensor) -> torch.Tensor:
        total = abnormal_probability(cosine_difference(class_token, self.text_embeddings))
        limit = None if torch.compiler.is_compiling() else self.encode_batch_size
        for count, batch in grouped(self.view_functions, tiles, limit):
            parts = [self.visual_encoder.encode_class_token(part) for part in self._batches(batch)]
            scores = abnormal_probability(cosine_difference(torch.cat(parts), self.text_embeddings))
            total = total + scores.unflatten(0, (count, -1)).sum(dim=0)
        return total / (1 + len(self.view_functions))

    def _batches(self, tiles: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # An exported graph has a batch size of its own choice, which no branch here may fix.
        return (tiles,) if torch.compiler.is_compiling() else tiles.split(self.encode_batch_size)

    def _pixel_map(self, patch_tokens: torch.Tensor, grid: tuple[int, int], layout: TileLayout) -> torch.Tensor:
        patch_tokens = patch_tokens.float()
        if self.adapter is not None:
            tokens_by_image = patch_tokens.unflatten(0, (-1, len(layout)))
            patch_tokens = self.adapter(tokens_by_image, grid, layout).flatten(0, 1)
        scores = abnormal_probability(cosine_difference(patch_tokens, self.text_embeddings)).unflatten(1, grid)
        return layout.stitch(upsample(mean_filter(scores, self.smoothing).unsqueeze(1), layout.tile))

    def _apply(self, fn, recurse: bool = True) -> "AnoClipModel":  # noqa: ANN001, FBT001, FBT002
        # Half-precision trainers cast every buffer; ranks are decided in float32.
        kept = self.text_embeddings, self.prompt_bank
        super()._apply(fn, recurse)
        self.text_embeddings, self.prompt_bank = (
            full.to(moved.device) if moved.dtype != full.dtype else moved
            for full, moved in zip(kept, (self.text_embeddings, self.prompt_bank), strict=True)
        )
        return self

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args, **kwargs) -> None:
        # A checkpoint brings embeddings for a model that may not have any yet.
        saved = state_dict.get(f"{prefix}text_embeddings")
        if saved is not None and saved.shape != self.text_embeddings.shape:
            self.text_embeddings = torch.empty_like(saved, device=self.text_embeddings.device)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


_views = views  # `views` is also the name of an argument


def _image_size(image_size: int | tuple[int, int] | None, tiling: Tiling, encoder: VisualEncoder) -> tuple[int, int]:
    if image_size is None:
        size = encoder.image_size
    elif isinstance(image_size, int):
        size = (image_size, image_size)
    else:
        if len(image_size) != 2:
            msg = f"image_size={image_size!r} must be one number or (height, width)"
            raise ValueError(msg)
        size = (int(image_size[0]), int(image_size[1]))
    if tiling == "square" and size[0] != size[1]:
        msg = f"With tiling='square' image_size is the length of the shorter side, one number; got {size}"
        raise ValueError(msg)
    encoder.check_image_size(*size)
    return size
