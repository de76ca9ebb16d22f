"""Prompts whose tokens are learned: context before fixed words, and tokens that replace others deeper in the tower."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from anoclip_anomalib.clip import Hook, LoadedClip, TextEncoder, embed_tokens, walk_text
from anoclip_anomalib.clip.state_dict import state_dict_digest
from anoclip_anomalib.clip.text_tower import is_causal_tower
from anoclip_anomalib.promptlearning.methods import CONTEXT_TOKENS, DEEP_BLOCKS, DEEP_TOKENS, WORDS
from anoclip_anomalib.zeroshot.buffers import FloatWeights

STD = 0.02
"""Of the initial tokens."""
PLACEHOLDER = "X"


def half_rounded(tokens: torch.Tensor) -> torch.Tensor:
    """Tokens rounded to what float16 can hold, as the authors' code does in whatever precision it runs."""
    return tokens.half().to(tokens.dtype)


def overwrite(x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Put tokens into sequences in the place of those behind the start of text.

    Args:
        x: (B, L, D).
        tokens: (B, n, D), or (n, D) for all sequences.

    Returns:
        (B, L, D).
    """
    tokens = tokens.to(x.dtype).expand(len(x), -1, -1)
    return torch.cat([x[:, :1], tokens, x[:, 1 + tokens.shape[1] :]], dim=1)


class PromptLearner(FloatWeights):
    """What AnomalyCLIP and Crane learn: a normal and an abnormal prompt that know no product.

    The prompts are ``[V1]...[Vn] object.`` and ``[W1]...[Wn] damaged object.`` Before text blocks 2, 3, ... the tokens behind
    the start of text are overwritten by learned ones (authors' ``prompt_ensemble.py``).

    Args:
        width: Of the text tower.
        context: n.
        deep_sets: How many blocks, from the second on, get tokens of their own.
        deep_tokens: How many each of them gets.

    Attributes:
        context: (2, n, width), normal then abnormal.
        deep: (deep_sets, deep_tokens, width).
        rounded: Whether the deep tokens are rounded to float16, as in the authors' code.
    """

    def __init__(
        self, width: int, context: int = CONTEXT_TOKENS, deep_sets: int = DEEP_BLOCKS - 1, deep_tokens: int = DEEP_TOKENS
    ) -> None:
        super().__init__()
        self.rounded = True
        self.deep = nn.Parameter(STD * torch.randn(deep_sets, deep_tokens, width))
        self.context = nn.Parameter(STD * torch.randn(2, context, width))

    def hook(self, tower: nn.Module, context: torch.Tensor) -> Hook:
        """What :func:`anoclip_anomalib.clip.walk_text` does before its blocks.

        Args:
            tower: The text tower, for the positions of the context tokens.
            context: (B, n, width) for B sequences.
        """
        places = tower.positional_embedding[1 : 1 + context.shape[1]]

        def before_block(number: int, x: torch.Tensor) -> torch.Tensor:
            if number == 1:
                return overwrite(x, context + places)
            if number - 2 < len(self.deep):
                tokens = self.deep[number - 2]
                return overwrite(x, half_rounded(tokens) if self.rounded else tokens)
            return x

        return before_block


def causal_tower(clip: LoadedClip) -> nn.Module:
    """The text tower, into which tokens can be put.

    Raises:
        ValueError: If it is not the causal transformer of CLIP.
    """
    if not is_causal_tower(clip.text_tower):
        raise ValueError(f"The text tower of {clip.backbone} is not CLIP's causal transformer, into which learned tokens go")
    return clip.text_tower


def new_prompt_learner(clip: LoadedClip) -> PromptLearner:
    """Initial prompts for a CLIP; towers of fewer than 9 blocks get deep tokens in all of them.

    Raises:
        ValueError: If the text tower is not the causal transformer of CLIP.
    """
    tower = causal_tower(clip)
    depth = len(tower.transformer.resblocks)
    return PromptLearner(tower.ln_final.weight.shape[0], deep_sets=min(DEEP_BLOCKS, depth) - 1)


def prompt_sentences(tokens: int) -> list[str]:
    """The two sentences with placeholders for the learned tokens."""
    return [" ".join([PLACEHOLDER] * tokens + [ending]) for ending in WORDS]


def embed_prompts(clip: LoadedClip, learner: PromptLearner, *, cache_dir: str | Path | None = None) -> torch.Tensor:
    """The text embeddings, without gradients, from the cache on disk if they are there.

    Args:
        clip: The loaded CLIP.
        learner: On the CPU.
        cache_dir: See :class:`anoclip_anomalib.clip.TextEncoder`.

    Returns:
        (2, E) unit vectors, normal then anomalous, float32.
    """
    digest = state_dict_digest(learner.state_dict())
    found = []
    for kind, sentence in enumerate(prompt_sentences(learner.context.shape[1])):
        hook = learner.hook(clip.text_tower, learner.context[kind : kind + 1])
        variant = f"prompts {digest} {kind} {learner.rounded}"
        found.append(TextEncoder(clip, cache_dir=cache_dir, before_block=hook, variant=variant).encode([sentence]))
    return F.normalize(torch.cat(found), dim=-1)


class PromptTrainer:
    """The same with gradients, for training: tokenised once, encoded at each step.

    Args:
        clip: The loaded CLIP.
        learner: What is trained, for the number of its tokens.
        image_token: Whether an image's class token follows the context tokens, as one more token of the sentence.

    Raises:
        ValueError: If the image's class token does not have the width of a word's.
    """

    def __init__(self, clip: LoadedClip, learner: PromptLearner, *, image_token: bool = False) -> None:
        self.tower, self.image_token = clip.text_tower, image_token
        self.tokens = clip.tokenize(prompt_sentences(learner.context.shape[1] + image_token))
        visual = clip.model.visual
        joint = visual.proj.shape[1] if visual.proj is not None else visual.ln_post.weight.shape[0]
        if image_token and joint != learner.context.shape[2]:
            raise ValueError(
                f"The class token of {clip.backbone} has {joint} numbers and a token of its text tower "
                f"{learner.context.shape[2]}: it cannot be a word, which Crane's training needs"
            )

    def __call__(self, learner: PromptLearner, class_token: torch.Tensor | None = None) -> torch.Tensor:
        """Text embeddings.

        Args:
            learner: What is trained.
            class_token: With ``image_token`` the images' unit class tokens (B, W).

        Returns:
            (2, E) unit vectors; with ``image_token`` (B, 2, E).
        """
        embeddings, ends = embed_tokens(self.tower, self.tokens.to(self.tower.positional_embedding.device))
        context = learner.context
        if self.image_token:
            assert class_token is not None
            images = len(class_token)
            own = class_token.to(context.dtype)[:, None, None].expand(-1, 2, -1, -1)
            context = torch.cat([context.expand(images, -1, -1, -1), own], dim=2).flatten(0, 1)
            embeddings, ends = embeddings.repeat(images, 1, 1), ends.repeat(images)
        text = walk_text(self.tower, embeddings, ends, before_block=learner.hook(self.tower, context))
        text = F.normalize(text.float(), dim=-1)
        return text.unflatten(0, (-1, 2)) if self.image_token else text
