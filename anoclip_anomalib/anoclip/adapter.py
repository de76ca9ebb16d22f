"""What test-time adaptation puts into the seam of ``AnoClipModel``."""

from dataclasses import dataclass
from typing import Any

import torch

from anoclip_anomalib.anoclip.adaptation import (
    Adaptation,
    AdapterKind,
    AdapterWeights,
    initial_weights,
    map_correlation,
    optimise,
    pixel_values,
)
from anoclip_anomalib.checks import refuse
from anoclip_anomalib.zeroshot.tiling import TileLayout


@dataclass(frozen=True)
class AdaptationSettings:
    """How to adapt; the defaults are the authors' for MVTec AD (``vl_test.py``).

    Attributes:
        adapter: ``"text"`` (anchored at the prompt bank, loss at the patches; MVTec AD) or ``"linear"`` (loss at the pixels
            of the stitched tiles; VisA).
        steps: Updates for each image.
        lr: Learning rate of AdamW.
        noise_std: Standard deviation of the noise on the tokens.
        weight_decay: Of AdamW.
        residual: Share of the original tokens in the adapted ones.
        reset_optimizer: ``True`` makes an image's result independent of the others. ``False`` is the authors' behaviour:
            images are adapted one by one, fresh weights each, but AdamW's moments and the random numbers go on.
        seed: Of initial weights and noise.
        guard: Keep an image's original tokens where its loss did not fall, or its patch scores correlate with the original
            ones by less than ``guard_correlation``. Not in the paper.
        guard_correlation: See ``guard``.
    """

    adapter: AdapterKind = "text"
    steps: int = 5
    lr: float = 1e-3
    noise_std: float = 0.055
    weight_decay: float = 0.01
    residual: float = 0.5
    reset_optimizer: bool = True
    seed: int = 111
    guard: bool = False
    guard_correlation: float = 0.5

    def __post_init__(self) -> None:
        """Raise a ``ValueError`` that names the first setting that cannot be used."""
        faults = {
            f"adapter={self.adapter!r} is unknown; choose 'text' or 'linear'": self.adapter not in ("text", "linear"),
            f"steps={self.steps} must be 0 or more": self.steps < 0,
            f"lr={self.lr} must be greater than 0": not self.lr > 0,
            f"noise_std={self.noise_std} must be 0 or more": not self.noise_std >= 0,
            f"weight_decay={self.weight_decay} must be 0 or more": not self.weight_decay >= 0,
            f"residual={self.residual} must lie in [0, 1]": not 0 <= self.residual <= 1,
            f"guard_correlation={self.guard_correlation} must lie in [-1, 1]": not -1 <= self.guard_correlation <= 1,
        }
        refuse(faults, "Test-time adaptation: ")


@dataclass(frozen=True)
class AdaptationReport:
    """What happened to the B images of a batch.

    Attributes:
        losses: (steps + 1, B), see :class:`anoclip_anomalib.anoclip.adaptation.Adaptation`.
        broken: (B,) true for images whose tokens or losses were not finite; they keep their original tokens.
        guarded: (B,) true for images whose original tokens were kept by the guard.
    """

    losses: torch.Tensor
    broken: torch.Tensor
    guarded: torch.Tensor


class TokenAdapter:
    """Adapts the patch tokens of a batch of images when it is called, each image on its own.

    Args:
        settings: How to adapt.
        text_embeddings: (2, D) class embeddings.
        prompt_bank: (N, D) embeddings of all sentences, the anchors of the text adapter.

    Attributes:
        report: What happened to the last batch, ``None`` before the first.
    """

    def __init__(self, settings: AdaptationSettings, text_embeddings: torch.Tensor, prompt_bank: torch.Tensor) -> None:
        self.settings = settings
        self.report: AdaptationReport | None = None
        with torch.inference_mode(mode=False):
            self._text = text_embeddings.detach().clone()
            self._anchors = prompt_bank.detach().clone() if settings.adapter == "text" else None
        self._draws: dict[int, tuple[AdapterWeights, torch.Tensor]] = {}
        self._carried: tuple[AdapterWeights, torch.optim.Optimizer, torch.Generator] | None = None

    def __call__(self, patch_tokens: torch.Tensor, grid: tuple[int, int], layout: TileLayout) -> torch.Tensor:
        """Adapt tokens; works under Lightning's inference mode.

        Args:
            patch_tokens: (B, T, h * w, D), T tiles an image.
            grid: (h, w).
            layout: The tiles.

        Returns:
            (B, T, h * w, D) float32 without gradient.
        """
        with torch.inference_mode(mode=False), torch.enable_grad():
            original = patch_tokens.detach().clone().float().flatten(1, 2)
            finite = original.isfinite().all(dim=(1, 2)) if original.numel() else original.new_ones(0, dtype=torch.bool)
            tokens = torch.where(finite.view(-1, 1, 1), original, 0.0)
            result = self._adapt(tokens, grid, layout)
            broken = ~(finite & result.losses.isfinite().all(dim=0) & result.tokens.isfinite().all(dim=(1, 2)))
            guarded = self._guard(tokens, result) & ~broken
            kept = (broken | guarded).view(-1, 1, 1)
            self.report = AdaptationReport(result.losses, broken, guarded)
            return torch.where(kept, original, result.tokens).view_as(patch_tokens)

    def _adapt(self, tokens: torch.Tensor, grid: tuple[int, int], layout: TileLayout) -> Adaptation:
        def to_places(values: torch.Tensor) -> torch.Tensor:
            return values if self.settings.adapter == "text" else pixel_values(values, grid, layout)

        how: dict[str, Any] = {"steps": self.settings.steps, "residual": self.settings.residual, "to_places": to_places}
        how |= {"text": self._text, "anchors": self._anchors}
        if self.settings.reset_optimizer:
            drawn, noises = self._same_draws(tokens)
            weights = _leaves(drawn, len(tokens), tokens.device)
            return optimise(tokens, weights, self._optimizer(weights), noises.to(tokens.device), **how)
        results = []
        for image_tokens in tokens.split(1):
            weights, optimizer, generator = self._carry(tokens)
            noises = self._noises(tokens, generator).to(tokens.device)
            results.append(optimise(image_tokens, weights, optimizer, noises, **how))
        return Adaptation(torch.cat([r.tokens for r in results]), torch.cat([r.losses for r in results], dim=1))

    def _guard(self, tokens: torch.Tensor, result: Adaptation) -> torch.Tensor:
        if not self.settings.guard:
            return torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        moved = map_correlation(tokens, result.tokens, self._text) < self.settings.guard_correlation
        return (result.losses[-1] >= result.losses[0]) | moved

    def _same_draws(self, tokens: torch.Tensor) -> tuple[AdapterWeights, torch.Tensor]:
        """Initial weights and noises from the seed, the same for every image with as many tokens."""
        count = tokens.shape[1]
        if count not in self._draws:
            generator = torch.Generator().manual_seed(self.settings.seed)
            self._draws[count] = (self._initial_weights(generator), self._noises(tokens, generator))
        return self._draws[count]

    def _carry(self, tokens: torch.Tensor) -> tuple[AdapterWeights, torch.optim.Optimizer, torch.Generator]:
        """The one adapter and optimiser of the authors' run, its weights drawn anew and its moments kept."""
        if self._carried is None:
            generator = torch.Generator().manual_seed(self.settings.seed)
            weights = _leaves(self._initial_weights(generator), 1, tokens.device)
            self._carried = (weights, self._optimizer(weights), generator)
        else:
            weights, _, generator = self._carried
            with torch.no_grad():
                for leaf, fresh in zip(weights, self._initial_weights(generator), strict=True):
                    leaf.copy_(fresh)
        return self._carried

    def _initial_weights(self, generator: torch.Generator) -> AdapterWeights:
        dim = self._text.shape[1]
        return initial_weights(dim if self._anchors is None else len(self._anchors), dim, generator)

    def _noises(self, tokens: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """(max(steps, 1), L, D), drawn on the CPU so that every device sees the same numbers."""
        shape = (max(self.settings.steps, 1), *tokens.shape[1:])
        return torch.randn(shape, generator=generator, dtype=torch.float32) * self.settings.noise_std

    def _optimizer(self, weights: AdapterWeights) -> torch.optim.Optimizer:
        # Elementwise, hence one optimiser over the stacked weights is an optimiser for each image.
        return torch.optim.AdamW(weights, lr=self.settings.lr, weight_decay=self.settings.weight_decay, fused=True)


def _leaves(weights: AdapterWeights, count: int, device: torch.device) -> AdapterWeights:
    """``count`` copies of one adapter's weights as leaf tensors with gradients."""
    return AdapterWeights(*(w.to(device).expand(count, *w.shape[1:]).clone().requires_grad_() for w in weights))
