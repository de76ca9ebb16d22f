import copy

import pytest
import torch
import torch.nn.functional as F

from anoclip_anomalib.zeroshot.memory import PatchMemory, leave_one_out, nearest_distance


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_distance_in_closed_form():
    references = torch.eye(3)[:2]
    queries = torch.stack([torch.eye(3), -torch.eye(3)]) * 5
    torch.testing.assert_close(nearest_distance(queries, references), torch.tensor([[0.0, 0.0, 0.5], [0.5, 0.5, 0.5]]))
    assert nearest_distance(-torch.eye(3)[0], references[:1]).item() == 1.0


@pytest.mark.parametrize("block", [1, 7, 20, 100])
def test_blocks_change_nothing(block):
    queries, references = tokens(2, 5, 8), F.normalize(tokens(20, 8, seed=1), dim=-1)
    loop = [[min((1 - F.cosine_similarity(q, r, dim=0)) / 2 for r in references) for q in image] for image in queries]
    torch.testing.assert_close(nearest_distance(queries, references, block), torch.tensor(loop), atol=1e-6, rtol=0)


def test_leaving_one_out_is_a_memory_of_the_others():
    images = tokens(4, 6, 8)
    memory, other = PatchMemory(), PatchMemory()
    memory.remember(images)
    for index in range(4):
        other.remember(torch.cat([images[:index], images[index + 1 :]]))
        torch.testing.assert_close(memory.leave_one_out()[index], other(images[index]))
    assert memory(images).abs().max() < 1e-6
    with pytest.raises(ValueError, match="at least two normal images, got 1"):
        leave_one_out(memory.patches[:1])


def test_a_memory_is_filled_emptied_and_refuses_when_empty():
    memory = PatchMemory()
    assert len(memory) == 0
    with pytest.raises(ValueError, match="no reference patches"):
        memory(tokens(1, 4, 8))
    memory.remember(tokens(3, 2, 4, 8))
    assert len(memory) == 3
    assert memory.patches.shape == (3, 8, 8)
    torch.testing.assert_close(memory.patches.norm(dim=-1), torch.ones(3, 8))
    memory.forget()
    assert len(memory) == 0


@pytest.mark.parametrize("persistent", [True, False])
def test_checkpoints_copies_and_half_precision(persistent):
    source, target = PatchMemory(persistent=persistent), PatchMemory(persistent=persistent)
    source.remember(tokens(3, 4, 8))
    assert set(source.state_dict()) == ({"patches"} if persistent else set())
    target.load_state_dict(source.state_dict())
    assert torch.equal(target.patches, source.patches) == persistent
    half = copy.deepcopy(source).half()
    assert half.patches.dtype == torch.float32
    assert torch.equal(half.patches, source.patches)


def test_what_is_remembered_in_inference_mode_can_be_used_outside():
    memory = PatchMemory()
    with torch.inference_mode():
        memory.remember(tokens(1, 4, 8))
    query = tokens(1, 4, 8, seed=3).requires_grad_()
    memory(query).sum().backward()
    assert query.grad.abs().sum() > 0
