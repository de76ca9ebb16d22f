"""Labelled images with masks as training data, read from files or drawn by the generator."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms.v2 import functional as tv

from anoclip_anomalib.clip.constants import CLIP_MEAN, CLIP_STD
from anoclip_anomalib.data.augment import Augmentation
from anoclip_anomalib.data.images import read_image
from anoclip_anomalib.data.samples import Sample, choose_shots, hold_out, read_mask
from anoclip_anomalib.data.sources import Source

Item = dict[str, torch.Tensor]
_HELD_EPOCH = 2**31 - 1
"""The epoch whose drawn images are held out: no training gets there."""


class Drawn(Protocol):
    """A source of images that are drawn when they are asked for.

    Attributes:
        categories: Names that go with the images.
        in_pairs: Whether images ``2k`` and ``2k + 1`` show one part, first as it should be and then with a defect. They
            then stay side by side in a batch.
    """

    @property
    def categories(self) -> Sequence[str]: ...  # noqa: D102

    @property
    def in_pairs(self) -> bool: ...  # noqa: D102

    def __len__(self) -> int:
        """How many images an epoch has."""

    def draw(self, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray, str]:
        """Image (S, S, 3) uint8, mask (S, S) bool and category; the same for the same epoch and index."""


class AuxiliaryDataset(Dataset[Item]):
    """Images and masks, read or drawn, resized, varied and normalised. What is drawn varies by itself.

    An item is asked for by ``epoch * len + index``: its augmentation depends on seed, epoch and index alone, and not on the
    worker or process that reads it, so that a training that goes on after an interruption gives the same result.

    Args:
        samples: Read from files.
        drawn: Drawn, behind the samples.
        size: Side of the square in pixels.
        categories: All of the source; gives the class index.
        augmentation: Of what is read; ``None`` for none.
        seed: Of the augmentation.
        drawn_count: Drawn images in an epoch; ``None`` for all that there are.
        drawn_epoch: The epoch that drawn images are taken from, whatever is asked for; ``None`` for the one asked for.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        drawn: Drawn | None = None,
        size: int,
        categories: Sequence[str],
        augmentation: Augmentation | None,
        seed: int,
        drawn_count: int | None = None,
        drawn_epoch: int | None = None,
    ) -> None:
        self.samples, self.drawn, self.size = list(samples), drawn, size
        self.index_of = {category: index for index, category in enumerate(categories)}
        self.augmentation, self.seed = augmentation, seed
        self.drawn_count = (len(drawn) if drawn_count is None else drawn_count) if drawn is not None else 0
        self.drawn_epoch = drawn_epoch

    def __len__(self) -> int:
        return len(self.samples) + self.drawn_count

    @property
    def classes(self) -> list[int]:
        """A class index for each item; all that is drawn is one more class."""
        return [self.index_of[sample.category] for sample in self.samples] + self.drawn_count * [len(self.index_of)]

    @property
    def pairs(self) -> int:
        """How many pairs the last items are."""
        return self.drawn_count // 2 if self.drawn is not None and self.drawn.in_pairs else 0

    def __getitem__(self, position: int) -> Item:
        """An item.

        Returns:
            ``image`` (3, S, S) normalised, ``mask`` (S, S) of 0 and 1, ``label`` (of the whole image, before it is moved),
            ``class_index``, and ``pair``: the number of the pair that it belongs to, -1 for none.
        """
        epoch, index = divmod(position, len(self))
        read = index < len(self.samples)
        image, mask, category = self._read(index) if read else self._draw(epoch, index - len(self.samples))
        label = float(self.samples[index].anomalous if read else mask.any())
        size = [self.size, self.size]
        image = tv.resize(image, size, tv.InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
        mask = tv.resize(mask[None], size, tv.InterpolationMode.NEAREST_EXACT)
        state = np.random.SeedSequence([self.seed, epoch, index]).generate_state(2)
        generator = torch.Generator().manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)
        augmentation = self.augmentation if read else None
        if augmentation is not None:
            image = augmentation.recolour(image, generator)
        both = torch.cat([tv.normalize(image, list(CLIP_MEAN), list(CLIP_STD)), mask])
        if augmentation is not None:
            both = augmentation.move(both, generator)
        return {
            "image": both[:3],
            "mask": both[3],
            "label": torch.tensor(label),
            "class_index": torch.tensor(self.index_of[category]),
            "pair": torch.tensor((index - len(self.samples)) // 2 if index >= len(self) - 2 * self.pairs else -1),
        }

    def _read(self, index: int) -> tuple[torch.Tensor, torch.Tensor, str]:
        sample = self.samples[index]
        image = read_image(sample.image)
        mask = torch.zeros(image.shape[-2:]) if sample.mask is None else read_mask(sample.mask)
        return image, mask, sample.category

    def _draw(self, epoch: int, index: int) -> tuple[torch.Tensor, torch.Tensor, str]:
        assert self.drawn is not None
        image, mask, category = self.drawn.draw(epoch if self.drawn_epoch is None else self.drawn_epoch, index)
        return torch.from_numpy(image).permute(2, 0, 1).float() / 255, torch.from_numpy(mask).float(), category


class EpochSampler(Sampler[int]):
    """Shuffles anew in each epoch, from seed and epoch alone; each process of several takes its share.

    Args:
        count: Images in an epoch.
        seed: Of the order.
        classes: Class of each item, to draw all classes equally often; ``None`` for each item once.
        pairs: How many pairs the last items are; a pair stays together.
        rank: Of this process.
        processes: How many there are. Where the images do not share out evenly, the first ones come twice.
    """

    def __init__(
        self, count: int, *, seed: int, classes: Sequence[int] | None = None, pairs: int = 0, rank: int = 0, processes: int = 1
    ) -> None:
        self.count, self.seed, self.rank, self.processes = count, seed, rank, processes
        self.classes, self.pairs = classes, pairs
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning tells the epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.count // self.processes)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        singles = self.count - 2 * self.pairs
        firsts = np.concatenate([np.arange(singles), np.arange(singles, self.count, 2)])
        if self.classes is None:
            order = rng.permutation(firsts)
        else:
            weight = 1 / np.bincount(self.classes)[np.asarray(self.classes)[firsts]]
            order = rng.choice(firsts, size=self.count, p=weight / weight.sum())
        order = np.resize(order, -(-len(order) // self.processes) * self.processes)[self.rank :: self.processes]
        items = [item for first in order for item in range(first, first + (1 if first < singles else 2))]
        return iter((self.epoch * self.count + np.resize(items, len(self))).tolist())


class AuxiliaryDataModule(LightningDataModule):
    """The labelled images of a source as training data, for a method that learns from masks.

    Lightning must be told ``use_distributed_sampler=False``: the order and each process's share of it are made here.

    Args:
        source: What to train on.
        samples: Its images, see :func:`anoclip_anomalib.data.samples.labelled_samples`.
        drawn: The generated part of the source, if it has one.
        image_size: Side of the square in pixels.
        batch_size: Images in a step of one process.
        augmentation: Of what is read; ``None`` for none.
        num_workers: Processes that read.
        seed: Of order and augmentation.

    Attributes:
        categories: All of the source, sorted.
        training: The images that are trained on.
        held: Those that are held out; ``None`` if none are.

    Raises:
        ValueError: If nothing is left to train on.
    """

    def __init__(
        self,
        source: Source,
        samples: Sequence[Sample],
        *,
        drawn: Drawn | None = None,
        image_size: int,
        batch_size: int,
        augmentation: Augmentation | None,
        num_workers: int = 0,
        seed: int = 111,
    ) -> None:
        super().__init__()
        self.source = source
        self.categories = sorted({one.category for one in samples} | set(drawn.categories if drawn is not None else ()))
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        training, held = hold_out(samples, source.held_out, source.seed)
        if source.shots is not None:
            training = choose_shots(training, source.shots, source.seed)
        together = 2 if drawn is not None and drawn.in_pairs else 1
        held_drawn = together * round(source.held_out * len(drawn) / together) if drawn is not None else 0
        dataset = partial(AuxiliaryDataset, drawn=drawn, size=image_size, categories=self.categories, seed=seed)
        self.training = dataset(training, augmentation=augmentation)
        held_out = dataset(held, augmentation=None, drawn_count=held_drawn, drawn_epoch=_HELD_EPOCH)
        self.held = held_out if len(held_out) else None
        if len(self.training) == 0:
            raise ValueError(f"The source {source.name} has no images to train on")

    def train_dataloader(self) -> DataLoader:
        """The training images in the order of the epoch."""
        trainer = self.trainer
        own, classes = self.training, self.training.classes if self.source.class_balanced else None
        rank, processes = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        sampler = EpochSampler(len(own), seed=self.seed, classes=classes, pairs=own.pairs, rank=rank, processes=processes)
        return DataLoader(own, self.batch_size, sampler=sampler, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader | list:
        """The held-out images, all of them in each process; none if nothing was held out."""
        return DataLoader(self.held, self.batch_size, num_workers=self.num_workers) if self.held is not None else []
