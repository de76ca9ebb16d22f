"""What the methods minimise, as Lightning modules: learned prompts, and linear heads with or without AdaCLIP's prompts."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from anoclip_anomalib.clip import LoadedClip, TextEncoder, TextTower, embed_class, embed_tokens
from anoclip_anomalib.promptlearning.hybrid_prompts import HybridLearner, embed_for_images
from anoclip_anomalib.promptlearning.linear_heads import LinearHeads
from anoclip_anomalib.promptlearning.local_patches import local_patches, tap_images
from anoclip_anomalib.promptlearning.methods import PromptMethod
from anoclip_anomalib.promptlearning.prompt_learner import PromptLearner, PromptTrainer
from anoclip_anomalib.promptlearning.scoring import image_feature
from anoclip_anomalib.promptlearning.second_encoder import SecondEncoder
from anoclip_anomalib.promptlearning.settings import LossChoice, PromptRecipe
from anoclip_anomalib.prompts.april_gan import ADACLIP_TEMPLATES, sentences
from anoclip_anomalib.zeroshot.losses import dice_loss, focal_loss
from anoclip_anomalib.zeroshot.scoring import differences, upsample
from anoclip_anomalib.zeroshot.training import Batch, Levels, Training


def segmentation_loss(
    method: PromptMethod, choice: LossChoice, level: torch.Tensor, text: torch.Tensor, mask: torch.Tensor, grid: tuple[int, int]
) -> torch.Tensor:
    """Focal and Dice loss of one level, in the method's order of softmax and upsampling.

    In training AdaCLIP takes the softmax of each level by itself.

    Args:
        method: Chooses temperature and order.
        choice: Chooses the terms and their weight.
        level: (B, L, E) unit patch features.
        text: (2, E) unit vectors, or (B, 2, E) of each image.
        mask: (B, H, W) of 0 and 1.
        grid: (h, w).
    """
    size = (mask.shape[-2], mask.shape[-1])
    logits = differences(level, text).unflatten(1, grid).unsqueeze(1) / method.temperature
    if method.order == "softmax last" and method.learned == "hybrid" or method.order == "softmax per level":
        anomalous = upsample(logits, size, align_corners=method.align_corners).sigmoid()
    elif choice.nearest:
        anomalous = F.interpolate(logits.sigmoid(), size=size, mode="nearest")
    else:
        anomalous = upsample(logits.sigmoid(), size, align_corners=method.align_corners)
    own = anomalous.squeeze(1)
    loss = focal_loss(torch.stack([1 - own, own], dim=1), mask)
    items, truth = (own.flatten(0, 1), mask.flatten(0, 1)) if choice.rows else (own, mask)
    loss = loss + dice_loss(items, truth)
    if choice.normal_dice:
        loss = loss + dice_loss(1 - items, 1 - truth)
    return choice.segmentation * loss


def knowledge_loss(text: torch.Tensor, knowledge: torch.Tensor, margin: float) -> torch.Tensor:
    """Pull the abnormal prompt to what is known to be wrong with products, and push it from the normal one.

    ``1 - cos(t_a, k) + relu(cos(t_a, t_n) - margin)``; ours, after an idea of KAnoCLIP, whose formula is not public.

    Args:
        text: (2, E) unit vectors, or (B, 2, E) of each image.
        knowledge: (B, E) unit vectors, the mean description of the defects of each image's product.
        margin: Cosine from which on both prompts are pushed apart.
    """
    normal, anomalous = text[..., 0, :], text[..., 1, :]
    pull = 1 - (anomalous * knowledge).sum(dim=-1)
    push = F.relu((anomalous * normal).sum(dim=-1) - margin)
    return pull.mean() + push.mean()


class PromptTraining(Training):
    """AnomalyCLIP, Crane and Crane+: tokens are learned, images are read by the frozen tower.

    Args:
        clip: The frozen CLIP.
        part: What is learned, trained in place.
        recipe: How to train.
        second: Crane+'s second encoder.
        knowledge: (C, E) unit vectors for the classes of the source, to regularise by.
    """

    part: PromptLearner

    def __init__(
        self,
        clip: LoadedClip,
        part: PromptLearner,
        recipe: PromptRecipe,
        *,
        second: SecondEncoder | None = None,
        knowledge: torch.Tensor | None = None,
    ) -> None:
        super().__init__(clip, part, recipe.training)
        self.method, self.recipe, self.second = recipe.choice, recipe, second
        self.text = PromptTrainer(clip, part, image_token=self.method.image_token)
        self.register_buffer("knowledge", knowledge, persistent=False)

    @torch.no_grad()
    def features(self, images: torch.Tensor) -> Levels:
        """Unit patches of each level, unit class tokens and the grid: constant, so that they may be kept on disk."""
        return local_patches(self.visual_encoder.visual, images, self.method, self.second)

    def losses(self, batch: Batch, part: nn.Module) -> dict[str, torch.Tensor]:
        """Segmentation summed over the levels, cross-entropy of the image, and the knowledge term if there is one."""
        assert isinstance(part, PromptLearner)
        method, choice = self.method, self.recipe.loss
        levels, class_token, grid = self.features_of(batch)
        text = self.text(part, class_token)
        with torch.autocast(text.device.type, enabled=False):
            text, levels = text.float(), [level.float() for level in levels]
            own = [segmentation_loss(method, choice, level, text, batch["mask"], grid) for level in levels]
            feature = image_feature(method, levels, class_token.float(), text)
            logits = differences(feature, text) / choice.image_temperature
            # The cross-entropy of two logits is that of their difference.
            image = F.binary_cross_entropy_with_logits(logits, batch["label"].float())
            terms = {"segmentation": torch.stack(own).sum(), "image": choice.image * image}
            one = torch.zeros_like(batch["class_index"])  # the prompts know no classes
            terms |= self.normal_aware_terms(feature, text, batch["label"], one, choice.image_temperature)
            if self.knowledge is not None:
                known = self.knowledge.float()[batch["class_index"]]
                terms["knowledge"] = self.recipe.knowledge_weight * knowledge_loss(text, known, self.recipe.knowledge_margin)
        return terms


class HeadTraining(Training):
    """APRIL-GAN and AdaCLIP: linear heads on taps, and AdaCLIP's prompts in both towers.

    Args:
        clip: The frozen CLIP.
        part: What is learned, trained in place.
        recipe: How to train.
        classes: Of the source, as the sentences shall name them.
    """

    part: LinearHeads

    def __init__(self, clip: LoadedClip, part: LinearHeads, recipe: PromptRecipe, classes: Sequence[str]) -> None:
        super().__init__(clip, part, recipe.training)
        self.method, self.recipe = recipe.choice, recipe
        self.tower: TextTower | None = None
        self.sentences: list[tuple[torch.Tensor, torch.Tensor, int]] = []
        if self.method.text_is_static:
            text = [embed_class(TextEncoder(clip), *sentences(name), mean="after_norm").class_embeddings for name in classes]
            self.register_buffer("static_text", torch.stack(text), persistent=False)
            return
        self.tower = TextTower(clip.text_tower).requires_grad_(requires_grad=False)
        for name in classes:
            normal, abnormal = sentences(name.replace("-", " "), ADACLIP_TEMPLATES)
            embeddings, ends = embed_tokens(clip.text_tower, clip.tokenize([*normal, *abnormal]))
            self.sentences.append((embeddings.detach(), ends, len(normal)))

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam, for AdaCLIP AdamW."""
        own, decay = self.settings, self.recipe.loss.weight_decay
        if not decay:
            return super().optimizer()
        return torch.optim.AdamW(self.part.parameters(), lr=own.lr, betas=own.betas, weight_decay=decay)

    @torch.no_grad()
    def features(self, images: torch.Tensor) -> Levels:
        """Raw patches at the taps, class tokens and the grid; constant where the tower has no prompts.

        Raises:
            ValueError: If they depend on what is trained.
        """
        if not self.method.text_is_static:
            raise ValueError(f"The image tower of {self.method.title} is trained: its features cannot be kept")
        read = tap_images(self.visual_encoder.visual, images, self.method, self.part)
        return read.tapped, read.class_token, read.grid

    def losses(self, batch: Batch, part: nn.Module) -> dict[str, torch.Tensor]:
        """Segmentation summed over the levels, and AdaCLIP's focal loss of the image."""
        assert isinstance(part, LinearHeads)
        method, choice = self.method, self.recipe.loss
        condition = None
        if isinstance(part, HybridLearner):
            tapped, class_token, condition, grid = tap_images(self.visual_encoder.visual, batch["image"], method, part)
        else:
            tapped, class_token, grid = self.features_of(batch)
        with torch.autocast(class_token.device.type, enabled=False):
            levels = part.levels(tapped)
            text = self._text(part, condition, batch["class_index"])
            own = [segmentation_loss(method, choice, level, text, batch["mask"], grid) for level in levels]
            terms = {"segmentation": torch.stack(own).sum()}
            if isinstance(part, HybridLearner):
                feature = image_feature(method, levels, F.normalize(part.class_token(class_token.float()), dim=-1), text)
                anomalous = (differences(feature, text) / choice.image_temperature).sigmoid()
                probability = torch.stack([1 - anomalous, anomalous], dim=1)[..., None, None]
                terms["image"] = choice.image * focal_loss(probability, batch["label"].float()[:, None, None])
                temperature = choice.image_temperature
                terms |= self.normal_aware_terms(feature, text, batch["label"], batch["class_index"], temperature)
        return terms

    def _text(self, part: LinearHeads, condition: torch.Tensor | None, index: torch.Tensor) -> torch.Tensor:
        """(B, 2, E) for the classes of the images of a batch."""
        if not isinstance(part, HybridLearner):
            return self.static_text[index]
        assert condition is not None
        assert self.tower is not None
        prompts = part.text_prompts(condition.float())
        found = []
        for place, number in enumerate(index.tolist()):  # each image has prompts of its own
            embeddings, ends, normal = self.sentences[number]
            one = prompts[:, place : place + 1]
            found.append(embed_for_images(self.tower, embeddings.to(one.device), ends.to(one.device), normal, one))
        return torch.cat(found)
