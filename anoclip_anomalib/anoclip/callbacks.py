"""Test-time adaptation as a Lightning callback."""

import inspect
import logging
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from anoclip_anomalib.anoclip.adapter import AdaptationSettings, TokenAdapter
from anoclip_anomalib.zeroshot.method import check_class
from anoclip_anomalib.zeroshot.text_model import TextModel

logger = logging.getLogger(__name__)


class TestTimeAdaptation(Callback):
    """AnoCLIP+: adapts the patch tokens of every image before they are scored, without any label.

    The callback puts an adapter into the model's seam when validation, test or prediction starts, and takes it out when it
    ends, also when it fails. Thresholds and normalisation are thus fitted on adapted maps; the image score, which comes from
    the class token, stays as it is (as in the authors' code). See :class:`AdaptationSettings` for the arguments.

    Args:
        adapter: ``text`` (MVTec AD pipeline) or ``linear`` (VisA pipeline).
        steps: Updates for each image.
        lr: Learning rate.
        noise_std: Standard deviation of the noise on the tokens.
        weight_decay: Of AdamW.
        residual: Share of the original tokens in the adapted ones.
        reset_optimizer: ``False`` is the authors' behaviour, whose results depend on the order of the images.
        seed: Of initial weights and noise.
        guard: Keep the unadapted map where adaptation did not help by its own loss or moved the map too far.
        guard_correlation: Smallest correlation between adapted and unadapted patch scores that the guard accepts.

    Raises:
        ValueError: If a setting is out of range.
    """

    __test__ = False  # pytest: a class that starts with "Test" and is none

    __signature__ = inspect.signature(AdaptationSettings)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.settings = AdaptationSettings(*args, **kwargs)
        self._losses: list[torch.Tensor] = []
        self._guarded = 0

    @property
    def changed_facts(self) -> dict[str, bool]:
        """What it changes of the facts that :class:`anoclip_anomalib.zeroshot.method.MethodFacts` names."""
        carried = not self.settings.reset_optimizer
        return {"adapts_on_test_images": True, "sees_other_test_images": carried, "order_dependent": carried}

    def attach(self, model: torch.nn.Module) -> None:
        """Put a fresh adapter into a model's seam; for use without Lightning.

        Args:
            model: An :class:`anoclip_anomalib.AnoClipModel` that knows its class.

        Raises:
            TypeError: If the model has no seam, as models of another kind and exported models.
            RuntimeError: If the model has no class yet, or another adapter.
        """
        check_seam(model)
        check_class(model)
        if model.adapter is not None:
            raise RuntimeError("The model has an adapter already; use one TestTimeAdaptation at a time")
        model.adapter = TokenAdapter(self.settings, model.text_embeddings, model.prompt_bank)

    @staticmethod
    def detach(model: torch.nn.Module) -> None:
        """Empty the model's seam."""
        model.adapter = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse models without a seam and a second instance before any image is read."""
        check_seam(getattr(pl_module, "model", pl_module))
        if sum(isinstance(callback, TestTimeAdaptation) for callback in trainer.callbacks) > 1:
            raise MisconfigurationException("Two TestTimeAdaptation callbacks were given; use one")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the adapter in."""
        self._losses, self._guarded = [], 0
        self.attach(pl_module.model)

    on_test_start = on_validation_start
    on_predict_start = on_validation_start

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Log the loss before and after, and name the images that could not be adapted."""
        adapter = pl_module.model.adapter
        if not isinstance(adapter, TokenAdapter) or adapter.report is None:
            return
        report, paths = adapter.report, getattr(batch, "image_path", None)
        for index in report.broken.nonzero().flatten().tolist():
            name = paths[index] if paths else f"image {index} of the batch"
            logger.warning("Adaptation of %s broke down (not finite); it keeps its unadapted map", name)
        losses = report.losses[:, ~report.broken].float().cpu()
        self._guarded += int(report.guarded.sum())
        if losses.shape[1] == 0:
            return
        self._losses.append(losses)
        before, after = losses[0].mean().item(), losses[-1].mean().item()
        logger.debug("Batch %d: adaptation loss %.6f before, %.6f after", batch_idx, before, after)
        for run_logger in trainer.loggers:
            run_logger.log_metrics({"adaptation_loss_before": before, "adaptation_loss_after": after}, step=batch_idx)

    on_test_batch_end = on_validation_batch_end
    on_predict_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the adapter out and log the run's loss curve."""
        self.detach(pl_module.model)
        if not self._losses:
            return
        losses = torch.cat(self._losses, dim=1)
        curve = losses.mean(dim=1).tolist()
        for run_logger in trainer.loggers:
            for step, value in enumerate(curve):
                run_logger.log_metrics({"adaptation_loss": value}, step=step)
        guarded = f"; the guard kept {self._guarded} unadapted" if self.settings.guard else ""
        logger.info("Adapted %d images, mean loss %.6f before, %.6f after%s", losses.shape[1], curve[0], curve[-1], guarded)

    on_test_end = on_validation_end
    on_predict_end = on_validation_end

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Take the adapter out of a run that failed."""
        model = getattr(pl_module, "model", None)
        if hasattr(model, "adapter"):
            self.detach(model)


def check_seam(model: object) -> None:
    """Raise a ``TypeError`` unless the model is one whose patch tokens can be adapted."""
    if not isinstance(model, TextModel) or not model.reads_text:
        raise TypeError(
            f"TestTimeAdaptation needs an AnoClip model, whose patch tokens it adapts; got {type(model).__name__}. Models of "
            "another kind have no place for the adapter, and exported ones (torch, ONNX, OpenVINO) cannot be optimised"
        )
