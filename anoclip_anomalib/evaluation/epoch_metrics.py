"""Metrics over one epoch of validation or test, in which every image counts once, also in several processes."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from lightning.pytorch import LightningModule
from torch import distributed
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler
from torchmetrics import Metric


class DistinctImages:
    """Leaves out the images that a distributed sampler repeats to give every process equally many.

    ``DistributedSampler`` deals the images in turn and starts again at the first where they do not come out even; the
    repeated ones are thus the last of a process. Every epoch needs a new one.
    """

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}

    def of(self, batch: Any, loaders: Any, index: int = 0) -> Any | None:
        """The part of a batch that no other process has.

        Args:
            batch: Anomalib's batch of B images.
            loaders: The trainer's data loader or list of them (``trainer.test_dataloaders``).
            index: Which of them the batch comes from.

        Returns:
            The batch itself, its first images, or ``None`` if all of them are repeated.
        """
        loader = loaders[index] if isinstance(loaders, Sequence) else loaders
        sampler = getattr(loader, "sampler", None) if isinstance(loader, DataLoader) else None
        if not isinstance(sampler, DistributedSampler):
            return batch
        own = len(range(sampler.rank, len(sampler.dataset), sampler.num_replicas))
        start = self._seen.get(index, 0)
        self._seen[index] = start + len(batch)
        return first_images(batch, own - start)


def first_images(batch: Any, count: int) -> Any | None:
    """The first ``count`` images of an anomalib batch, ``None`` if there are none."""
    if not 0 < count < len(batch):
        return batch if count > 0 else None
    values = {field.name: getattr(batch, field.name) for field in fields(batch) if field.init}
    return type(batch)(**{name: value[:count] if value is not None else None for name, value in values.items()})


def gathered(value: Any) -> list[Any]:
    """What every process has, in the order of their ranks; of one process, itself alone. Not for large values."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


class EpochMetrics:
    """Metrics that are started, updated and logged by whoever sees the batches.

    They are not left to Lightning's list of callbacks: it replaces a model's callbacks by comparing types in the random
    order of a set, and may keep or double one whose type is a subclass of another's.

    Args:
        metrics: Metrics whose ``update`` takes a batch, with a ``name``.
    """

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self.metrics = metrics
        self._distinct = DistinctImages()

    def start(self) -> None:
        """Forget what an interrupted epoch has left."""
        self._distinct = DistinctImages()
        for metric in self.metrics:
            metric.reset()

    def update(self, batch: Any, loaders: Any, index: int = 0) -> None:
        """Add a batch; see :meth:`DistinctImages.of` for the arguments."""
        if (distinct := self._distinct.of(batch, loaders, index)) is not None:
            for metric in self.metrics:
                metric.update(distinct)

    def log(self, pl_module: LightningModule) -> None:
        """Log the values over all processes."""
        trainer = pl_module.trainer
        for metric in self.metrics:
            value = metric.compute()
            pl_module.log(metric.name, value, sync_dist=True)  # equal in all processes, but Lightning cannot know
            if trainer.barebones:  # logging is off there; anomalib's Evaluator does the same
                trainer.callback_metrics[metric.name] = trainer.logged_metrics[metric.name] = value
        for metric in self.metrics:  # only now: they may share a histogram
            metric.reset()
