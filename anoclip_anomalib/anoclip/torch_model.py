"""AnoCLIP as a plain torch module: images in, image score and pixel map out."""

from collections.abc import Sequence
from typing import Any

import torch
from anomalib.data import InferenceBatch

from anoclip_anomalib.zeroshot.features import Features
from anoclip_anomalib.zeroshot.method import MethodFacts, check_class
from anoclip_anomalib.zeroshot.normal_reference import TEXT_WEIGHT, NormalImage, NormalReference
from anoclip_anomalib.zeroshot.text_model import TextModel


class AnoClipModel(TextModel):
    """AnoCLIP without adaptation (arXiv 2308.15939): value attention, domain-aware prompts, cosine scores.

    Args:
        neighbourhoods: Sides of the neighbourhoods that the patches at ``depths`` are averaged over, to be compared with those
            of normal images. This and the next three have no effect without normal images.
        coreset: Share of the normal images' patches that are kept.
        text_weight: Of the text beside normal images, 0 for none.
        false_alarms: Share of good images that the thresholds may call bad.
        **arguments: See :class:`anoclip_anomalib.zeroshot.text_model.TextModel`: encoder, class, prompts, views, tiles,
            ``local_attention="value"``.

    Attributes:
        reference: The normal images; without any, text alone decides.

    Raises:
        ValueError: For an argument that is not usable.
    """

    def __init__(
        self,
        *,
        neighbourhoods: Sequence[int] = (1, 3),
        coreset: float = 1.0,
        text_weight: float = TEXT_WEIGHT,
        false_alarms: float = 0.05,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.reference = NormalReference(self.depths, neighbourhoods, coreset, text_weight, false_alarms)

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        """Score images.

        Args:
            images: (B, 3, H, W), normalised with CLIP's mean and standard deviation. H and W are multiples of the patch size;
                with tiling only the shorter of them needs to be.

        Returns:
            ``pred_score`` (B,) and ``anomaly_map`` (B, 1, H, W) in float32: probabilities of the anomalous class, near 0.5;
            with normal images standard deviations of normal scores, at least 0.

        Raises:
            RuntimeError: If no class was set.
            ValueError: If the image size does not fit the patch size.
        """
        check_class(self)
        return self.score(self.encode(images))

    def encode(self, images: torch.Tensor, *, levels: bool | None = None) -> Features:
        """Take images through the encoder, in one walk; ``levels`` are read if there are normal images, unless it is said."""
        return super().encode(images, levels=len(self.reference) > 0 if levels is None else levels)

    def score(self, features: Features) -> InferenceBatch:
        """Compare features with the class.

        Args:
            features: From :meth:`encode`.

        Returns:
            See :meth:`forward`.

        Raises:
            RuntimeError: If no class was set.
        """
        with torch.autocast(features.patch_tokens.device.type, enabled=False):
            patch_scores, image_score = self.text_scores(features)
            if len(self.reference):
                patch_scores, image_score = self.reference(features, patch_scores, image_score)
            return self.as_batch(patch_scores, image_score, features)

    def describe_normal(self, images: torch.Tensor) -> list[NormalImage]:
        """What to remember of normal images, for :meth:`NormalReference.remember`.

        Args:
            images: See :meth:`forward`.

        Raises:
            RuntimeError: If no class was set.
        """
        check_class(self)
        features = self.encode(images, levels=True)
        with torch.autocast(features.patch_tokens.device.type, enabled=False):
            return self.reference.describe(features, *self.text_scores(features))

    @property
    def facts(self) -> MethodFacts:
        """What tables say about the method."""
        count = len(self.reference)
        return MethodFacts(category_data=f"its name and {count} normal images") if count else MethodFacts()

    @property
    def natural_threshold(self) -> float | None:
        """0.5, where the two-way softmax is undecided; with normal images what they say."""
        return self.reference.image_threshold.value if len(self.reference) else 0.5
