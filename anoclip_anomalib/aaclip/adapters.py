"""What AA-CLIP learns: residual adapters in both towers and the projections behind them (authors' ``model/adapter.py``)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from anoclip_anomalib.aaclip.settings import MIXING, ClassToken, Projections
from anoclip_anomalib.clip import LoadedClip, Tap, walk_image
from anoclip_anomalib.zeroshot.buffers import FloatWeights

SLOPE = 0.01
"""Of the LeakyReLU."""


def adapt_tokens(x: torch.Tensor, weight: torch.Tensor, mixing: float = MIXING) -> torch.Tensor:
    """Adapt tokens and keep their length: ``mixing * a |x| / |a| + (1 - mixing) * x`` with ``a = LeakyReLU(W x)``.

    Args:
        x: (..., D) tokens behind a block, the class token among them.
        weight: (D, D).
        mixing: Share of the adapter's output; 0 leaves the tokens as they are.

    Returns:
        (..., D).
    """
    adapted = F.leaky_relu(F.linear(x, weight.to(x.dtype)), SLOPE)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    own = torch.linalg.vector_norm(adapted, dim=-1, keepdim=True)
    return mixing * adapted * (length / own.clamp_min(torch.finfo(own.dtype).tiny)) + (1 - mixing) * x


class ResidualAdapters(nn.Module):
    """Adapters behind the first blocks of a tower: the ``after_block`` hook of its walk.

    Args:
        count: How many of the first blocks have one.
        dim: Width of the tower.
        mixing: See :func:`adapt_tokens`.
    """

    def __init__(self, count: int, dim: int, mixing: float = MIXING) -> None:
        super().__init__()
        self.mixing = mixing
        self.weights = nn.ParameterList([nn.init.xavier_uniform_(torch.empty(dim, dim)) for _ in range(count)])

    def forward(self, number: int, x: torch.Tensor) -> torch.Tensor:
        """Adapt the tokens (B, L, D) behind block ``number``, counted from 1, if it has an adapter."""
        return adapt_tokens(x, self.weights[number - 1], self.mixing) if number <= len(self.weights) else x


class TextAdapters(FloatWeights):
    """The text half: adapters behind the first blocks and the projection that takes the place of CLIP's.

    Args:
        count: Adapted blocks (authors: 3).
        dim: Width of the text tower.
        embed_dim: Width of the space of the anchors.
        mixing: See :func:`adapt_tokens`.
        activation: Whether a LeakyReLU follows the projection (authors: yes).
    """

    def __init__(self, count: int, dim: int, embed_dim: int, mixing: float = MIXING, *, activation: bool = False) -> None:
        super().__init__()
        self.activation = activation
        self.adapters = ResidualAdapters(count, dim, mixing)
        self.projection = _projection(dim, embed_dim)

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """Text embeddings (N, E), not normalised, of what the tower's last LayerNorm gives at the end of text, (N, D)."""
        x = self.projection(x.float())
        return F.leaky_relu(x, SLOPE) if self.activation else x


class ImageAdapters(FloatWeights):
    """The image half: adapters behind the first blocks, a segmentation projection for each tap, a detection projection.

    Args:
        count: Adapted blocks (authors: 6).
        dim: Width of the image tower.
        embed_dim: Width of the space of the anchors.
        taps: Blocks behind which patches are read, counted from 1 (authors: 6, 12, 18, 24).
        mixing: See :func:`adapt_tokens`.
        class_share: Share of the class token in the detection vector (authors: 0).
        class_token: Which one: ``"adapted"``, with a projection of its own, or plain ``"clip"``'s, from a second walk through
            the tower without adapters.
    """

    def __init__(
        self,
        count: int,
        dim: int,
        embed_dim: int,
        taps: Sequence[int],
        mixing: float = MIXING,
        class_share: float = 0.0,
        class_token: ClassToken = "adapted",
    ) -> None:
        super().__init__()
        self.taps, self.class_share, self.class_token = tuple(taps), class_share, class_token
        self.adapters = ResidualAdapters(count, dim, mixing)
        self.segmentation = nn.ModuleList([_projection(dim, embed_dim) for _ in self.taps])
        self.detection = _projection(dim, embed_dim).requires_grad_(not self.frozen_detection)
        own = class_share > 0 and class_token == "adapted"
        self.class_detection = _projection(dim, embed_dim) if own else None

    @property
    def frozen_detection(self) -> bool:
        """Whether the detection vector is plain CLIP's class token alone, so that nothing of it is learned."""
        return self.class_token == "clip" and self.class_share == 1

    @property
    def reads(self) -> list[Tap]:
        """What the walk through the tower must read for :meth:`project`."""
        last = [Tap(block=self.taps[-1], tokens="class", project=False)] if self.class_detection is not None else []
        return [*(Tap(block=block, project=False) for block in self.taps), *last]

    def read(
        self, visual: nn.Module, images: torch.Tensor, *, learning: bool = False, checkpointing: bool = False
    ) -> tuple[list[torch.Tensor], torch.Tensor, tuple[int, int]]:
        """Walk images through the tower.

        Args:
            visual: The frozen tower.
            images: (B, 3, H, W).
            learning: Save the walk for a :attr:`frozen_detection`; the detection vector is then of no use.
            checkpointing: See :func:`walk_image`.

        Returns:
            What :meth:`project` gives, and the grid (h, w).
        """
        tapped, grid = walk_image(visual, images, self.reads, after_block=self.adapters, checkpointing=checkpointing)
        plain = None
        if self.class_share and self.class_token == "clip" and not (learning and self.frozen_detection):
            (plain,), _ = walk_image(visual, images, [Tap(tokens="class")])
        with torch.autocast(images.device.type, enabled=False):
            return *self.project(tapped, plain), grid

    def project(
        self, tapped: Sequence[torch.Tensor], plain: torch.Tensor | None = None
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Unit patch features of every level and the detection vector.

        Args:
            tapped: What :attr:`reads` names, behind ``ln_post``: patch tokens (B, L, D) of each tap and, for an adapted class
                token, that (B, D) of the last.
            plain: (B, E) CLIP's own class token, in the joint space, where the detection vector has it.

        Returns:
            Levels, each (B, L, E) unit vectors, and the mean of the last level's unit detection features (B, E), which is
            *not* normalised again; with a ``class_share`` the unit feature of the class token has that share in it.
        """
        levels = [F.normalize(own(x.float()), dim=-1) for own, x in zip(self.segmentation, tapped, strict=False)]
        detection = F.normalize(self.detection(tapped[len(levels) - 1].float()), dim=-1).mean(dim=1)
        whole = plain if self.class_detection is None else self.class_detection(tapped[-1].float())
        if whole is not None:
            detection = self.class_share * F.normalize(whole.float(), dim=-1) + (1 - self.class_share) * detection
        return levels, detection


def _projection(dim: int, embed_dim: int) -> nn.Linear:
    linear = nn.Linear(dim, embed_dim, bias=False)
    nn.init.xavier_uniform_(linear.weight)
    return linear


def default_taps(depth: int) -> tuple[int, ...]:
    """The ends of the four quarters of a tower: 6, 12, 18, 24 of 24 blocks."""
    return tuple(sorted({max(1, depth * quarter // 4) for quarter in (1, 2, 3, 4)}))


def new_text_adapters(clip: LoadedClip, *, reference: bool, count: int | None = None, mixing: float = MIXING) -> TextAdapters:
    """An untrained text half for a CLIP.

    Args:
        clip: The CLIP.
        reference: As in the authors' code: a random projection with LeakyReLU. Otherwise the projection is a copy of
            CLIP's own, so that the anchors start, and stay near, where CLIP's image embeddings are.
        count: Adapted blocks; ``None`` for the first quarter of the tower (3 of 12). With 0 and without ``reference`` the
            anchors are plain CLIP's.
        mixing: See :func:`adapt_tokens`.

    Raises:
        ValueError: If the tower has fewer blocks, or no projection.
    """
    tower = clip.text_tower
    depth, dim = len(tower.transformer.resblocks), tower.ln_final.weight.shape[0]
    own = text_projection(clip)
    count = _checked(max(1, depth // 4) if count is None else count, depth, "text")
    adapters = TextAdapters(count, dim, own.shape[0], mixing, activation=reference)
    if not reference:
        with torch.no_grad():
            adapters.projection.weight.copy_(own)
    return adapters


def new_image_adapters(
    clip: LoadedClip,
    *,
    reference: bool,
    count: int | None = None,
    taps: Sequence[int] | None = None,
    mixing: float = MIXING,
    projections: Projections = "clip",
    class_share: float = 0.0,
    class_token: ClassToken = "adapted",
) -> ImageAdapters:
    """An untrained image half for a CLIP.

    Args:
        clip: The CLIP.
        reference: As in the authors' code: random projections.
        count: Adapted blocks; ``None`` for the first quarter of the tower (6 of 24), at least 6 if it has them.
        taps: Blocks behind which patches are read; ``None`` for the ends of the four quarters.
        mixing: See :func:`adapt_tokens`.
        projections: Unless ``reference``: copies of CLIP's own, or random ones. That of the class token is always a copy.
        class_share: See :class:`ImageAdapters`.
        class_token: See there.

    Raises:
        ValueError: If the tower has fewer blocks.
    """
    visual = clip.model.visual
    depth, dim = len(visual.transformer.resblocks), visual.ln_post.weight.shape[0]
    taps = default_taps(depth) if taps is None else taps
    if max(taps) > depth:
        raise ValueError(f"No tap behind block {max(taps)}: the image tower of {clip.backbone} has {depth} blocks")
    count = _checked(min(max(depth // 4, 6), depth) if count is None else count, depth, "image")
    adapters = ImageAdapters(count, dim, text_projection(clip).shape[0], taps, mixing, class_share, class_token)
    copies = [] if reference or projections == "random" else [*adapters.segmentation, adapters.detection]
    if adapters.class_detection is not None:
        copies.append(adapters.class_detection)
    if visual.proj is not None:
        with torch.no_grad():
            for linear in copies:
                linear.weight.copy_(visual.proj.T)
    return adapters


def _checked(count: int, depth: int, tower: str) -> int:
    if not 0 <= count <= depth:
        raise ValueError(f"{count} adapters do not fit the {tower} tower, which has {depth} blocks")
    return count


def text_projection(clip: LoadedClip) -> torch.Tensor:
    """CLIP's own text projection as a weight (E, D).

    Raises:
        ValueError: If the text tower has none.
    """
    projection = clip.text_tower.text_projection
    if projection is None:
        raise ValueError(f"The text tower of {clip.backbone} has no projection into the joint space, which AA-CLIP needs")
    return projection.weight.detach() if isinstance(projection, nn.Module) else projection.detach().T
