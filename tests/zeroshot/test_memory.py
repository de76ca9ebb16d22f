import copy

import pytest
import torch
import torch.nn.functional as F

from anoclip_anomalib.zeroshot.memory import PatchMemory, compare, greedy_coreset, nearest


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(tokens(*shape, seed=seed), dim=-1)


def test_distance_in_closed_form():
    queries = torch.stack([torch.eye(3), -torch.eye(3)])
    found = nearest(queries, torch.eye(3)[:2])
    far = 2**0.5
    torch.testing.assert_close(found.distance, torch.tensor([[0.0, 0.0, far], [far, far, far]]))
    assert found.index[0, :2].tolist() == [0, 1]
    assert nearest(-torch.eye(3)[0], torch.eye(3)[:1]).distance.item() == 2.0
    with pytest.raises(ValueError, match="no reference patches"):
        nearest(queries, torch.empty(0, 3))


@pytest.mark.parametrize("block", [1, 7, 20, 100])
def test_blocks_change_nothing(block):
    queries, references = unit(2, 5, 8), unit(20, 8, seed=1)
    expected = torch.cdist(queries.double(), references.double())
    found = nearest(queries, references, block)
    torch.testing.assert_close(found.distance.double(), expected.amin(dim=-1), atol=1e-6, rtol=0)
    assert torch.equal(found.index, expected.argmin(dim=-1))


def test_sets_are_compared_each_with_its_own_and_averaged():
    queries, references, values = unit(3, 2, 5, 8), unit(3, 20, 8, seed=1), torch.arange(20.0)
    distance, noted = compare(queries, references, values)
    alone = [nearest(queries[index], references[index]) for index in range(3)]
    torch.testing.assert_close(distance, sum(one.distance for one in alone) / 3)
    torch.testing.assert_close(noted, sum(values[one.index] for one in alone) / 3)


def test_a_memory_is_filled_emptied_and_refuses_when_empty():
    memory = PatchMemory()
    assert len(memory) == 0
    with pytest.raises(ValueError, match="no normal images were remembered"):
        memory(tokens(1, 1, 4, 8))
    images = tokens(2, 3, 4, 8)
    memory.remember(images, torch.arange(12.0).view(3, 4))
    assert len(memory) == 12
    torch.testing.assert_close(memory.patches.norm(dim=-1), torch.ones(2, 12))
    distance, noted = memory(5 * images)  # lengths do not count
    assert distance.max() < 1e-3
    assert torch.equal(noted, torch.arange(12.0).view(3, 4))
    memory.forget()
    assert len(memory) == 0
    assert memory.values.numel() == 0


def test_a_coreset_takes_the_farthest_next_and_always_the_same():
    angles = torch.tensor([0.0, 0.01, 0.02, 1.0, 1.01, 2.0])
    patches = torch.stack([angles.cos(), angles.sin()], dim=1)[None].expand(2, -1, -1)
    chosen = greedy_coreset(patches, 0.5).tolist()
    assert len(chosen) == 3
    assert {round(angles[index].item()) for index in chosen} == {0, 1, 2}
    assert greedy_coreset(patches, 0.5).tolist() == chosen
    assert len(greedy_coreset(patches, 1e-6)) == 1
    many = unit(1, 60, 8)
    reach = [compare(many, many[:, greedy_coreset(many, share)], torch.zeros(60))[0].max() for share in (0.1, 0.3, 0.9)]
    assert reach[0] > reach[1] > reach[2]


@pytest.mark.parametrize("persistent", [True, False])
def test_checkpoints_copies_and_half_precision(persistent):
    source, target = PatchMemory(persistent=persistent), PatchMemory(persistent=persistent)
    assert not source.state_dict()  # nothing of an empty memory is saved
    source.remember(tokens(2, 3, 4, 8))
    assert set(source.state_dict()) == ({"patches", "values"} if persistent else set())
    target.load_state_dict(source.state_dict())
    assert torch.equal(target.patches, source.patches) == persistent
    target.load_state_dict(PatchMemory(persistent=persistent).state_dict())
    assert len(target) == 0 or not persistent
    half = copy.deepcopy(source).half()
    assert half.patches.dtype == torch.float32
    assert torch.equal(half.patches, source.patches)


def test_what_is_remembered_in_inference_mode_can_be_used_outside():
    memory = PatchMemory()
    with torch.inference_mode():
        memory.remember(tokens(1, 1, 4, 8))
    query = tokens(1, 1, 4, 8, seed=3).requires_grad_()
    memory(query)[0].sum().backward()
    assert query.grad.abs().sum() > 0


def test_a_coreset_begins_where_most_patches_are():
    angles = torch.tensor([2.0, 0.1, 0.0, 0.2, -1.5])  # their mean points to 0.13
    patches = torch.stack([angles.cos(), angles.sin()], dim=1)[None]
    assert greedy_coreset(patches, 0.2).tolist() == [1]
    assert greedy_coreset(patches, 0.4).tolist() == [1, 0]
