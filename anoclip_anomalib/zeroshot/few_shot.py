"""Handing normal images to a model at the right time in anomalib: before it scores, once for each choice of images."""

import logging
import os
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from anoclip_anomalib.data import read_image
from anoclip_anomalib.zeroshot import normal_images
from anoclip_anomalib.zeroshot.normal_reference import NormalImage, NormalReference, set_thresholds, turned

logger = logging.getLogger(__name__)
_KEY = "normal_images"  # in checkpoints


class FewShot:
    """Fills the memory of a Lightning model whose torch model has ``describe_normal`` and ``reference``.

    Args:
        folder: With normal images.
        k: Or how many of the training split.
        seed: Which of them; ``None`` for the run's seed.
        turned: Remember turned copies too.

    Raises:
        ValueError: If both a folder and k are given, k is negative, or there is no such folder.
    """

    def __init__(self, folder: str | None = None, k: int = 0, seed: int | None = None, *, turned: bool = False) -> None:
        if k < 0 or (folder is not None and k > 0):
            raise ValueError(f"Give normal_images=FOLDER or k_shot, 0 or more, not both; got k_shot={k}")
        if folder is not None:
            normal_images.images_of_folder(folder)
        self.folder, self.k, self.seed, self.turned = folder, k, seed, turned
        self._remembered: list[str] | None = None
        self._class_name: str | None = None
        self._scores: list[torch.Tensor] = []

    @property
    def asked(self) -> bool:
        """Whether normal images were asked for."""
        return self.folder is not None or self.k > 0

    def prepare(self, module: Any) -> None:
        """Fill the memory, set thresholds, and check that no image to be scored is in it.

        Args:
            module: The Lightning model.

        Raises:
            ValueError: If the normal images are not to be had, cannot be read, or are test images.
        """
        self._scores = []
        trainer = module._trainer
        reference: NormalReference = module.model.reference
        if not self.asked and not len(reference):
            return
        paths = self._paths(trainer, len(reference) > 0)
        named = [str(path) for path in paths] if paths is not None else self._remembered
        if paths is not None and (named != self._remembered or self._class_name != module.model.class_name):
            remember_images(module, map(_read, paths), len(paths), keep_copies=self.turned)
        self._remembered, self._class_name = named, module.model.class_name
        post_processor = module.post_processor
        if post_processor is not None and getattr(post_processor, "_image_threshold", torch.zeros(())).isnan().all():
            set_thresholds(post_processor, reference)
        if trainer is not None and not trainer.validating and not trainer.sanity_checking:
            stage = "test" if trainer.testing else "predict"
            known = [Path(name) for name in named or () if Path(name).is_file()]
            tested = normal_images.images_of_loaders(getattr(trainer, f"{stage}_dataloaders", None))
            normal_images.check_leakage(known, tested, refuse=trainer.testing)
            normal_images.warn_of_sizes(known, tested)

    def seen(self, scored: Any) -> Any:
        """Keep the scores of a batch for :meth:`finish`; gives the batch back."""
        if self._remembered is not None:
            self._scores.append(scored.pred_score.detach().float().cpu().clone())
        return scored

    def finish(self, reference: NormalReference) -> None:
        """Warn if the normal images look wrong beside the scored ones."""
        if self._scores and len(reference):
            normal_images.warn_of_disagreement(reference.left_out[0].cpu(), torch.cat(self._scores))
        self._scores = []

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Note in a checkpoint which images are remembered."""
        if self._remembered is not None:
            checkpoint[_KEY] = {"files": self._remembered, "class_name": self._class_name}

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Take over which images a checkpoint remembers; they are read again only if others are asked for."""
        saved = checkpoint.get(_KEY)
        if saved is not None:
            self._remembered, self._class_name = saved["files"], saved["class_name"]

    def _paths(self, trainer: Any, filled: bool) -> list[Path] | None:
        """The images that are asked for; ``None`` if what is remembered already is all there is."""
        if self.folder is not None:
            return normal_images.images_of_folder(self.folder)
        datamodule = getattr(trainer, "datamodule", None) if trainer is not None else None
        if filled and (self.k == 0 or datamodule is None):
            return None
        seed = self.seed if self.seed is not None else int(os.environ.get("PL_GLOBAL_SEED") or 0)
        return normal_images.images_of_datamodule(datamodule, self.k, seed)


def remember_images(module: Any, images: Iterable[torch.Tensor], count: int, *, keep_copies: bool = False) -> None:
    """Fill the memory of a Lightning model that knows its class; images are needed one at a time.

    Args:
        module: The Lightning model.
        images: Each (3, H, W) in [0, 1].
        count: How many there are, at least 1.
        keep_copies: Remember turned copies too.
    """
    turn = keep_copies or count == 1
    described = [_described(module, [image, *(turned(image) if turn else ())]) for image in images]
    reference: NormalReference = module.model.reference
    reference.remember([own[0] for own in described], [own[1:] for own in described], keep_copies=keep_copies)
    logger.info(
        "%d normal images are remembered, %.1f MiB. Image threshold %.3f: %s",
        count,
        reference.size_in_bytes / 2**20,
        reference.image_threshold.value,
        reference.image_threshold.rule,
    )
    if count == 1:
        logger.warning("One normal image tells little about what is normal: its scale is that of its own turned copies")


def _read(path: Path) -> torch.Tensor:
    try:
        return read_image(path)
    except OSError as error:
        raise ValueError(str(error)) from error


@torch.no_grad()
def _described(module: Any, images: list[torch.Tensor]) -> list[NormalImage]:
    """Images as :meth:`NormalReference.remember` takes them, encoded as the trainer encodes those of the run."""
    transform = getattr(module.pre_processor, "transform", None)
    plugin = module._trainer.precision_plugin if module._trainer is not None else None
    described = []
    with plugin.forward_context() if plugin is not None else nullcontext():
        for image in images:
            batch = image[None] if transform is None else transform(image[None])
            batch = batch.to(module.device)
            batch = plugin.convert_input(batch) if plugin is not None else batch
            described += module.model.describe_normal(batch)
    return described
