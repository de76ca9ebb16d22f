"""Training a small part beside a frozen CLIP: optimiser, schedule, moving average, and what checkpoints hold."""

import copy
from math import cos, pi
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from anoclip_anomalib.clip import LoadedClip, VisualEncoder
from anoclip_anomalib.clip.state_dict import check_finite
from anoclip_anomalib.zeroshot.losses import normal_aware_loss
from anoclip_anomalib.zeroshot.training_settings import TrainingSettings

LOWEST_RATE = 0.02
"""What is left of the learning rate at the end of the cosine schedule."""

Batch = dict[str, torch.Tensor]
Levels = tuple[list[torch.Tensor], torch.Tensor, tuple[int, int]]
"""Levels of patch features (B, L, E), class tokens (B, E) and the grid (h, w)."""


class Training(LightningModule):
    """What is trained beside a frozen CLIP: the frozen CLIP, which checkpoints leave out, the optimiser and the schedule.

    Args:
        clip: The frozen CLIP.
        part: What is trained, in place.
        settings: How to train.
        checkpointing: Compute blocks again in the backward pass instead of keeping their activations.

    Attributes:
        part: What is trained.
        text: Encodes text during the training, with the attribute ``tower``, if that is done.
        result: The same, or its moving average over the steps where ``settings.average`` asks for it.
    """

    strict_loading = False
    text: Any = None

    def __init__(self, clip: LoadedClip, part: nn.Module, settings: TrainingSettings, *, checkpointing: bool = False) -> None:
        super().__init__()
        self.settings, self.checkpointing = settings, checkpointing
        self.visual_encoder = VisualEncoder(clip.visual_tower(), local_blocks=0).requires_grad_(requires_grad=False)
        self.part = part
        # Lightning's own callback would average, and so copy, the frozen towers too.
        self.averaged = AveragedModel(part, multi_avg_fn=get_ema_multi_avg_fn(settings.average)) if settings.average else None
        if self.averaged is not None:
            self.averaged.requires_grad_(requires_grad=False)

    @property
    def result(self) -> nn.Module:
        """What a checkpoint's user gets."""
        return self.part if self.averaged is None else self.averaged.module

    def setup(self, stage: str) -> None:
        """Give the text tower, which others share, a copy of its own where it has to move to another device."""
        device = self.trainer.strategy.root_device
        if self.text is not None and device.type != "cpu":
            self.text.tower = copy.deepcopy(self.text.tower).to(device)

    def losses(self, batch: Batch, part: nn.Module) -> dict[str, torch.Tensor]:
        """Terms of the loss by name; their sum is what is minimised."""
        raise NotImplementedError

    def features(self, images: torch.Tensor) -> Levels:
        """What the frozen image tower says about images (B, 3, H, W), where it is constant and may be kept on disk."""
        raise NotImplementedError

    def features_of(self, batch: Batch) -> Levels:
        """The same of a batch, which has images, or what was kept of them."""
        if "levels" not in batch:
            return self.features(batch["image"])
        height, width = batch["grid"][0].tolist()
        return list(batch["levels"].float().unbind(1)), batch["class_token"], (height, width)

    def normal_aware_terms(
        self, feature: torch.Tensor, text: torch.Tensor, label: torch.Tensor, index: torch.Tensor, temperature: float
    ) -> dict[str, torch.Tensor]:
        """The weighted term of :func:`anoclip_anomalib.zeroshot.losses.normal_aware_loss`, if the settings ask for it."""
        weight = self.settings.normal_aware
        return {"normal_aware": weight * normal_aware_loss(feature, text, label, index, temperature)} if weight else {}

    def prepared(self, batch: Batch, batch_idx: int) -> Batch:
        """The batch as it is trained on; nothing is changed here."""
        del batch_idx
        return batch

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """One step.

        Raises:
            FloatingPointError: If the loss is not finite, in any process; the checkpoints of earlier epochs stay.
        """
        batch = self.prepared(batch, batch_idx)
        terms = self.losses(batch, self.part)
        loss = torch.stack(list(terms.values())).sum()
        faults = (~torch.isfinite(loss.detach())).float()
        if self.trainer.strategy.reduce(faults, reduce_op="sum") > 0:
            raise FloatingPointError(
                f"The loss is not finite in epoch {self.current_epoch + 1}, step {batch_idx + 1} "
                f"({', '.join(f'{name} {term.item():.4g}' for name, term in terms.items())}); the training stops and the "
                "checkpoints of earlier epochs are kept. A smaller learning rate, or precision 32, may help"
            )
        parts = {f"{name}_loss": term.detach() for name, term in terms.items()}
        self.log_dict(
            {"loss": loss.detach(), **parts}, prog_bar=True, on_step=True, on_epoch=True, batch_size=len(batch["mask"])
        )
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Let the average follow."""
        del outputs, batch
        if self.averaged is not None and (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0:
            self.averaged.update_parameters(self.part)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The loss on the held-out part of the source."""
        del batch_idx
        loss = torch.stack(list(self.losses(batch, self.result).values())).sum()
        self.log("held_out_loss", loss, prog_bar=True, sync_dist=True, batch_size=len(batch["mask"]))

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam over the trained part."""
        return torch.optim.Adam(self.part.parameters(), lr=self.settings.lr, betas=self.settings.betas)

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimiser, its rate changing by step."""
        own, optimizer = self.settings, self.optimizer()
        total = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(own, step, int(total)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def epoch_losses(self) -> dict[str, float]:
        """Means over the epoch that has just ended, by name, the held-out loss among them if there is one."""
        found = self.trainer.callback_metrics.items()
        return {
            name.removesuffix("_epoch"): float(value)
            for name, value in found
            if name.endswith("_epoch") or name == "held_out_loss"
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen towers out, keep the held-out loss, and refuse weights that are not finite."""
        kept = ("part.", "averaged.")
        state = {name: tensor for name, tensor in checkpoint["state_dict"].items() if name.startswith(kept)}
        check_finite(state, f"The model after epoch {self.current_epoch + 1}")
        checkpoint["state_dict"] = state
        checkpoint["losses"] = self.epoch_losses()


def rate(settings: TrainingSettings, step: int, total: int) -> float:
    """Share of the learning rate at a step of ``total``."""
    share = min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
    if settings.schedule == "milestones":
        return share * 0.5 ** sum(step >= milestone for milestone in settings.milestones)
    if settings.schedule == "cosine":
        fallen = max(0.0, (min(step / max(total, 1), 1.0) - settings.hold) / (1 - settings.hold))
        return share * (LOWEST_RATE + (1 - LOWEST_RATE) * (1 + cos(pi * fallen)) / 2)
    return share
