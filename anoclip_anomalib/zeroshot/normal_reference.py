"""What a few normal images tell: a memory of them, the common scale of several scores, and thresholds without labels."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from anoclip_anomalib.evaluation.thresholds import NormalThreshold, conformal_threshold
from anoclip_anomalib.zeroshot.buffers import FloatBuffers
from anoclip_anomalib.zeroshot.features import Features
from anoclip_anomalib.zeroshot.memory import PatchMemory, compare, greedy_coreset, nearest
from anoclip_anomalib.zeroshot.neighbourhoods import check_neighbourhoods, feature_sets

CLASS_WEIGHT = 0.25
"""Of the class token's evidence beside that of the patches, chosen on the generated demo data."""
TEXT_WEIGHT = 0.25
"""Of the text's, chosen there too."""


class NormalImage(NamedTuple):
    """A normal image, or a turned copy of one.

    Attributes:
        sets: (S, L, D) unit features of its L patches.
        class_token: (D',) unit vector.
        patch_text: (L,) scores of its patches by text.
        image_text: () score of the image by text.
    """

    sets: torch.Tensor
    class_token: torch.Tensor
    patch_text: torch.Tensor
    image_text: torch.Tensor


class LeftOut(NamedTuple):
    """Scores that N normal images get from each other.

    Attributes:
        scales: (5, 2) mean and standard deviation of normal scores: of patches by text (beyond their nearest normal patch's)
            and by memory, of images by text, by class token, and by their highest patches.
        images: (N,) fused image scores.
        peaks: (N,) each image's highest fused patch score.
    """

    scales: torch.Tensor
    images: torch.Tensor
    peaks: torch.Tensor


def standard_scale(values: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """Mean and standard deviation of few values.

    Of two or three values the standard deviation can be near zero by chance, and a score divided by it would drown all
    others: the variance of the patches counts as one more observation.

    Args:
        values: (N,).
        prior: () standard deviation of the patches in the same unit.

    Returns:
        (2,).
    """
    mean = values.mean()
    variance = (((values - mean) ** 2).sum() + prior**2) / len(values)
    return torch.stack([mean, variance.sqrt().clamp_min(1e-6)])


def joint_evidence(scores: Sequence[torch.Tensor], weights: Sequence[float] | None = None) -> torch.Tensor:
    """One score from several: the root of the mean square of what each says beyond what is normal.

    What is far from normal for one of them stays so, whatever the others say; what is a little unusual for all adds up.

    Args:
        scores: Of one shape, in standard deviations of normal scores.
        weights: Of their squares; ``None`` for equal ones, 0 leaves one out.

    Returns:
        The same shape, greater than 0, about 0.8 for normal ones.
    """
    weights = weights or (1.0,) * len(scores)
    total = sum(weight * F.softplus(one) ** 2 for weight, one in zip(weights, scores, strict=True))
    return (total / sum(weights)).sqrt()


def standard_evidence(
    values: Sequence[torch.Tensor], scales: torch.Tensor | Sequence[torch.Tensor], weights: Sequence[float] | None = None
) -> torch.Tensor:
    """:func:`joint_evidence` of raw values, for each of which a row of ``scales`` has the normal ones' mean and deviation."""
    return joint_evidence([(own - scale[0]) / scale[1] for own, scale in zip(values, scales, strict=True)], weights)


def plain_scale(values: torch.Tensor) -> torch.Tensor:
    """Mean and standard deviation of many values, (2,); see :func:`standard_scale` for few."""
    return torch.stack([values.mean(), values.std().clamp_min(1e-6)])


def highest_patches(patches: torch.Tensor) -> torch.Tensor:
    """An image's score from its patches: the mean of the highest hundredth, at least one: (B, L) -> (B,)."""
    return patches.topk(max(1, patches.shape[1] // 100), dim=1).values.mean(dim=1)


def leave_out_each(
    images: Sequence[NormalImage], copies: Sequence[Sequence[NormalImage]], text_weight: float = TEXT_WEIGHT
) -> LeftOut:
    """Score each normal image by the others alone.

    Args:
        images: N >= 2 normal images.
        copies: For each of them what a memory would hold: the image and its turned copies.
        text_weight: Of the text's evidence, see :func:`joint_evidence`.

    Returns:
        Scales and scores, in float32.
    """
    found = []
    for index, image in enumerate(images):
        rest = [copy for place, own in enumerate(copies) if place != index for copy in own]
        distance, text = compare(
            image.sets, torch.cat([copy.sets for copy in rest], dim=1), torch.cat([copy.patch_text for copy in rest])
        )
        tokens = torch.stack([copy.class_token for copy in rest])
        found.append((image.patch_text - text, distance, nearest(image.class_token, tokens).distance))
    text, memory, classes = zip(*found, strict=True)
    patch = [plain_scale(torch.cat(values)) for values in (text, memory)]
    fused = [standard_evidence(both, patch, (text_weight, 1.0)) for both in zip(text, memory, strict=True)]
    peaks = torch.stack([values.max() for values in fused])
    by_text = torch.stack([image.image_text for image in images])
    tops = torch.stack([highest_patches(values[None])[0] for values in fused])
    image_parts = [by_text, torch.stack(classes), tops]
    priors = [patch[0][1], patch[1][1], torch.cat(fused).std()]
    scales = [standard_scale(values, prior) for values, prior in zip(image_parts, priors, strict=True)]
    joint = standard_evidence(image_parts, scales, (text_weight, CLASS_WEIGHT, 1.0))
    return LeftOut(torch.stack([*patch, *scales]), joint, peaks)


def turned(image: torch.Tensor) -> list[torch.Tensor]:
    """The mirrored and turned copies of an image (3, H, W): seven of a square one, three of another."""
    copies = [image.flip(-1), image.flip(-2), image.flip(-1, -2)]
    if image.shape[-1] == image.shape[-2]:
        quarter = image.rot90(1, (-2, -1))
        copies += [quarter, quarter.flip(-1), quarter.flip(-2), quarter.flip(-1, -2)]
    return copies


class NormalReference(FloatBuffers):
    """Few normal images beside the text: the memory, and scores on one scale.

    Every score is expressed in standard deviations of what normal images get when each is left out; they are fused by
    :func:`joint_evidence`. Text scores follow what is to be seen, the part here and the table there, more than what is wrong
    with it: of a patch's text score only what exceeds that of its nearest normal patches counts. Nothing is tuned on test
    images.

    Args:
        depths: Blocks, counted from 1, whose patches are compared.
        neighbourhoods: Sides of the neighbourhoods that they are averaged over.
        coreset: Share of the patches that are kept; 1 for all.
        text_weight: Of the text's evidence, see :func:`joint_evidence`.
        false_alarms: Share of good images that the thresholds may call bad, if there are images enough to promise it.

    Attributes:
        memory: Their patches.
        class_tokens: (N, D) unit vectors of them and their copies.
        scales: See :class:`LeftOut`.
        left_out: (2, N) image scores and highest patch scores of the images when each is left out.

    Raises:
        ValueError: For a setting that cannot be used.
    """

    float_buffers = ("class_tokens", "scales", "left_out")
    empty_is_absent = True
    class_tokens: torch.Tensor
    scales: torch.Tensor
    left_out: torch.Tensor

    def __init__(
        self,
        depths: Sequence[int],
        neighbourhoods: Sequence[int] = (1, 3),
        coreset: float = 1.0,
        text_weight: float = TEXT_WEIGHT,
        false_alarms: float = 0.05,
    ) -> None:
        super().__init__()
        for name, value, fits in (("coreset", coreset, 0 < coreset <= 1), ("false_alarms", false_alarms, 0 < false_alarms < 1)):
            if not fits:
                raise ValueError(f"{name}={value} must be a share between 0 and 1")
        if not text_weight >= 0:
            raise ValueError(f"text_weight={text_weight} must be 0 or more")
        self.depths = tuple(depths)
        self.neighbourhoods = check_neighbourhoods(neighbourhoods)
        self.coreset, self.text_weight, self.false_alarms = coreset, text_weight, false_alarms
        self.memory = PatchMemory()
        for name in self.float_buffers:
            self.register_buffer(name, torch.empty(0))

    def __len__(self) -> int:
        """Number of normal images, 0 before :meth:`remember`."""
        return self.left_out.shape[1] if self.left_out.ndim == 2 else 0

    @property
    def size_in_bytes(self) -> int:
        """Size of everything that is remembered, in memory and in a checkpoint."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self.buffers())

    def describe(self, features: Features, patch_text: torch.Tensor, image_text: torch.Tensor) -> list[NormalImage]:
        """What to remember of B images.

        Args:
            features: With levels.
            patch_text: (B, T, L) scores of their patches by text.
            image_text: (B,) scores of them by text.
        """
        with torch.inference_mode(mode=False):
            sets, tokens = self._sets(features).clone(), self._class_tokens(features).clone()
            return [
                NormalImage(sets[:, index].flatten(1, 2), tokens[index], patch_text[index].flatten().clone(), score)
                for index, score in enumerate(image_text.clone())
            ]

    def remember(self, images: Sequence[NormalImage], copies: Sequence[Sequence[NormalImage]], *, keep_copies: bool) -> None:
        """Replace what is remembered.

        Args:
            images: N >= 1 normal images.
            copies: Their turned copies; needed of a single image, whose scale is told by comparing it with them.
            keep_copies: Whether the memory holds the copies too.

        Raises:
            ValueError: If there are no images, or one and no copies of it.
        """
        if not images or (len(images) == 1 and not copies[0]):
            raise ValueError("At least one normal image is needed, and its turned copies if it is the only one")
        alone = len(images) == 1
        compared = [images[0], *copies[0]] if alone else list(images)
        owned = [[image] for image in compared]
        if keep_copies and not alone:
            owned = [[image, *own] for image, own in zip(images, copies, strict=True)]
        kept = [image for own in owned for image in own] if keep_copies or not alone else list(images)
        with torch.inference_mode(mode=False):
            found = leave_out_each(compared, owned, self.text_weight)
            device = self.scales.device
            patches = torch.cat([image.sets for image in kept], dim=1)
            text = torch.cat([image.patch_text for image in kept])
            chosen = slice(None) if self.coreset == 1 else greedy_coreset(patches, self.coreset)
            self.memory.remember(patches[:, chosen], text[chosen])
            self.class_tokens = torch.stack([image.class_token for image in kept]).to(device)
            self.scales = found.scales.to(device)
            left_out = torch.stack([found.images, found.peaks])
            self.left_out = (left_out.amax(dim=1, keepdim=True) if alone else left_out).to(device)

    def forget(self) -> None:
        """Empty everything."""
        self.memory.forget()
        for name in self.float_buffers:
            setattr(self, name, getattr(self, name).new_empty(0))

    def forward(
        self, features: Features, patch_text: torch.Tensor, image_text: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Fuse the text's scores with the distances to the normal images.

        Args:
            features: Of B images, with levels.
            patch_text: (B, T, L) by text.
            image_text: (B,) by text.

        Returns:
            Patch scores (B, T, L) and image scores (B,), in standard deviations of normal ones, see :func:`joint_evidence`.
        """
        distance, text = self.memory(self._sets(features))
        patches = standard_evidence((patch_text - text, distance), self.scales[:2], (self.text_weight, 1.0))
        classes = nearest(self._class_tokens(features), self.class_tokens).distance
        image_parts = (image_text, classes, highest_patches(patches.flatten(1)))
        return patches, standard_evidence(image_parts, self.scales[2:], (self.text_weight, CLASS_WEIGHT, 1.0))

    @property
    def image_threshold(self) -> NormalThreshold:
        """The image score above which a good image is hardly expected, and how often it is."""
        return conformal_threshold(self.left_out[0].cpu().numpy(), self.false_alarms)

    @property
    def pixel_threshold(self) -> NormalThreshold:
        """The map value that the highest pixel of a good image is hardly expected above, and how often it is."""
        return conformal_threshold(self.left_out[1].cpu().numpy(), self.false_alarms)

    @property
    def ordinary(self) -> float:
        """The map value of a patch that is in every way like the average normal one."""
        return float(joint_evidence([torch.zeros(())]))

    def _sets(self, features: Features) -> torch.Tensor:
        assert features.levels is not None  # asked for by whoever encodes
        return feature_sets(features.levels, features.grid, self.neighbourhoods)

    @staticmethod
    def _class_tokens(features: Features) -> torch.Tensor:
        """(B, D) unit vectors: of the image itself, the mean over its tiles."""
        return F.normalize(features.image_tokens, dim=-1)


def set_thresholds(post_processor: nn.Module | None, reference: NormalReference) -> None:
    """Give anomalib's post-processor the thresholds of the normal images, which validation data may replace later.

    Scores are spread so that the lowest normal one becomes 0 and the threshold 0.5.
    """
    if not all(hasattr(post_processor, name) for name in ("_image_threshold", "_pixel_threshold", "image_min", "pixel_min")):
        return
    thresholds = {"image": reference.image_threshold.value, "pixel": reference.pixel_threshold.value}
    for (kind, threshold), scores in zip(thresholds.items(), reference.left_out, strict=True):
        lowest = min(float(scores.min()), threshold / 2)
        own = {f"_{kind}_threshold": threshold, f"{kind}_min": lowest, f"{kind}_max": 2 * threshold - lowest}
        for name, value in own.items():
            getattr(post_processor, name).fill_(value)
