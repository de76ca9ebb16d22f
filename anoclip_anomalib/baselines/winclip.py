"""Anomalib's WinClip as a fair peer.

Since open_clip 2.26.1 its transformer takes (batch, tokens, channels). anomalib's WinClip still hands it windows as
(tokens, batch, channels): every window gets the same embedding, silently. Here the fault is found by computing, whatever
the version, and a subclass computes the windows in the layout that the transformer really has.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from anomalib.models import WinClip
from anomalib.models.components import AnomalibModule
from anomalib.models.image.winclip import torch_model
from anomalib.models.image.winclip.prompting import create_prompt_ensemble
from anomalib.models.image.winclip.torch_model import BACKBONE, PRETRAINED, TEMPERATURE, WinClipModel, tokenize
from anomalib.pre_processing import PreProcessor
from torch import nn
from torchvision.transforms.v2 import Compose, InterpolationMode, Normalize, Resize

from anoclip_anomalib.clip import load_clip
from anoclip_anomalib.clip.constants import CLIP_MEAN, CLIP_STD
from anoclip_anomalib.clip.patch_embedding import pair
from anoclip_anomalib.zeroshot.lightning import taken_by


@torch.no_grad()
def transformer_is_batch_first(transformer: nn.Module, width: int) -> bool:
    """Find out by computing which of the first two dimensions of (2, 3, width) the transformer does not mix."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 3, width, generator=generator).to(next(transformer.parameters()))
    changed = tokens.clone()
    changed[1] += 1
    return torch.equal(transformer(tokens)[0], transformer(changed)[0])


@torch.no_grad()
def window_fault(model: WinClipModel) -> float:
    """How far WinClip's window embeddings are from right ones, relative to these: about 0 is right, about 1 is useless.

    The right ones are computed one window at a time, on a random feature map.
    """
    visual = model.clip.visual
    generator = torch.Generator().manual_seed(0)
    tokens = model.grid_size[0] * model.grid_size[1] + 1
    width = visual.ln_pre.weight.shape[0] if hasattr(visual.ln_pre, "weight") else visual.conv1.weight.shape[0]
    feature_map = torch.randn(1, tokens, width, generator=generator).to(visual.conv1.weight)
    masks = model.masks[0][:, :6]
    found = model._get_window_embeddings(feature_map, masks)
    batch_first = transformer_is_batch_first(visual.transformer, width)
    right = torch.cat([window_embeddings(visual, feature_map, mask, batch_first) for mask in masks.split(1, dim=1)], dim=1)
    return float((found - right).norm() / right.norm())


def window_embeddings(visual: nn.Module, feature_map: torch.Tensor, masks: torch.Tensor, batch_first: bool) -> torch.Tensor:
    """Embed windows of a feature map.

    Args:
        visual: open_clip's VisionTransformer.
        feature_map: (B, 1 + P, D) tokens before the transformer, class token first.
        masks: (K, W) patch indices of W windows of K patches.
        batch_first: Layout of the transformer.

    Returns:
        (B, W, D') class token embeddings of the windows.
    """
    index = torch.cat((torch.zeros_like(masks[:1]), masks + 1)).T.long().to(feature_map.device)  # (W, 1 + K)
    tokens = feature_map[:, index].flatten(0, 1)  # (B * W, 1 + K, D)
    tokens = visual.ln_pre(visual.patch_dropout(tokens))
    tokens = visual.transformer(tokens) if batch_first else visual.transformer(tokens.transpose(0, 1)).transpose(0, 1)
    pooled, _ = visual._global_pool(visual.ln_post(tokens))
    if visual.proj is not None:
        pooled = pooled @ visual.proj
    return pooled.reshape(len(feature_map), masks.shape[1], -1)


class RepairedWinClipModel(WinClipModel):
    """WinClipModel with right windows under every open_clip version, and any CLIP.

    Args:
        scales: Window sizes in patches.
        backbone: open_clip architecture, or "demo"; as in :func:`anoclip_anomalib.clip.load_clip`.
        pretrained: Its weights. The default pair is anomalib's own.
        source: A WinClipModel whose CLIP is taken over; backbone and pretrained are then its own.
    """

    def __init__(
        self,
        scales: tuple = (2, 3),
        backbone: str = BACKBONE,
        pretrained: str | None = PRETRAINED,
        source: WinClipModel | None = None,
    ) -> None:
        nn.Module.__init__(self)
        if source is None:
            loaded = load_clip(backbone, pretrained)
            clip, self._tokenize, self.digest = loaded.model, loaded.tokenize, loaded.digest
        else:
            backbone, pretrained = source.backbone, source.pretrained
            clip, self._tokenize, self.digest = source.clip, tokenize, ""
        self.backbone, self.pretrained, self.scales, self.temperature = backbone, pretrained, scales, TEMPERATURE
        self.class_name, self.reference_images, self.apply_transform, self.k_shot = None, None, False, 0
        # Parameters are shared with the other users of this CLIP; only the flag is our own.
        self.clip = copy.copy(clip)
        self.clip._modules = dict(clip._modules)
        self.clip.visual = copy.copy(clip.visual)
        self.clip.visual.output_tokens = True
        self.grid_size = self.clip.visual.grid_size
        self.batch_first = transformer_is_batch_first(self.clip.visual.transformer, self.clip.visual.conv1.weight.shape[0])
        self.register_buffer_list("masks", self._generate_masks(), persistent=False)
        self.register_buffer("_text_embeddings", torch.empty(0))
        self.register_buffer_list("_visual_embeddings", [torch.empty(0) for _ in self.scales])
        self.register_buffer("_patch_embeddings", torch.empty(0))

    def _get_window_embeddings(self, feature_map: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        return window_embeddings(self.clip.visual, feature_map, masks, self.batch_first)

    @torch.no_grad()
    def _collect_text_embeddings(self, class_name: str) -> None:
        tokens = (self._tokenize(prompts).to(self.masks[0].device) for prompts in create_prompt_ensemble(class_name))
        self._text_embeddings = torch.cat([self.clip.encode_text(part).mean(dim=0, keepdim=True) for part in tokens])


class RepairedWinClip(WinClip):
    """WinClip with :class:`RepairedWinClipModel`; arguments as in anomalib, and those of that model."""

    def __init__(
        self,
        class_name: str | None = None,
        k_shot: int = 0,
        scales: tuple = (2, 3),
        few_shot_source: str | None = None,
        backbone: str = BACKBONE,
        pretrained: str | None = PRETRAINED,
        source: WinClipModel | None = None,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: nn.Module | bool = True,
        visualizer: nn.Module | bool = True,
    ) -> None:
        super(WinClip, self).__init__(**taken_by(AnomalibModule, locals()))
        self.model = RepairedWinClipModel(tuple(scales), backbone, pretrained, source)
        if pre_processor is True:  # anomalib's at the encoder's own size
            resize = Resize(pair(self.model.clip.visual.image_size), antialias=True, interpolation=InterpolationMode.BICUBIC)
            self.pre_processor = PreProcessor(transform=Compose([resize, Normalize(mean=CLIP_MEAN, std=CLIP_STD)]))
        self.class_name, self.k_shot, self.few_shot_source, self.is_setup = class_name, k_shot, few_shot_source, False

    @property
    def weights_digest(self) -> str:
        """SHA-256 of the CLIP weights."""
        return self.model.digest


@lru_cache(maxsize=1)
def _load_once(create: Callable[..., Any], name: str, pretrained: str | None) -> Any:
    return create(name, pretrained=pretrained)


@contextmanager
def one_clip_per_process() -> Iterator[None]:
    """In this block anomalib's WinClip takes its CLIP from memory if an earlier one in this process has loaded it.

    WinClip never changes its CLIP's parameters, so that all jobs may share one.
    """
    library = torch_model.open_clip
    create = library.create_model_and_transforms
    library.create_model_and_transforms = lambda name, pretrained=None: _load_once(create, name, pretrained)
    try:
        yield
    finally:
        library.create_model_and_transforms = create


def fair_winclip(model: WinClip) -> tuple[WinClip, str | None]:
    """Anomalib's WinClip itself if its windows are right, else the repaired one with the same settings.

    Returns:
        The model to measure, and a note for the row (``None`` if nothing was wrong).
    """
    if isinstance(model, RepairedWinClip):
        return model, "repaired windows (RepairedWinClip)"
    fault = window_fault(model.model)
    if fault < 1e-3:
        return model, None
    repaired = RepairedWinClip(
        class_name=model.class_name,
        k_shot=model.k_shot,
        scales=model.model.scales,
        few_shot_source=str(model.few_shot_source) if model.few_shot_source else None,
        source=model.model,
        pre_processor=model.pre_processor or False,
        post_processor=model.post_processor or False,
        evaluator=False,
        visualizer=False,
    )
    note = f"RepairedWinClip: anomalib's window embeddings are wrong under this open_clip (relative error {fault:.2f})"
    return repaired, note
