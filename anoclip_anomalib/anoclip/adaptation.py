"""Test-time adaptation (AnoCLIP+): a small adapter on the patch tokens, optimised on each test image without labels.

The mathematics is in functions of tensors for B images at once. Every image has weights of its own, (B, M, D), and the loss
is a sum over images, so that adapting a batch is adapting each image alone.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F

from anoclip_anomalib.zeroshot.scoring import cosine_difference, upsample
from anoclip_anomalib.zeroshot.tiling import TileLayout

AdapterKind = Literal["text", "linear"]


class AdapterWeights(NamedTuple):
    """Weights of B adapters: ``weight`` (B, M, D) and ``bias`` (B, M)."""

    weight: torch.Tensor
    bias: torch.Tensor


def initial_weights(rows: int, dim: int, generator: torch.Generator) -> AdapterWeights:
    """Draw one adapter as ``torch.nn.Linear(dim, rows)`` would: uniform in +-1 / sqrt(dim), weight first, then bias.

    Always in float32: a half-precision trainer changes torch's default while a model runs.

    Returns:
        ``weight`` (1, rows, dim) and ``bias`` (1, rows).
    """
    bound = dim**-0.5
    empty = (torch.empty(shape, dtype=torch.float32) for shape in ((1, rows, dim), (1, rows)))
    return AdapterWeights(*(weights.uniform_(-bound, bound, generator=generator) for weights in empty))


class Adapted(NamedTuple):
    """One pass through the adapters: ``tokens`` (B, L, D) adapted, ``activation`` (B, L, M) of the anchors, if there are."""

    tokens: torch.Tensor
    activation: torch.Tensor | None


def apply_adapter(
    tokens: torch.Tensor, unit: torch.Tensor, weights: AdapterWeights, anchors: torch.Tensor | None, residual: float
) -> Adapted:
    """Adapt patch tokens: ``residual * f + (1 - residual) * g(f / |f|)``.

    ``g(x) = tanh(W x + b) @ anchors`` for the text-anchored adapter (authors' ``vl_test.py``) and ``W x + b`` for the linear
    one (``vis_test.py``). The residual term is *not* normalised: the length of a token matters.

    Args:
        tokens: (B, L, D) projected patch tokens, not normalised.
        unit: (B, L, D) the same with length 1.
        weights: (B, M, D) and (B, M); M is the number of anchors, or D.
        anchors: (M, D) prompt bank, or ``None`` for the linear adapter.
        residual: Share of the original tokens in [0, 1].
    """
    out = torch.baddbmm(weights.bias.unsqueeze(1), unit, weights.weight.mT)
    activation = None
    if anchors is not None:
        activation = out.tanh_()
        out = activation @ anchors
    return Adapted(out.mul_(1 - residual).add_(tokens, alpha=residual), activation)


def weight_gradients(
    adapted: Adapted,
    difference: torch.Tensor,
    gradient: torch.Tensor,
    unit: torch.Tensor,
    *,
    direction: torch.Tensor,
    anchors: torch.Tensor | None,
    residual: float,
) -> AdapterWeights:
    """Gradients of the adapters' weights in closed form, from the gradient of the cosine differences.

    With f' the adapted token, its cosine difference is d = f' @ direction / |f'|, hence
    grad f' = grad d * (direction - d f' / |f'|) / |f'|. Autograd gives the same numbers with more passes over memory.

    Args:
        adapted: From :func:`apply_adapter`.
        difference: (B, L) cosine differences of the adapted tokens.
        gradient: (B, L) gradient of the loss with respect to them.
        unit: (B, L, D) as given to :func:`apply_adapter`.
        direction: (D,) anomalous minus normal class embedding.
        anchors: As given to :func:`apply_adapter`.
        residual: As given to :func:`apply_adapter`.

    Returns:
        Gradients of weight (B, M, D) and bias (B, M).
    """
    length = torch.linalg.vector_norm(adapted.tokens, dim=-1).clamp_min(1e-12)
    along_direction = (1 - residual) * gradient / length
    along_token = (along_direction * difference / length).unsqueeze(-1)
    along_direction = along_direction.unsqueeze(-1)
    if anchors is None:
        outer = along_direction * direction - along_token * adapted.tokens
    else:
        # Through the anchors: grad f' @ anchors^T, with its two terms projected instead of summed first.
        outer = (adapted.tokens @ anchors.T).mul_(-along_token).addcmul_(along_direction, anchors @ direction)
        outer.addcmul_(outer * adapted.activation, adapted.activation, value=-1)  # tanh' = 1 - tanh^2
    return AdapterWeights(outer.mT @ unit, outer.sum(dim=1))


def adaptation_loss(clean: torch.Tensor, noisy: torch.Tensor) -> torch.Tensor:
    """The loss of each image: entropy of its tokens, and clean tokens normal, noisy ones anomalous.

    ``mean H(p_clean) + 0.5 * mean(-log p_noisy[anomalous] - log p_clean[normal])`` with a softmax without temperature; the
    gradient flows through every term (authors' ``vl_test.py``, ``vis_test.py``). With d the difference of the two cosines,
    p[anomalous] = sigmoid(d) and -log p[anomalous] = softplus(-d).

    Args:
        clean: (B, N) cosine differences, anomalous minus normal, at N places.
        noisy: (B, N) the same of noise-corrupted tokens.

    Returns:
        (B,).
    """
    minus_log_normal = F.softplus(clean)
    # H = p_a * softplus(-d) + p_n * softplus(d), and softplus(-d) = softplus(d) - d
    entropy = minus_log_normal - clean.sigmoid() * clean
    return (entropy + 0.5 * (F.softplus(-noisy) + minus_log_normal)).mean(dim=-1)


def pixel_values(values: torch.Tensor, grid: tuple[int, int], layout: TileLayout) -> torch.Tensor:
    """Upsample values of patches to pixels and stitch the tiles, for the linear adapter's loss.

    Args:
        values: (B, T * h * w).
        grid: (h, w).
        layout: The T tiles.

    Returns:
        (B, H * W).
    """
    maps = values.unflatten(1, (len(layout), *grid)).flatten(0, 1).unsqueeze(1)
    return layout.stitch(upsample(maps, layout.tile)).flatten(1)


class Adaptation(NamedTuple):
    """The result for B images.

    Attributes:
        tokens: (B, L, D) adapted tokens.
        losses: (steps + 1, B), before each step and after the last; the last with the noise of the first step, so that it
            differs from it by the weights alone.
    """

    tokens: torch.Tensor
    losses: torch.Tensor


@torch.no_grad()
def optimise(
    tokens: torch.Tensor,
    weights: AdapterWeights,
    optimizer: torch.optim.Optimizer,
    noises: torch.Tensor,
    *,
    steps: int,
    text: torch.Tensor,
    anchors: torch.Tensor | None,
    residual: float,
    to_places: Callable[[torch.Tensor], torch.Tensor],
) -> Adaptation:
    """Optimise B adapters on their images and adapt the tokens.

    Args:
        tokens: (B, L, D) clean tokens.
        weights: Leaf tensors with gradients, changed in place.
        optimizer: Over ``weights``.
        noises: (max(steps, 1), L, D) noise of each step, equal for all images.
        steps: Number of updates.
        text: (2, D) class embeddings.
        anchors: See :func:`apply_adapter`.
        residual: See there.
        to_places: (B, L) values of patches -> (B, N) values at the places where the loss is taken.

    Returns:
        Adapted tokens and losses, without gradients.
    """
    count = tokens.shape[1]
    direction = text[1] - text[0]
    both, unit = tokens.repeat(1, 2, 1), F.normalize(tokens, dim=-1).repeat(1, 2, 1)

    def forward(noise: torch.Tensor) -> tuple[Adapted, torch.Tensor, torch.Tensor]:
        torch.add(tokens, noise, out=both[:, count:])
        unit[:, count:] = F.normalize(both[:, count:], dim=-1)
        adapted = apply_adapter(both, unit, weights, anchors, residual)
        difference = cosine_difference(adapted.tokens, text).requires_grad_()
        with torch.enable_grad():
            clean, noisy = difference.split(count, dim=1)
            loss = adaptation_loss(to_places(clean), to_places(noisy))
        return adapted, difference, loss

    losses = []
    for noise in noises[:steps]:
        adapted, difference, loss = forward(noise)
        (gradient,) = torch.autograd.grad(loss, difference, torch.ones_like(loss))
        weights.weight.grad, weights.bias.grad = weight_gradients(
            adapted, difference.detach(), gradient, unit, direction=direction, anchors=anchors, residual=residual
        )
        optimizer.step()
        losses.append(loss.detach())
    optimizer.zero_grad(set_to_none=True)
    adapted, _, loss = forward(noises[0])
    return Adaptation(adapted.tokens[:, :count], torch.stack([*losses, loss.detach()]))


def map_correlation(before: torch.Tensor, after: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """How alike two sets of patch scores are: Pearson's correlation of the cosine differences, for each image.

    Args:
        before: (B, L, D) tokens.
        after: (B, L, D) tokens.
        text: (2, D) class embeddings.

    Returns:
        (B,) in [-1, 1]; 0 where one of them is constant.
    """
    x, y = (cosine_difference(tokens, text) for tokens in (before, after))
    x, y = x - x.mean(dim=1, keepdim=True), y - y.mean(dim=1, keepdim=True)
    return F.cosine_similarity(x, y, dim=1)
