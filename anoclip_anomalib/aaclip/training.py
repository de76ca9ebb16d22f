"""AA-CLIP's two stages as Lightning modules: text anchors first, then patch features towards them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from anoclip_anomalib.aaclip.adapters import ImageAdapters, TextAdapters, default_taps
from anoclip_anomalib.aaclip.scoring import TEMPERATURE, blur, segmentation_probability
from anoclip_anomalib.aaclip.settings import StageSettings
from anoclip_anomalib.aaclip.text import AnchorTrainer
from anoclip_anomalib.clip import LoadedClip, LocalPath, Tap, walk_image
from anoclip_anomalib.clip.local_attention import Attended, Heads, value_attention
from anoclip_anomalib.zeroshot.balanced_loss import (
    balanced_segmentation_loss,
    good_twins,
    peak_loss,
    peaks,
    ranking_loss,
    twin_heat_loss,
)
from anoclip_anomalib.zeroshot.losses import segmentation_loss
from anoclip_anomalib.zeroshot.scoring import upsample
from anoclip_anomalib.zeroshot.training import Batch, Levels, Training

DISENTANGLING = 0.1
"""Weight of the squared mean cosine of the two anchors in the first stage."""
LOCAL_SHARE = 19 / 24
"""Part of the blocks, the last ones, that attend value to value in the first stage."""


def batch_axis_value_attention(q: Heads, k: Heads, v: Heads) -> Attended:
    """Value attention among the images of the batch instead of the tokens of an image, as the authors' first stage does it.

    Their blocks get (L, B, D) and take the first axis for the batch: a token attends to the same place in the other images.
    """
    del q, k
    by_place = v.permute(2, 1, 0, 3)
    return Attended(F.scaled_dot_product_attention(by_place, by_place, by_place).permute(2, 1, 0, 3))


class Stage(Training):
    """What both stages share besides: sizes of batches, and what masks say about levels; see :class:`Training`."""

    settings: StageSettings

    def prepared(self, batch: Batch, batch_idx: int) -> Batch:
        """The batch in the size whose turn it is."""
        sizes = self.settings.sizes
        return scaled(batch, sizes[batch_idx % len(sizes)]) if sizes and "image" in batch else batch

    def segmentation_terms(
        self,
        levels: Sequence[torch.Tensor],
        anchors: torch.Tensor,
        batch: Batch,
        grid: tuple[int, int],
        size: tuple[int, int],
    ) -> dict[str, torch.Tensor]:
        """What the masks say about the levels; see :func:`segmentation_probability` for the shapes."""
        if self.settings.loss == "authors":
            probabilities = (segmentation_probability(level, anchors, grid, size) for level in levels)
            own = [segmentation_loss(probability, batch["mask"]) for probability in probabilities]
            return {"segmentation": torch.stack(own).sum()}
        direction = (anchors[:, 1] - anchors[:, 0]).unsqueeze(-1)
        logits = [TEMPERATURE * (level @ direction).mT.unflatten(2, grid) for level in levels]
        smooth = blur(torch.stack(logits).mean(dim=0))  # the map of test time
        maps = [upsample(one, size).squeeze(1) for one in (*logits, smooth)]
        own = [balanced_segmentation_loss(one, batch["mask"]) for one in maps]
        terms = {
            "segmentation": torch.stack(own[:-1]).mean() + own[-1],
            "peak": peak_loss(smooth.squeeze(1), batch["label"]),
        }
        if self.settings.pairs:
            good = good_twins(batch["pair"])
            twins = [twin_heat_loss(one, batch["mask"], good) for one in maps]
            order = ranking_loss(peaks(smooth.squeeze(1)), good)
            terms["twin"] = self.settings.pairs * (torch.stack(twins[:-1]).mean() + twins[-1] + order)
        return terms

    def detection_terms(self, vector: torch.Tensor, anchors: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """What the labels say about detection vectors (B, E), with anchors (B, 2, E)."""
        own = self.settings
        terms = {"detection": detection_loss(vector, anchors, batch["label"], own.detection_scale)}
        if own.pairs:
            verdict = own.detection_scale * (vector * (anchors[:, 1] - anchors[:, 0])).sum(dim=-1)
            terms["order"] = own.pairs * ranking_loss(verdict, good_twins(batch["pair"]))
        return terms | self.normal_aware_terms(vector, anchors, batch["label"], batch["class_index"], 1 / own.detection_scale)


def scaled(batch: Batch, side: int) -> Batch:
    """A batch with images and masks of another size; a mask keeps what covers at least half of a pixel."""
    if batch["image"].shape[-1] == side:
        return batch
    image = F.interpolate(batch["image"], size=(side, side), mode="bicubic", antialias=True, align_corners=False)
    mask = F.interpolate(batch["mask"].unsqueeze(1), size=(side, side), mode="bilinear", antialias=True)
    return {**batch, "image": image, "mask": (mask.squeeze(1) >= 0.5).to(batch["mask"].dtype)}


class TextStage(Stage):
    """Stage 1: the text half learns to tell normal from anomalous patches of the frozen image tower.

    Args:
        clip: The frozen CLIP.
        part: The text half, trained in place.
        descriptions: What the sentences say, one list for each class of the source.
        settings: How to train.
        reference: As the authors' code: the last level only, no image loss, value attention over the batch axis.
        checkpointing: See :class:`Stage`.
    """

    part: TextAdapters

    def __init__(
        self,
        clip: LoadedClip,
        part: TextAdapters,
        descriptions: Sequence[Sequence[str]],
        settings: StageSettings,
        *,
        reference: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(clip, part, settings, checkpointing=checkpointing)
        self.reference = reference
        self.text = AnchorTrainer(clip, descriptions, checkpointing=checkpointing)
        depth = len(clip.model.visual.transformer.resblocks)
        attention = batch_axis_value_attention if reference else value_attention
        self.local = LocalPath(attention=attention, blocks=round(depth * LOCAL_SHARE), with_mlp=True)
        first = depth + 1 - self.local.blocks
        blocks = (depth,) if reference else default_taps(depth)
        self.taps = [Tap(block=block, stream="local" if block >= first else "original") for block in blocks]

    @torch.no_grad()
    def features(self, images: torch.Tensor) -> Levels:
        """Levels of patch features with the class token added (B, L, E), the unit class token (B, E), and the grid.

        Patches are those of the value-attention tower in CLIP's joint space; both are unit vectors, their sum is not
        normalised again.
        """
        taps = [*self.taps, Tap(tokens="class")]
        tapped, grid = walk_image(self.visual_encoder.visual, images, taps, local=self.local)
        class_token = F.normalize(tapped[-1], dim=-1)
        return [F.normalize(level, dim=-1) + class_token.unsqueeze(1) for level in tapped[:-1]], class_token, grid

    def losses(self, batch: Batch, part: nn.Module) -> dict[str, torch.Tensor]:
        """Segmentation, disentangling and, unless ``reference``, the image loss."""
        size = (batch["mask"].shape[-2], batch["mask"].shape[-1])
        levels, class_token, grid = self.features_of(batch)
        anchors = self.text(part, batch["class_index"])
        with torch.autocast(anchors.device.type, enabled=False):
            anchors = anchors.float()
            apart = (anchors[:, 0] * anchors[:, 1]).sum(dim=-1).mean() ** 2
            terms = self.segmentation_terms(levels, anchors, batch, grid, size)
            terms["disentangling"] = DISENTANGLING * len(levels) * apart
            if not self.reference:
                terms |= self.detection_terms(class_token, anchors, batch)
        return terms


class ImageStage(Stage):
    """Stage 2: the image half learns to bring patches near the anchors, which stay as they are.

    Args:
        clip: The frozen CLIP.
        part: The image half, trained in place.
        anchors: (C, 2, E) of the classes of the source, from the first stage.
        settings: How to train.
        checkpointing: See :class:`Stage`.
    """

    part: ImageAdapters

    def __init__(
        self,
        clip: LoadedClip,
        part: ImageAdapters,
        anchors: torch.Tensor,
        settings: StageSettings,
        *,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(clip, part, settings, checkpointing=checkpointing)
        self.register_buffer("anchors", anchors.detach().clone(), persistent=False)

    def losses(self, batch: Batch, part: nn.Module) -> dict[str, torch.Tensor]:
        """Segmentation at every level, and the cross-entropy of the detection vector if there is something to learn in it."""
        size = (batch["image"].shape[-2], batch["image"].shape[-1])
        visual = self.visual_encoder.visual
        levels, detection, grid = part.read(visual, batch["image"], learning=True, checkpointing=self.checkpointing)
        with torch.autocast(batch["image"].device.type, enabled=False):
            anchors = self.anchors[batch["class_index"]].float()
            terms = self.segmentation_terms(levels, anchors, batch, grid, size)
            if not part.frozen_detection:
                terms |= self.detection_terms(detection, anchors, batch)
        return terms


def detection_loss(vector: torch.Tensor, anchors: torch.Tensor, label: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """Cross-entropy over the products with both anchors.

    Args:
        vector: (B, E).
        anchors: (B, 2, E), normal then anomalous.
        label: (B,) 1 where anomalous.
        scale: Of the products; the authors have no temperature.
    """
    return F.cross_entropy(scale * (anchors @ vector.unsqueeze(-1)).squeeze(-1), label.long())
