"""The mathematics of test-time adaptation against plain torch."""

import pytest
import torch
import torch.nn.functional as F

from anoclip_anomalib.anoclip.adaptation import (
    AdapterWeights,
    adaptation_loss,
    apply_adapter,
    initial_weights,
    map_correlation,
    optimise,
    pixel_values,
    weight_gradients,
)
from anoclip_anomalib.zeroshot.scoring import cosine_difference
from anoclip_anomalib.zeroshot.tiling import plan_tiles

B, L, D, M = 3, 6, 8, 14


@pytest.fixture
def text() -> torch.Tensor:
    return F.normalize(torch.randn(2, D, generator=torch.Generator().manual_seed(1)), dim=-1)


@pytest.fixture
def bank() -> torch.Tensor:
    return F.normalize(torch.randn(M, D, generator=torch.Generator().manual_seed(2)), dim=-1)


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randn(B, L, D, generator=torch.Generator().manual_seed(3)) * 2


def plain_adapter(linear: torch.nn.Linear, tokens: torch.Tensor, bank: torch.Tensor | None) -> torch.Tensor:
    """The authors' adapter with torch's own modules, for one image."""
    out = linear(F.normalize(tokens, dim=-1))
    out = out if bank is None else out.tanh() @ bank
    return 0.5 * tokens + 0.5 * out


def plain_loss(clean: torch.Tensor, noisy: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """The brief's closed form with explicit softmaxes of the two cosines, for one image's adapted tokens."""
    p_clean = (F.normalize(clean, dim=-1) @ text.T).softmax(dim=-1)
    p_noisy = (F.normalize(noisy, dim=-1) @ text.T).softmax(dim=-1)
    entropy = -(p_clean * p_clean.log()).sum(dim=-1)
    return entropy.mean() + 0.5 * (-p_noisy[:, 1].log() - p_clean[:, 0].log()).mean()


def test_initial_weights_are_those_of_torch_linear() -> None:
    torch.manual_seed(5)
    linear = torch.nn.Linear(D, M)
    weights = initial_weights(M, D, torch.Generator().manual_seed(5))
    torch.testing.assert_close(weights.weight[0], linear.weight.data)
    torch.testing.assert_close(weights.bias[0], linear.bias.data)


def test_loss_is_the_closed_form(tokens: torch.Tensor, text: torch.Tensor) -> None:
    noisy = tokens + 0.3
    loss = adaptation_loss(cosine_difference(tokens, text), cosine_difference(noisy, text))
    expected = torch.stack([plain_loss(c, n, text) for c, n in zip(tokens, noisy, strict=True)])
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("anchored", [True, False])
def test_gradients_are_those_of_autograd(tokens: torch.Tensor, text: torch.Tensor, bank: torch.Tensor, anchored: bool) -> None:
    anchors = bank if anchored else None
    rows = M if anchored else D
    linears = [torch.nn.Linear(D, rows) for _ in range(B)]
    noise = 0.1 * torch.randn(L, D)
    for linear, image in zip(linears, tokens, strict=True):
        clean, noisy = plain_adapter(linear, image, anchors), plain_adapter(linear, image + noise, anchors)
        plain_loss(clean, noisy, text).backward()

    weights = AdapterWeights(
        torch.stack([linear.weight.data for linear in linears]), torch.stack([linear.bias.data for linear in linears])
    )
    both = torch.cat([tokens, tokens + noise], dim=1)
    unit = F.normalize(both, dim=-1)
    adapted = apply_adapter(both, unit, weights, anchors, 0.5)
    difference = cosine_difference(adapted.tokens, text).requires_grad_()
    loss = adaptation_loss(difference[:, :L], difference[:, L:])
    (gradient,) = torch.autograd.grad(loss.sum(), difference)
    found = weight_gradients(
        adapted, difference.detach(), gradient, unit, direction=text[1] - text[0], anchors=anchors, residual=0.5
    )
    for index, linear in enumerate(linears):
        torch.testing.assert_close(found.weight[index], linear.weight.grad, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(found.bias[index], linear.bias.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("anchored", [True, False])
def test_optimisation_is_torch_adamw_on_each_image(
    tokens: torch.Tensor, text: torch.Tensor, bank: torch.Tensor, anchored: bool
) -> None:
    anchors = bank if anchored else None
    rows = M if anchored else D
    noises = 0.055 * torch.randn(5, L, D)
    start = initial_weights(rows, D, torch.Generator().manual_seed(0))

    leaves = AdapterWeights(*(w.repeat(B, *[1] * (w.ndim - 1)).requires_grad_() for w in start))
    optimizer = torch.optim.AdamW(leaves, lr=1e-3, weight_decay=0.01)
    result = optimise(
        tokens, leaves, optimizer, noises, steps=5, text=text, anchors=anchors, residual=0.5, to_places=lambda v: v
    )

    for index, image in enumerate(tokens):
        linear = torch.nn.Linear(D, rows)
        linear.weight.data, linear.bias.data = start.weight[0].clone(), start.bias[0].clone()
        plain = torch.optim.AdamW(linear.parameters(), lr=1e-3)
        losses = []
        for noise in noises:
            loss = plain_loss(plain_adapter(linear, image, anchors), plain_adapter(linear, image + noise, anchors), text)
            plain.zero_grad()
            loss.backward()
            plain.step()
            losses.append(loss.item())
        with torch.no_grad():
            torch.testing.assert_close(result.tokens[index], plain_adapter(linear, image, anchors), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(result.losses[:5, index], torch.tensor(losses), atol=1e-6, rtol=1e-6)
        last = plain_loss(plain_adapter(linear, image, anchors), plain_adapter(linear, image + noises[0], anchors), text)
        torch.testing.assert_close(result.losses[5, index], last.detach(), atol=1e-6, rtol=1e-6)
    assert all(leaf.grad is None for leaf in leaves)


def test_the_residual_is_the_share_of_the_original_tokens(tokens: torch.Tensor, bank: torch.Tensor) -> None:
    linear, unit = torch.nn.Linear(D, M), F.normalize(tokens, dim=-1)
    weights = AdapterWeights(linear.weight.data.repeat(B, 1, 1), linear.bias.data.repeat(B, 1))
    adapted = apply_adapter(tokens, unit, weights, bank, 0.25)
    with torch.no_grad():
        activation = linear(unit).tanh()
    torch.testing.assert_close(adapted.tokens, 0.25 * tokens + 0.75 * activation @ bank)
    torch.testing.assert_close(adapted.activation, activation)


@pytest.mark.parametrize("steps", [0, 2])
def test_as_many_updates_as_steps_and_one_loss_more(tokens: torch.Tensor, text: torch.Tensor, steps: int) -> None:
    leaves = AdapterWeights(
        *(w.repeat(B, *[1] * (w.ndim - 1)).requires_grad_() for w in initial_weights(D, D, torch.Generator()))
    )
    before = leaves.weight.detach().clone()
    optimizer = torch.optim.SGD(leaves, lr=0.1)
    result = optimise(
        tokens, leaves, optimizer, torch.zeros(5, L, D), steps=steps, text=text, anchors=None, residual=0.5,
        to_places=lambda v: v,
    )  # fmt: skip
    assert result.losses.shape == (steps + 1, B)
    assert torch.equal(leaves.weight.detach(), before) is (steps == 0)


def test_pixel_values_are_upsampled_and_stitched() -> None:
    layout = plan_tiles(4, 6, "square")
    values = torch.rand(2, len(layout) * 4)
    pixels = pixel_values(values, (2, 2), layout).view(2, 4, 6)
    tiles = F.interpolate(values.view(4, 1, 2, 2), size=(4, 4), mode="bilinear", align_corners=True).view(2, 2, 4, 4)
    torch.testing.assert_close(pixels[:, :, :2], tiles[:, 0, :, :2])
    torch.testing.assert_close(pixels[:, :, 4:], tiles[:, 1, :, 2:])
    torch.testing.assert_close(pixels[:, :, 2:4], (tiles[:, 0, :, 2:] + tiles[:, 1, :, :2]) / 2)


def test_map_correlation_is_pearsons(tokens: torch.Tensor, text: torch.Tensor) -> None:
    tokens = tokens + 5 * text[1]  # far from a mean of 0
    after = tokens + 0.5 * torch.randn(B, L, D, generator=torch.Generator().manual_seed(4))
    pairs = zip(cosine_difference(tokens, text), cosine_difference(after, text), strict=True)
    expected = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs])
    torch.testing.assert_close(map_correlation(tokens, after, text), expected, atol=1e-5, rtol=0)


def test_map_correlation_tells_same_opposite_and_constant(tokens: torch.Tensor, text: torch.Tensor) -> None:
    mirrored = tokens - 2 * (tokens @ text.T.pinverse().T @ text)  # opposite cosines, same length in the rest
    torch.testing.assert_close(map_correlation(tokens, 3 * tokens, text), torch.ones(B))
    assert (map_correlation(tokens, mirrored, text) < -0.9).all()
    assert (map_correlation(tokens, tokens[:, :1].expand_as(tokens), text).abs() < 1e-3).all()
