from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from anoclip_anomalib.clip.constants import CLIP_MEAN, CLIP_STD
from anoclip_anomalib.data.augment import Augmentation
from anoclip_anomalib.data.auxiliary import AuxiliaryDataModule, AuxiliaryDataset, EpochSampler
from anoclip_anomalib.data.samples import Sample
from anoclip_anomalib.data.sources import Source
from tests.aaclip.conftest import Squares

SOURCE = Source(name="squares")


@pytest.fixture
def samples(tmp_path):
    found = []
    for index in range(4):
        image, mask, category = Squares(side=40).draw(0, index)
        Image.fromarray(image).save(tmp_path / f"{index}.png")
        Image.fromarray(mask).save(tmp_path / f"{index}_mask.png")
        found.append(
            Sample(str(tmp_path / f"{index}.png"), str(tmp_path / f"{index}_mask.png") if index % 2 else None, category)
        )
    return found


def dataset(samples=(), **changes):
    own = {"drawn": Squares(), "size": 32, "categories": ["plate", "tile"], "augmentation": None, "seed": 1}
    return AuxiliaryDataset(samples, **{**own, **changes})


def test_items_are_normalised_images_with_their_masks(samples):
    own = dataset(samples, size=40)
    assert len(own) == 12
    for index in (1, 4 + 3):
        item = own[index]
        image, mask, category = Squares(side=40 if index < 4 else 64).draw(0, index if index < 4 else index - 4)
        assert item["image"].shape == (3, 40, 40)
        assert item["label"] == 1
        assert item["class_index"] == ["plate", "tile"].index(category)
        if index < 4:
            expected = (torch.from_numpy(image).permute(2, 0, 1) / 255 - torch.tensor(CLIP_MEAN).view(3, 1, 1)) / torch.tensor(
                CLIP_STD
            ).view(3, 1, 1)
            torch.testing.assert_close(item["image"], expected)
            assert torch.equal(item["mask"], torch.from_numpy(mask).float())
    assert own[0]["label"] == 0
    assert own[0]["mask"].sum() == 0


def test_masks_stay_on_their_defects_through_resizing_and_augmentation(samples):
    own = dataset(samples, size=32, augmentation=Augmentation())
    for position in range(1, 60, 2):
        item = own[position]
        if item["mask"].sum() < 20:
            continue  # moved out
        bright = item["image"].mean(0)
        assert bright[item["mask"] > 0].mean() > bright[item["mask"] == 0].mean() + 0.8
        assert set(item["mask"].unique().tolist()) <= {0.0, 1.0}


def test_a_label_is_of_the_whole_image_even_where_the_defect_is_tiny_or_moved_out(samples, tmp_path):
    mask = np.zeros((40, 40), np.uint8)
    mask[0, 0] = 255
    Image.fromarray(mask).save(tmp_path / "tiny.png")
    own = dataset([Sample(samples[0].image, str(tmp_path / "tiny.png"), "plate")], drawn=None, size=8)
    assert own[0]["mask"].sum() == 0
    assert own[0]["label"] == 1


def test_an_item_depends_on_seed_epoch_and_index_alone(samples):
    first, second = (dataset(samples, augmentation=Augmentation(jitter=0.5)) for _ in range(2))
    torch.rand(3)
    for position in (1, 13, 30):
        assert torch.equal(first[position]["image"], second[position]["image"])
    assert not torch.equal(first[1]["image"], first[1 + len(first)]["image"])
    other = dataset(samples, augmentation=Augmentation(jitter=0.5), seed=2)
    assert not torch.equal(first[1]["image"], other[1]["image"])


def test_outside_comes_clips_mean_colour(tmp_path):
    white = tmp_path / "white.png"
    Image.fromarray(np.full((32, 32, 3), 255, np.uint8)).save(white)
    own = dataset(
        40 * [Sample(str(white), str(white), "plate")], drawn=None, augmentation=Augmentation(rotation=0.0, flips=False)
    )
    shifted = [item for item in (own[index] for index in range(40)) if item["mask"].sum() < 1024]
    assert shifted
    for item in shifted:
        assert item["image"][:, item["mask"] == 0].abs().max() == 0
        assert item["image"][:, item["mask"] == 1].min() > 1


def test_each_image_once_in_an_order_of_its_own():
    sampler = EpochSampler(10, seed=1)
    epochs = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        own = list(sampler)
        assert sorted(own) == list(range(10 * epoch, 10 * epoch + 10))
        epochs.append([position % 10 for position in own])
    assert epochs[0] != epochs[1]
    sampler.set_epoch(0)
    assert [position % 10 for position in sampler] == epochs[0]


@pytest.mark.parametrize(("count", "processes"), [(10, 2), (11, 3), (2, 4)])
def test_processes_share_all_images_in_equal_numbers(count, processes):
    shares = [list(EpochSampler(count, seed=1, rank=rank, processes=processes)) for rank in range(processes)]
    assert len({len(share) for share in shares}) == 1
    assert len(shares[0]) == len(EpochSampler(count, seed=1, processes=processes))
    assert set().union(*shares) == set(range(count))


def test_what_is_drawn_varies_by_itself_and_is_not_augmented():
    own, plain = dataset(augmentation=Augmentation(jitter=0.5)), dataset()
    for position in range(16):
        assert torch.equal(own[position]["image"], plain[position]["image"])


class Pairs(Squares):
    in_pairs = True


def test_an_item_knows_its_pair(samples):
    own = dataset(samples, drawn=Pairs(6))
    assert [int(own[len(own) + index]["pair"]) for index in range(10)] == [-1, -1, -1, -1, 0, 0, 1, 1, 2, 2]
    assert own.pairs == 3
    assert {int(dataset(samples)[index]["pair"]) for index in range(12)} == {-1}


@pytest.mark.parametrize("classes", [None, [0] * 4 + [1] * 6])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_pairs_stay_together_and_in_order(classes, processes):
    seen, together = [], 0
    for rank in range(processes):
        sampler = EpochSampler(10, seed=1, classes=classes, pairs=3, rank=rank, processes=processes)
        sampler.set_epoch(5)
        own = [position - 50 for position in sampler]
        assert len(own) == len(sampler)
        at = [index for index, item in enumerate(own[:-1]) if item in (4, 6, 8)]
        together += len(at)
        assert all(own[index + 1] == own[index] + 1 for index in at)
        assert all(own[index - 1] == item - 1 for index, item in enumerate(own) if index and item in (5, 7, 9))
        seen += own
    assert together > 0
    assert set(seen) <= set(range(10))
    assert classes is not None or set(seen) == set(range(10))


def test_pairs_are_shuffled_and_batches_hold_both_images():
    own = module(drawn=Pairs(40), batch_size=8)
    batches = list(own.train_dataloader())
    for batch in batches:
        assert torch.equal(batch["pair"][0::2], batch["pair"][1::2])
        assert batch["label"].tolist() == 4 * [0.0, 1.0]
    order = [int(pair) for batch in batches for pair in batch["pair"][0::2]]
    assert sorted(order) == list(range(20))
    assert order != sorted(order)


def test_pairs_are_held_out_whole():
    own = module(source=Source(name="x", held_out=0.3), drawn=Pairs(10))
    assert len(own.held) == 4


def test_classes_can_be_drawn_equally_often():
    classes = [0] * 90 + [1] * 10
    drawn = list(EpochSampler(100, seed=1, classes=classes))
    assert 35 < sum(classes[index] for index in drawn) < 65


def module(samples=(), source=SOURCE, **changes):
    own = {"image_size": 32, "batch_size": 3, "augmentation": None, "seed": 1}
    return AuxiliaryDataModule(source, samples, **{**own, **changes})


def test_batches_of_a_mixed_source(samples):
    own = module(samples, drawn=Squares(6))
    batches = list(own.train_dataloader())
    assert [len(batch["label"]) for batch in batches] == [3, 3, 3, 1]
    assert batches[0]["image"].shape == (3, 3, 32, 32)
    assert own.categories == ["plate", "tile"]
    assert own.val_dataloader() == []


def test_worker_processes_read_the_same(samples):
    alone, helped = (list(module(samples, drawn=Squares(6), num_workers=n).train_dataloader()) for n in (0, 2))
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(alone, helped, strict=True))


def test_each_process_takes_its_share(samples):
    seen = []
    for rank in range(2):
        own = module(samples, drawn=Squares(6))
        own.trainer = SimpleNamespace(global_rank=rank, world_size=2)
        seen.append(list(own.train_dataloader().sampler))
    assert set(seen[0]) | set(seen[1]) == set(range(10))
    assert not set(seen[0]) & set(seen[1])


def test_what_is_held_out_is_read_without_augmentation(samples):
    source = Source(name="x", held_out=0.5, shots=2)
    own = module(samples, source, drawn=Squares(6), augmentation=Augmentation(rotation=90))
    assert len(own.held) == 2 * 0 + 3 + len(own.held.samples)
    held = {sample.image for sample in own.held.samples}
    assert not held & {sample.image for sample in own.training.samples}
    assert torch.equal(own.held[0]["image"], own.held[len(own.held)]["image"]), "the same in every epoch"
    assert len(list(own.val_dataloader())) == -(-len(own.held) // 3)
    drawn = [own.held[index]["image"] for index in range(len(own.held.samples), len(own.held))]
    trained = [own.training[position]["image"] for position in range(4 * len(own.training))]
    assert not any(torch.equal(a, b) for a in drawn for b in trained)


def test_class_balance_counts_what_is_drawn_as_one_class(samples):
    own = module(samples, Source(name="x", class_balanced=True), drawn=Squares(6))
    assert own.training.classes == [0, 0, 1, 1] + 6 * [2]
    assert own.train_dataloader().sampler.classes == own.training.classes


def test_nothing_to_train_on():
    with pytest.raises(ValueError, match="no images to train on"):
        module()
