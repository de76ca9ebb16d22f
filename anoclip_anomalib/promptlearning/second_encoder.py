"""Crane+'s second local path: CLIP's patches attend to each other as another encoder's patches resemble each other.

The other encoder is DINOv2 through timm (authors' ``models/Crane.py``, "D-Attn").
"""

from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from anoclip_anomalib.clip import WeightsUnavailableError, attention_output, own_precision, project_tokens
from anoclip_anomalib.clip.constants import CLIP_MEAN, CLIP_STD
from anoclip_anomalib.clip.state_dict import WeightFileError, read_state_dict, state_dict_digest
from anoclip_anomalib.clip.weights import seeded

DINO = "vit_base_patch14_reg4_dinov2.lvd142m"
RANDOM = "random"
BETA, SCALE = 1.2, 3.0
"""Similarities below 1.2 times their mean do not count; the rest is sharpened by 3."""
SimilarityMean = Literal["image", "batch"]


class SecondEncoder(nn.Module):
    """A frozen timm ViT that gives unit patch features on CLIP's grid.

    Args:
        name: timm's name of the model.
        pretrained: A local weight file; ``None`` for timm's own weights of that name, ``"random"`` for untrained ones, always
            the same.

    Attributes:
        digest: SHA-256 of its weights.

    Raises:
        ValueError: If timm does not know the name, or it is no ViT with square patches.
        WeightsUnavailableError: If its weights are neither here nor to be had.
        WeightFileError: If the file was made for another model.
    """

    def __init__(self, name: str = DINO, pretrained: str | Path | None = None) -> None:
        super().__init__()
        import timm  # an optional dependency

        if not timm.is_model(name):
            raise ValueError(f"timm has no model {name!r}, which was asked for as the second encoder; its DINOv2 is {DINO!r}")
        try:
            new = partial(timm.create_model, name, pretrained=pretrained is None, num_classes=0, dynamic_img_size=True)
            model = seeded(0, new)
        except TypeError as error:
            raise ValueError(
                f"The second encoder {name!r} is no vision transformer that takes any image size: {error}"
            ) from error
        except Exception as error:
            raise WeightsUnavailableError(
                f"Weights of the second encoder {name!r} are not on this machine and could not be downloaded ({error}). "
                f"Download https://huggingface.co/timm/{name} (model.safetensors) and name that file as second_pretrained"
            ) from error
        if pretrained is not None and str(pretrained) != RANDOM:
            state = read_state_dict(pretrained)
            own = model.state_dict()
            faults = sorted(own.keys() - state.keys()) or [key for key in own if own[key].shape != state[key].shape]
            if faults:
                raise WeightFileError(
                    f"Weight file {pretrained} was not made for {name}: {', '.join(faults[:3])} missing or of another shape"
                )
            model.load_state_dict(state, strict=False)
        self.model = model.requires_grad_(requires_grad=False).eval()
        self.patch_size = int(model.patch_embed.patch_size[0])
        self.digest = state_dict_digest(model.state_dict())
        cfg = model.pretrained_cfg
        for key, values in (("clip_mean", CLIP_MEAN), ("clip_std", CLIP_STD), ("mean", cfg["mean"]), ("std", cfg["std"])):
            self.register_buffer(key, torch.tensor(values).view(3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> "SecondEncoder":  # noqa: FBT001, FBT002
        """Stays in evaluation mode."""
        return super().train(mode=False)

    @torch.no_grad()
    def forward(self, images: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Unit patch features.

        Args:
            images: (B, 3, H, W), normalised with CLIP's mean and standard deviation.
            grid: (h, w), CLIP's patches.

        Returns:
            (B, h * w, C), behind the last LayerNorm, in float32.
        """
        size = [side * self.patch_size for side in grid]
        weight = next(self.model.parameters())
        images = (images * self.clip_std + self.clip_mean).clamp(0, 1)
        if list(images.shape[-2:]) != size:
            images = F.interpolate(images, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        with own_precision(weight):
            tokens = self.model.forward_features(((images - self.mean) / self.std).to(weight.dtype))
        return F.normalize(tokens[:, self.model.num_prefix_tokens :].float(), dim=-1)


def similarity_weights(features: torch.Tensor, mean: SimilarityMean = "image") -> torch.Tensor:
    """What a patch takes from the others: softmax over those that resemble it more than usual.

    Args:
        features: (B, L, C) unit vectors.
        mean: Over which similarities "usual" is taken: those of the ``"image"``, or of the ``"batch"`` as in the authors' code,
            where an image's result depends on its neighbours.

    Returns:
        (B, 1, L, L), rows add up to 1. A patch that resembles none, not even itself, more than usual keeps to itself.
    """
    similarity = features @ features.mT
    usual = similarity.mean(dim=(1, 2), keepdim=True) if mean == "image" else similarity.mean()
    centred = SCALE * (similarity - BETA * usual)
    itself = torch.eye(centred.shape[-1], dtype=torch.bool, device=centred.device)
    return centred.masked_fill((centred < 0) & ~itself, -torch.inf).softmax(dim=-1).unsqueeze(1)


def second_patches(visual: nn.Module, middle: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Patches in the joint space that the last block's values give under other attention weights, without residual.

    Args:
        visual: CLIP's image tower.
        middle: (B, L, W) patches of the last block between its attention and its MLP, where the authors' code takes them from.
        weights: (B, 1, L, L).

    Returns:
        (B, L, E), not normalised.
    """
    weight = visual.ln_post.weight
    with own_precision(weight):
        tokens = attention_output(visual.transformer.resblocks[-1], middle.to(weight.dtype), lambda q, k, v: weights)
        return project_tokens(visual, tokens)
