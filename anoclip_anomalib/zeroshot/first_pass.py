"""A pass over the images of the running stage before it begins, for methods that must know all of them."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from anomalib.data import Batch
from lightning.pytorch import LightningModule, Trainer
from torch.utils._pytree import tree_leaves
from torch.utils.data import BatchSampler, DataLoader, IterableDataset


def first_pass(module: LightningModule, visit: Callable[[Batch], None]) -> None:
    """Show a method the batches that the running stage is about to process.

    To be called from ``on_test_start``, ``on_validation_start`` or ``on_predict_start``. Batches are those of the stage, on
    its device and through the model's pre-processor, in the same precision; no callback and no post-processing takes part.
    Each process sees its own share: what a method makes of it has to be brought together by ``trainer.strategy``.

    Args:
        module: The model, attached to a trainer.
        visit: Gets each batch.
    """
    trainer = module.trainer
    transform = getattr(getattr(module, "pre_processor", None), "transform", None)
    with torch.inference_mode(), trainer.precision_plugin.forward_context():
        for batch in _batches(trainer):
            batch = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))
            if transform is not None:
                batch.image = transform(batch.image)
            visit(batch)


def _batches(trainer: Trainer) -> Iterator[Any]:
    if trainer.testing:
        loaders, limits = trainer.test_dataloaders, trainer.num_test_batches
    elif trainer.predicting:
        loaders, limits = trainer.predict_dataloaders, trainer.num_predict_batches
    else:
        loaders, limits = trainer.val_dataloaders, trainer.num_val_batches
    for loader, limit in zip(tree_leaves(loaders), limits, strict=False):
        yield from islice(_again(loader), None if limit == float("inf") else int(limit))


def _again(loader: Any) -> Any:
    """The same batches from processes of their own: the stage has begun to read its loader already."""
    sampler = getattr(loader, "batch_sampler", None)
    if not isinstance(loader, DataLoader) or sampler is None:
        return loader
    common = {"num_workers": loader.num_workers, "collate_fn": loader.collate_fn}
    if isinstance(loader.dataset, IterableDataset):
        return DataLoader(loader.dataset, batch_size=loader.batch_size, **common)
    if hasattr(sampler, "sampler"):  # in prediction Lightning's own, which cannot be read twice at once
        sampler = BatchSampler(sampler.sampler, sampler.batch_size, sampler.drop_last)
    return DataLoader(loader.dataset, batch_sampler=sampler, **common)
