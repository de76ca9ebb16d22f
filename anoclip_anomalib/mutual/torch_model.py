"""Mutual scoring as a plain torch module: images against a saved pool, one by one."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from anomalib.data import InferenceBatch
from safetensors import safe_open
from safetensors.torch import save_file

from anoclip_anomalib.files import atomic_write
from anoclip_anomalib.mutual.patches import Patches, groups_of_sizes
from anoclip_anomalib.mutual.pool import FeaturePool, peaks
from anoclip_anomalib.mutual.scoring import LOWEST, counted, mean_of_lowest, one_sided, rescored
from anoclip_anomalib.zeroshot.features import Features
from anoclip_anomalib.zeroshot.method import MethodFacts
from anoclip_anomalib.zeroshot.neighbourhoods import check_neighbourhoods
from anoclip_anomalib.zeroshot.normal_reference import plain_scale, standard_evidence
from anoclip_anomalib.zeroshot.text_model import TextModel

_POOL = ("pool", "pool_images", "pool_tokens", "pool_scales")  # buffers, and tensors of a saved pool
_NO_POOL = (
    "There is no pool that single images could be scored against: run a test or a prediction, in which all images score each "
    "other, or build one (anoclip pool build FOLDER --out pool.safetensors) and name it (pool=pool.safetensors)"
)


class MutualModel(TextModel):
    """Images that score each other (MuSc, arXiv 2401.16753), on AnoCLIP's encoder pass.

    Args:
        depths: Blocks, counted from 1, whose patches are compared; ``None`` for the quarters of the encoder's depth.
        neighbourhoods: Sides of the neighbourhoods that they are averaged over.
        lowest: Share of the other images whose distances are averaged, the nearest ones.
        similar: Image scores are averaged over so many images with similar class tokens, and over these numbers.
        with_text: Fuse with AnoCLIP's text scores, on the scale of the pool.
        **arguments: See :class:`anoclip_anomalib.zeroshot.text_model.TextModel`.

    Attributes:
        pool: (V, N, T, L, W) features of a saved pool; empty without one.
        pool_images: (N,) image scores of the pool.
        pool_tokens: (N, D) class tokens of the pool.
        pool_scales: (4, 2) mean and standard deviation over the pool, of patches by text and by mutual scoring, and of images.

    Raises:
        ValueError: For an argument that is not usable.
    """

    float_buffers: tuple[str, ...] = (*TextModel.float_buffers, *_POOL)
    empty_is_absent = True
    pool: torch.Tensor
    pool_images: torch.Tensor
    pool_tokens: torch.Tensor
    pool_scales: torch.Tensor

    def __init__(
        self,
        *,
        neighbourhoods: Sequence[int] = (1, 3, 5),
        lowest: float = LOWEST,
        similar: Sequence[int] = (1, 2, 3),
        with_text: bool = False,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        if not 0 < lowest <= 1:
            raise ValueError(f"lowest={lowest} must be a share of the other images, greater than 0 and at most 1")
        if not similar or min(similar) < 1:
            raise ValueError(f"similar={list(similar)} must be numbers of images, 1 for the image alone")
        self.neighbourhoods, self.lowest, self.similar = check_neighbourhoods(neighbourhoods), lowest, tuple(similar)
        self.with_text = with_text
        for name in _POOL:
            self.register_buffer(name, torch.empty(0))

    @property
    def reads_text(self) -> bool:
        """Whether text has a say in the scores."""
        return self.with_text

    @property
    def has_pool(self) -> bool:
        """Whether single images can be scored."""
        return self.pool.numel() > 0

    @property
    def facts(self) -> MethodFacts:
        """What tables say about the method: without a saved pool, every result depends on the other test images."""
        name = "its name and " if self.with_text else ""
        if self.has_pool:
            return MethodFacts(category_data=f"{name}{self.pool.shape[1]} unlabelled images of a saved pool")
        return MethodFacts(category_data=f"{name}all test images, without labels", sees_other_test_images=True)

    @property
    def natural_threshold(self) -> None:
        """``None``: image scores lie between the lowest and the highest of the pool, whatever share of it is defective."""
        return None

    def encode(self, images: torch.Tensor, *, levels: bool = True) -> Features:
        """See :class:`TextModel`; levels are read unless it is said."""
        return super().encode(images, levels=levels)

    def score(self, features: Features) -> InferenceBatch:
        """Score images against the saved pool.

        Args:
            features: From :meth:`encode`.

        Returns:
            ``pred_score`` (B,), about [0, 1], and ``anomaly_map`` (B, 1, H, W), distances in [0, 2], or standard deviations
            with text.

        Raises:
            RuntimeError: If there is no pool, or with text no class.
            ValueError: If the images have other numbers of patches than the pool's.
        """
        if not self.has_pool:
            raise RuntimeError(_NO_POOL)
        assert features.levels is not None
        if features.levels.shape[2:] != self.pool.shape[2:]:
            raise ValueError(
                f"Images of {features.levels.shape[2]} x {features.levels.shape[3]} patches cannot be compared with a pool of "
                f"{self.pool.shape[2]} x {self.pool.shape[3]}: both need the same image size and tiling"
            )
        count = counted(self.pool.shape[1], self.lowest)
        groups = groups_of_sizes(self.neighbourhoods, self.pool.shape[-1], self.pool.device)
        found = []
        for (own, others), sizes in product(zip(features.levels, self.pool, strict=True), groups):
            images, pool = (Patches.of(levels, features.grid, sizes) for levels in (own, others))
            found.append(mean_of_lowest(one_sided(images, pool), count).float())
        patches = torch.cat(found).mean(dim=0).unflatten(1, features.levels.shape[2:4])
        text = self.text_scores(features) if self.with_text else None
        patches, scores = self.fused(patches, text, features, self.pool_scales)
        pooled = rescored(scores, features.image_tokens, self.similar, (self.pool_images, self.pool_tokens))
        return self.as_batch(patches, pooled.float(), features)

    @staticmethod
    def fused(
        patches: torch.Tensor, text: tuple[torch.Tensor, torch.Tensor] | None, features: Features, scales: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Patch scores (N, T, L), with text fused on the pool's scale, and the image scores (N,) that follow."""
        if text is None:
            return patches, peaks(patches, features.grid, features.layout.tile)
        patches = standard_evidence((text[0], patches), scales[:2])
        highest = peaks(patches, features.grid, features.layout.tile)
        return patches, standard_evidence((text[1], highest), scales[2:])

    @staticmethod
    def scales_of(patches: torch.Tensor, text: tuple[torch.Tensor, torch.Tensor], features: Features) -> torch.Tensor:
        """``pool_scales`` of a pool's patch scores (N, T, L) and text scores."""
        first = torch.stack([plain_scale(text[0]), plain_scale(patches)])
        highest = peaks(standard_evidence((text[0], patches), first), features.grid, features.layout.tile)
        return torch.stack([*first, plain_scale(text[1]), plain_scale(highest)])

    # A saved pool

    def save_pool(self, path: str | Path, pool: FeaturePool, images: torch.Tensor, scales: torch.Tensor) -> None:
        """Write a pool that single images can be scored against.

        Args:
            path: A ``.safetensors`` file.
            pool: The features; kept in half precision.
            images: (N,) image scores before they are averaged over similar images.
            scales: ``pool_scales``; empty without text.
        """
        tensors = {
            "pool": pool.levels.half().contiguous(),
            "pool_images": images.float(),
            "pool_tokens": torch.cat(pool.class_tokens),
            "pool_scales": scales.float(),
        }
        with atomic_write(path) as temporary:
            save_file(tensors, temporary, metadata={**self._pool_facts(), "backbone": self.backbone})

    def load_pool(self, path: str | Path) -> None:
        """Take over a saved pool.

        Raises:
            ValueError: If the file is no pool, or one of another encoder or other settings; the message says which.
        """
        if not Path(path).is_file():
            raise ValueError(f"No pool at {path}: build one with `anoclip pool build FOLDER --out {path}`")
        try:
            with safe_open(path, framework="pt") as file:
                saved = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in _POOL}
        except Exception as error:
            raise ValueError(f"{path} is no pool that `anoclip pool build` has written: {error}") from error
        for name, own in self._pool_facts().items():
            if saved.get(name, own if name == "architecture" else None) != own:  # earlier files do not tell it
                raise ValueError(
                    f"The pool {path} was made with another {name} ({saved.get(name)}; {saved.get('backbone')}), not {own}"
                )
        with torch.inference_mode(mode=False):
            for name in _POOL:
                setattr(self, name, tensors[name].float().to(self.pool.device))

    def _pool_facts(self) -> dict[str, str]:
        """What must be equal: the encoder, by its digest, and everything that decides the features."""
        return {
            "encoder": self.weights_digest,
            "architecture": self._clip.clip.architecture,
            "image_size": str(self.image_size),
            "tiling": self.tiling,
            "depths": str(self.depths),
            "neighbourhoods": str(self.neighbourhoods),
            "lowest": str(self.lowest),
            "class": str(self.class_name) if self.with_text else "none",
        }
