"""AA-CLIP as a plain torch module: images in, image score and pixel map out."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple, get_args

import torch
import torch.nn.functional as F
from anomalib.data import InferenceBatch

from anoclip_anomalib.aaclip.adapters_file import load_adapters
from anoclip_anomalib.aaclip.scoring import BLUR_KERNEL, BLUR_SIGMA, TEMPERATURE, blur, level_difference, rescale
from anoclip_anomalib.aaclip.settings import Mode, usable_scales
from anoclip_anomalib.aaclip.text import embed_anchors
from anoclip_anomalib.checks import refuse
from anoclip_anomalib.clip import LoadedClip, VisualEncoder
from anoclip_anomalib.prompts.aaclip import Descriptions, described, is_described
from anoclip_anomalib.zeroshot.clip_model import ClipModel
from anoclip_anomalib.zeroshot.features import check_images
from anoclip_anomalib.zeroshot.method import MethodFacts, check_class, weights_digest
from anoclip_anomalib.zeroshot.scoring import upsample

NO_ADAPTERS = (
    "AaClip needs adapters: a file that `anoclip train aaclip` or `anoclip convert aaclip` wrote (adapters=FILE), or "
    "adapters=demo for those that come with the package, which belong to the small demo encoder"
)


IMAGE_WEIGHT = 0.5
"""The authors' share of the detection vector in the image score."""


class AaClipFeatures(NamedTuple):
    """What is read from a batch of images.

    Attributes:
        levels: For each scale, and in it for each tap, (B, h * w, E) unit patch features.
        detection: (B, E), the mean of unit vectors, not normalised again.
        grids: (h, w) of each scale.
        size: (H, W) of the images.
    """

    levels: tuple[torch.Tensor, ...]
    detection: torch.Tensor
    grids: tuple[tuple[int, int], ...]
    size: tuple[int, int]


class ScoreRange(NamedTuple):
    """Smallest and largest value over the images of a class: of the maps, and of the detection scores."""

    map_low: torch.Tensor
    map_high: torch.Tensor
    score_low: torch.Tensor
    score_high: torch.Tensor

    @classmethod
    def of(cls, maps: torch.Tensor, scores: torch.Tensor) -> "ScoreRange":
        """The range of (B, 1, h, w) maps and (B,) scores."""
        return cls(maps.min(), maps.max(), scores.min(), scores.max())


class AaClipModel(ClipModel):
    """AA-CLIP with learned adapters (arXiv 2503.06661): anchors from the adapted text tower, patches adapted to them.

    In mode ``"clean"`` a score depends on nothing but its image: maps are ``sigmoid`` of the mean difference of the cosines
    over the levels (no temperature, as in AnoCLIP: values near 0.5), the image score is a mean of the map's maximum and the
    same of the detection vector. In mode ``"reference"`` scores are the authors' (``test.py``): sums over levels at CLIP's
    temperature, then *class-wise* min-max over all test images, ``0.5 * max(map) + 0.5 * detection``. That is transductive:
    without a :attr:`score_range`, which the Lightning model takes from a pass over the class's test images, it is the range
    of the images of one call.

    Args:
        adapters: File of ``anoclip train aaclip`` or ``anoclip convert aaclip``, or ``"demo"`` for the bundled ones.
        backbone: See :func:`anoclip_anomalib.clip.load_clip`; ``None`` for the one that the adapters were made for.
        pretrained: See there; ``None`` likewise.
        class_name: The product. ``None``: :meth:`set_class` must be called before use.
        description: What the prompts say instead of the class name: a text, several (they are averaged), or a mapping from
            class to these. ``None`` for the authors' descriptions where there is one.
        image_size: Side of the square, or (height, width); ``None`` for the size of the training.
        mode: ``"clean"`` or ``"reference"``; ``None`` for the mode of the training.
        activation: See :func:`load_clip`; ``None`` for that of the training.
        image_weight: Share of the detection vector in the image score; the map's maximum has the rest (the authors' code: 0.5,
            medical images 0). ``None`` for 0.5, or in mode ``"clean"`` for what the adapters were trained to.
        scales: Of the image size, at which an image is read; maps and detection vectors are averaged. Ours, and of mode
            ``"clean"`` alone. ``None`` for those that the adapters' file names, else 1.
        blur_kernel: Side of the Gaussian on the patch grid, in patches, odd; 1 for none.
        blur_sigma: Its standard deviation, in patches.
        precision: Of the image encoder; what follows it is computed in float32.
        encode_batch_size: Images that go through the encoder at once; no effect on the result.
        text_cache_dir: Folder for text embeddings; ``None`` for the user's cache folder.
        clip: A CLIP that is loaded already, instead of ``backbone`` and ``pretrained``.

    Attributes:
        text_embeddings: (2, E) anchors, normal then anomalous; empty before a class is set.
        class_name: The class that they were made for.
        training_facts: What the adapters were trained on.
        score_range: In mode ``"reference"`` the range over the class's test images; ``None``: the images of a call.

    Raises:
        ValueError: For an argument that is not usable, and for adapters of another backbone, activation or run.
    """

    natural_threshold = 0.5

    def __init__(
        self,
        *,
        adapters: str | Path | None,
        backbone: str | None = None,
        pretrained: str | None = None,
        class_name: str | None = None,
        description: str | Sequence[str] | Descriptions | None = None,
        image_size: int | tuple[int, int] | None = None,
        mode: Mode | None = None,
        activation: str | None = None,
        image_weight: float | None = None,
        scales: Sequence[float] | None = None,
        blur_kernel: int = BLUR_KERNEL,
        blur_sigma: float = BLUR_SIGMA,
        precision: str = "float32",
        encode_batch_size: int = 64,
        text_cache_dir: str | Path | None = None,
        clip: LoadedClip | None = None,
    ) -> None:
        super().__init__()
        if not adapters:
            raise ValueError(NO_ADAPTERS)
        _check(mode, image_weight, blur_kernel, blur_sigma, encode_batch_size)
        loaded = load_adapters(adapters)
        self.training_facts = loaded.facts
        self.mode: Mode = mode or loaded.facts.mode  # type: ignore[assignment]
        trained = loaded.facts.settings if self.mode == "clean" else {}
        self.scales = tuple(trained.get("scales", (1,)) if scales is None else scales)
        if not usable_scales(self.scales, reference=self.mode == "reference"):
            raise ValueError(
                f"scales={list(self.scales)} must be numbers from 0.5 to 2, shares of the image size; in mode 'reference' 1 "
                "alone, as the authors' code reads an image once"
            )
        loaded.check_backbone(backbone, activation)
        clip, size = loaded.clip_for(clip, pretrained, image_size)
        loaded.check_clip(clip)
        self._text_half = (loaded.text.requires_grad_(requires_grad=False),)  # no submodule, like the CLIP itself
        self.image_adapters = loaded.image.requires_grad_(requires_grad=False)
        encoder = VisualEncoder(clip.visual_tower(precision), local_blocks=0)
        self.take_clip(clip, encoder, size, encode_batch_size, text_cache_dir)
        self.provenance |= {"adapters": loaded.origin, "adapters_digest": loaded.digest, "mode": self.mode}
        self.weights_digest = weights_digest(clip, loaded.tensors)
        self.description = description
        self.image_weight = float(trained.get("image_weight", IMAGE_WEIGHT)) if image_weight is None else image_weight
        self.blur_kernel, self.blur_sigma = blur_kernel, blur_sigma
        self.score_range: ScoreRange | None = None
        if class_name is not None:
            self.set_class(class_name)

    @property
    def facts(self) -> MethodFacts:
        """What tables say about the method."""
        by_hand = self.class_name is not None and is_described(self.class_name, self._descriptions(self.class_name))
        return MethodFacts(
            auxiliary_data=self.training_facts.auxiliary_data,
            category_data="a description written by hand" if by_hand else "its name",
            sees_other_test_images=self.mode == "reference",
        )

    def _descriptions(self, class_name: str) -> Descriptions | None:
        own = self.description
        return own if own is None or isinstance(own, Mapping) else {class_name: own}

    def set_class(self, class_name: str) -> None:
        """Compute the anchors of a class, or take the text tower's part of it from the cache.

        Args:
            class_name: The product, as the data set names it. If nobody described it, the prompts use the name itself,
                which is logged.

        Raises:
            ValueError: If the name or a description is empty.
        """
        descriptions = described(class_name, self._descriptions(class_name), known=class_name == self.class_name)
        with torch.inference_mode(mode=False):
            anchors = embed_anchors(self._clip.clip, self._text_half[0], descriptions, cache_dir=self.text_cache_dir)
        self.text_embeddings = anchors.to(self.text_embeddings.device)
        self.class_name = class_name
        self.score_range = None

    def encode(self, images: torch.Tensor) -> AaClipFeatures:
        """Read images.

        Args:
            images: (B, 3, H, W), normalised with CLIP's mean and standard deviation; H and W multiples of the patch size.

        Raises:
            ValueError: If they are no colour images, or their size does not fit the patch size.
        """
        check_images(images)
        parts = [self._encode(batch) for batch in self._batches(images)]
        levels = tuple(torch.cat(level) for level in zip(*(part.levels for part in parts), strict=True))
        return AaClipFeatures(levels, torch.cat([part.detection for part in parts]), parts[0].grids, parts[0].size)

    def _encode(self, images: torch.Tensor) -> AaClipFeatures:
        size = (images.shape[-2], images.shape[-1])
        read = [self.image_adapters.read(self.visual_encoder.visual, self._scaled(images, scale)) for scale in self.scales]
        levels, detections, grids = zip(*read, strict=True)
        return AaClipFeatures(tuple(chain(*levels)), torch.stack(detections).mean(dim=0), grids, size)

    def _scaled(self, images: torch.Tensor, scale: float) -> torch.Tensor:
        """Images (B, 3, H, W) at a scale, in whole patches."""
        if scale == 1:
            return images
        patch = self.visual_encoder.patch_size
        size = [max(1, round(scale * side / own)) * own for side, own in zip(images.shape[-2:], patch, strict=True)]
        # Down to a half, bilinear weights reach every pixel; antialiasing is not in every export format.
        return F.interpolate(images, size=size, mode="bilinear", align_corners=False)

    def score(self, features: AaClipFeatures) -> InferenceBatch:
        """Score what was read from images.

        Returns:
            ``pred_score`` (B,) and ``anomaly_map`` (B, 1, H, W), float32.

        Raises:
            RuntimeError: If no class was set.
        """
        maps, detection = self.raw_scores(features)
        if self.mode == "reference":
            bounds = self.score_range or ScoreRange.of(maps, detection)
            maps = rescale(maps, bounds.map_low, bounds.map_high)
            detection = rescale(detection, bounds.score_low, bounds.score_high)
        pred_score = self.image_weight * detection + (1 - self.image_weight) * maps.flatten(1).amax(dim=1)
        return InferenceBatch(pred_score=pred_score, anomaly_map=maps)

    def raw_scores(self, features: AaClipFeatures) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps (B, 1, H, W) and detection scores (B,) before any normalisation over a class.

        Clean: ``sigmoid`` of cosine differences. Reference: the sum over levels of ``(100 cos_a + 1 - 100 cos_n) / 2``, and
        ``(d . t_a + 1) / 2``, which leaves the normal anchor out.

        Raises:
            RuntimeError: If no class was set.
        """
        check_class(self)
        with torch.autocast(features.detection.device.type, enabled=False):
            anchors = self.text_embeddings.float()
            taps, maps = len(self.image_adapters.taps), []
            for number, grid in enumerate(features.grids):
                levels = features.levels[number * taps : (number + 1) * taps]
                grid_map = level_difference(levels, anchors).unflatten(1, grid).unsqueeze(1)
                if self.mode == "reference":
                    grid_map = taps * (TEMPERATURE * grid_map + 1) / 2
                maps.append(upsample(blur(grid_map, self.blur_kernel, self.blur_sigma), features.size))
            mean = torch.stack(maps).mean(dim=0)
            if self.mode == "reference":
                return mean, (features.detection @ anchors[1] + 1) / 2
            return mean.sigmoid(), (features.detection @ (anchors[1] - anchors[0])).sigmoid()


def _check(mode: str | None, image_weight: float | None, blur_kernel: int, blur_sigma: float, encode_batch_size: int) -> None:
    faults = {
        f"mode={mode!r} is unknown; choose 'clean' or 'reference'": mode not in (None, *get_args(Mode)),
        f"image_weight={image_weight} must lie in [0, 1]": image_weight is not None and not 0 <= image_weight <= 1,
        f"blur_kernel={blur_kernel} must be an odd number of patches, 1 for no blur": blur_kernel < 1 or blur_kernel % 2 == 0,
        f"blur_sigma={blur_sigma} must be greater than 0": not blur_sigma > 0,
        f"encode_batch_size={encode_batch_size} must be at least 1": encode_batch_size < 1,
    }
    refuse(faults)
