"""AdaCLIP's prompts in both towers: a static part, and one that is made from the image (authors' ``method/adaclip.py``)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from anoclip_anomalib.clip import Hook, walk_text
from anoclip_anomalib.promptlearning.linear_heads import LinearHeads
from anoclip_anomalib.promptlearning.methods import HYBRID_BLOCKS, HYBRID_TOKENS
from anoclip_anomalib.promptlearning.prompt_learner import STD, half_rounded, overwrite


class HybridPrompts(nn.Module):
    """Prompts of one tower: ``static[j] + generator(c)`` before block j, with c the image's embedding by plain CLIP.

    Args:
        width: Of the tower.
        joint: Of the embedding c.
        blocks: How many of the first blocks have prompts.
        tokens: How many tokens a prompt has.

    Attributes:
        rounded: Whether prompts are rounded to float16, as in the authors' code.
    """

    def __init__(self, width: int, joint: int, blocks: int = HYBRID_BLOCKS, tokens: int = HYBRID_TOKENS) -> None:
        super().__init__()
        self.rounded = True
        self.static = nn.Parameter(STD * torch.randn(blocks, tokens, width))
        self.generator = nn.ModuleList([nn.Linear(joint, width) for _ in range(tokens)])

    def forward(self, condition: torch.Tensor) -> torch.Tensor:
        """(B, joint), not normalised -> (blocks, B, tokens, width)."""
        dynamic = torch.stack([linear(condition) for linear in self.generator], dim=1)
        prompts = self.static.unsqueeze(1) + dynamic
        return half_rounded(prompts) if self.rounded else prompts


def image_hook(prompts: torch.Tensor) -> Hook:
    """Prompts as tokens behind the patches: appended before block 1, replaced before the next, then ordinary tokens.

    Args:
        prompts: (blocks, B, tokens, width).
    """
    blocks, count = prompts.shape[0], prompts.shape[2]

    def before_block(number: int, x: torch.Tensor) -> torch.Tensor:
        if number > blocks:
            return x
        own = x if number == 1 else x[:, :-count]
        return torch.cat([own, prompts[number - 1].to(x.dtype)], dim=1)

    return before_block


def text_hook(prompts: torch.Tensor) -> Hook:
    """Prompts in the place of the first words, before blocks 2, 3, ...; those of block 1 are not used.

    Args:
        prompts: (blocks, B, tokens, width), of B sequences.
    """

    def before_block(number: int, x: torch.Tensor) -> torch.Tensor:
        return overwrite(x, prompts[number - 1]) if 2 <= number <= len(prompts) else x

    return before_block


class HybridLearner(LinearHeads):
    """What AdaCLIP learns.

    Args:
        width: Of the image tower.
        text_width: Of the text tower.
        joint: Of the joint space.
        taps: Blocks behind which patches are read, counted from 1 (authors: 6, 12, 18, 24).
        blocks: Blocks with prompts in the image tower and in the text tower.
        tokens: Tokens of a prompt.
    """

    def __init__(
        self,
        width: int,
        text_width: int,
        joint: int,
        taps: Sequence[int],
        blocks: tuple[int, int] = (HYBRID_BLOCKS, HYBRID_BLOCKS),
        tokens: int = HYBRID_TOKENS,
    ) -> None:
        super().__init__(width, joint, taps)
        self.image_prompts = HybridPrompts(width, joint, blocks[0], tokens)
        self.text_prompts = HybridPrompts(text_width, joint, blocks[1], tokens)
        self.class_token = nn.Linear(joint, joint)

    def set_rounded(self, rounded: bool) -> None:  # noqa: FBT001
        """Whether prompts are rounded to float16."""
        self.image_prompts.rounded = self.text_prompts.rounded = rounded


def embed_for_images(
    tower: nn.Module, embeddings: torch.Tensor, ends: torch.Tensor, normal: int, prompts: torch.Tensor
) -> torch.Tensor:
    """The text embeddings of each image of a batch.

    Args:
        tower: The text tower.
        embeddings: (N, L, D) token embeddings of the sentences, the normal ones first.
        ends: (N,) places of their ends.
        normal: How many are normal.
        prompts: (blocks, B, tokens, D), see :class:`HybridPrompts`.

    Returns:
        (B, 2, E) unit vectors, normal then anomalous: sentences are normalised, averaged and normalised again.
    """
    images, count = prompts.shape[1], len(embeddings)
    each = prompts.repeat_interleave(count, dim=1)
    text = walk_text(tower, embeddings.repeat(images, 1, 1), ends.repeat(images), before_block=text_hook(each))
    text = F.normalize(text.float(), dim=-1).unflatten(0, (images, count))
    means = torch.stack([text[:, :normal].mean(dim=1), text[:, normal:].mean(dim=1)], dim=1)
    return F.normalize(means, dim=-1)
