import pytest
import torch

from anoclip_anomalib.data.augment import Augmentation


def both(side=32):
    """An image whose channels are its mask: whatever moves, they must stay equal."""
    mask = torch.zeros(side, side)
    mask[4:12, 6:20] = 1
    return mask.expand(4, -1, -1).clone()


def generator(seed):
    return torch.Generator().manual_seed(seed)


def test_image_and_mask_move_alike_and_stay_what_they_are():
    moved = [Augmentation().move(both(), generator(seed)) for seed in range(20)]
    for one in moved:
        assert torch.equal(one[:3], one[3].expand(3, -1, -1))
        assert set(one.unique().tolist()) <= {0.0, 1.0}, "nearest pixel, zeros from outside"
    assert len({tuple(one[3].flatten().tolist()) for one in moved}) > 10


def test_the_same_generator_moves_the_same():
    assert torch.equal(Augmentation().move(both(), generator(3)), Augmentation().move(both(), generator(3)))


@pytest.mark.parametrize(
    ("which", "share"), [({"flips": False, "rotation": 0.0}, 0.5), ({"flips": False, "translation": 0.0}, 0.5)]
)
def test_each_change_comes_in_half_of_the_cases(which, share):
    same = sum(torch.equal(Augmentation(**which).move(both(), generator(seed)), both()) for seed in range(200))
    assert abs(same / 200 - share) < 0.12


def test_flips_alone_give_the_four_mirror_images():
    own = Augmentation(rotation=0.0, translation=0.0)
    seen = {tuple(own.move(both(), generator(seed))[3].flatten().tolist()) for seed in range(40)}
    mask = both()[3]
    assert seen == {tuple(m.flatten().tolist()) for m in (mask, mask.flip(0), mask.flip(1), mask.flip(0).flip(1))}


def test_nothing_asked_for_changes_nothing():
    own = Augmentation(rotation=0.0, translation=0.0, flips=False)
    assert torch.equal(own.move(both(), generator(1)), both())
    assert torch.equal(own.recolour(both()[:3], generator(1)), both()[:3])


def test_shifts_stay_within_their_bound():
    own = Augmentation(rotation=0.0, flips=False)
    for seed in range(50):
        rows, columns = own.move(both(64), generator(seed))[3].nonzero().unbind(1)
        assert abs(int(rows.min()) - 4) <= round(0.15 * 64)
        assert abs(int(columns.max()) - 19) <= round(0.15 * 64)


def test_colours_change_within_the_jitter():
    grey = torch.full((3, 8, 8), 0.4)  # contrast and saturation leave a grey image as it is
    values = [float(Augmentation(jitter=0.5).recolour(grey, generator(seed)).mean()) for seed in range(100)]
    assert 0.2 <= min(values) < 0.25
    assert 0.55 < max(values) <= 0.6
    assert abs(sum(value == pytest.approx(0.4, abs=1e-3) for value in values) / 100 - 0.3) < 0.15
