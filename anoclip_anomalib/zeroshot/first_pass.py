"""A pass over the images of the running stage before it begins, for methods that must know all of them."""

from collections.abc import Callable
from itertools import islice
from math import ceil
from typing import Any

import torch
from anomalib.data import Batch
from lightning.pytorch import LightningModule, Trainer
from torch.distributed import get_world_size, is_available, is_initialized
from torch.utils._pytree import tree_leaves
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler
from torch.utils.data.distributed import DistributedSampler


def first_pass(module: LightningModule, visit: Callable[[Batch], None], *, everywhere: bool = False) -> None:
    """Show a method the batches that the running stage is about to process.

    To be called from ``on_test_start``, ``on_validation_start`` or ``on_predict_start``. Batches are those of the stage, on
    its device and through the model's pre-processor, in the same precision; no callback and no post-processing takes part.
    Each process sees its own share, and what a method makes of it has to be brought together by ``trainer.strategy``; or
    each sees all.

    Args:
        module: The model, attached to a trainer.
        visit: Gets each batch.
        everywhere: Whether each process sees all images.
    """
    trainer = module.trainer
    transform = getattr(getattr(module, "pre_processor", None), "transform", None)
    with torch.inference_mode(), trainer.precision_plugin.forward_context():
        for loader, count in images_to_come(trainer):
            at_once = _batch_size(loader) * (1 if everywhere else _processes(loader))
            for batch in islice(_again(loader, everywhere), ceil(count / at_once)):
                batch = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))
                if transform is not None:
                    batch.image = transform(batch.image)
                visit(batch)


def images_to_come(trainer: Trainer) -> list[tuple[Any, int]]:
    """The data loaders of the running stage, and how many images, at most, all processes together take."""
    stage = "test" if trainer.testing else "predict" if trainer.predicting else "val"
    loaders, limits = tree_leaves(getattr(trainer, f"{stage}_dataloaders")), getattr(trainer, f"num_{stage}_batches")
    return [
        (loader, int(min(len(loader.dataset), limit * _batch_size(loader) * _processes(loader))))
        for loader, limit in zip(loaders, limits, strict=False)
    ]


def _batch_size(loader: Any) -> int:
    return getattr(loader, "batch_size", None) or getattr(getattr(loader, "batch_sampler", None), "batch_size", None) or 1


def _processes(loader: Any) -> int:
    sampler = getattr(loader, "sampler", None)
    return sampler.num_replicas if isinstance(sampler, DistributedSampler) else 1


def _again(loader: Any, everywhere: bool) -> Any:  # noqa: FBT001
    """The same batches from processes of their own: the stage has begun to read its loader already."""
    if not isinstance(loader, DataLoader):
        return loader
    if isinstance(loader.dataset, IterableDataset):
        if everywhere and is_available() and is_initialized() and get_world_size() > 1:
            raise ValueError(
                "A folder is divided among the processes, and this method needs all images in each: use --trainer.devices 1"
            )
        size = _batch_size(loader)
        return DataLoader(loader.dataset, batch_size=size, num_workers=loader.num_workers, collate_fn=loader.collate_fn)
    # Lightning's own batch sampler of a prediction is its own iterator: read here, it would be empty for the stage.
    sampler = loader.sampler
    if everywhere and isinstance(sampler, DistributedSampler):
        sampler = SequentialSampler(loader.dataset)
    batches = BatchSampler(sampler, _batch_size(loader), drop_last=False)
    return DataLoader(loader.dataset, batch_sampler=batches, num_workers=loader.num_workers, collate_fn=loader.collate_fn)
