"""Anchors: sentences through the adapted text tower to a normal and an anomalous vector."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from anoclip_anomalib.aaclip.adapters import TextAdapters
from anoclip_anomalib.clip import LoadedClip, TextEncoder, embed_tokens, walk_text
from anoclip_anomalib.clip.state_dict import state_dict_digest
from anoclip_anomalib.prompts.aaclip import sentences


def anchor(normal: torch.Tensor, abnormal: torch.Tensor) -> torch.Tensor:
    """Normalise sentence embeddings, average each kind and normalise again: (N, E), (M, E) -> (2, E) unit vectors."""
    means = torch.stack([F.normalize(kind, dim=-1).mean(dim=0) for kind in (normal, abnormal)])
    return F.normalize(means, dim=-1)


def embed_anchors(
    clip: LoadedClip, adapters: TextAdapters, descriptions: Sequence[str], *, cache_dir: str | Path | None = None
) -> torch.Tensor:
    """The anchors of a class, without gradients, from the cache on disk if they are there.

    Args:
        clip: The loaded CLIP.
        adapters: The text half, on the CPU.
        descriptions: What the sentences say; the sentences of several descriptions are averaged.
        cache_dir: See :class:`anoclip_anomalib.clip.TextEncoder`.

    Returns:
        (2, E) unit vectors, normal then anomalous, float32.
    """
    variant = f"aaclip {adapters.adapters.mixing} {state_dict_digest(adapters.adapters.state_dict())}"
    encoder = TextEncoder(clip, cache_dir=cache_dir, after_block=adapters.adapters, project=False, variant=variant)
    texts, count = _sentences(descriptions)
    embeddings = encoder.encode(texts)
    with torch.no_grad():
        embeddings = adapters.project(embeddings)
    return anchor(embeddings[:count], embeddings[count:])


def _sentences(descriptions: Sequence[str]) -> tuple[list[str], int]:
    """The sentences of all descriptions, normal ones first, and how many these are."""
    normal, abnormal = ([text for one in descriptions for text in sentences(one)[kind]] for kind in (0, 1))
    return [*normal, *abnormal], len(normal)


class AnchorTrainer:
    """The same with gradients, for training: tokenised once, encoded at each step.

    Args:
        clip: The loaded CLIP.
        descriptions: One list of descriptions for each class.
        checkpointing: Compute the tower's blocks again in the backward pass.
    """

    def __init__(self, clip: LoadedClip, descriptions: Sequence[Sequence[str]], *, checkpointing: bool = False) -> None:
        self.tower = clip.text_tower
        self.checkpointing = checkpointing
        self.classes = []
        for own in descriptions:
            texts, count = _sentences(own)
            self.classes.append((clip.tokenize(texts), count))

    def __call__(self, adapters: TextAdapters, index: torch.Tensor) -> torch.Tensor:
        """Anchors of the images of a batch: class index (B,) -> (B, 2, E); each class is encoded once."""
        found, place = index.unique(return_inverse=True)
        return torch.stack([self._anchor(adapters, int(number)) for number in found])[place]

    def _anchor(self, adapters: TextAdapters, number: int) -> torch.Tensor:
        tokens, count = self.classes[number]
        embeddings, ends = embed_tokens(self.tower, tokens.to(self.tower.positional_embedding.device))
        encoded = walk_text(
            self.tower, embeddings, ends, after_block=adapters.adapters, project=False, checkpointing=self.checkpointing
        )
        projected = adapters.project(encoded)
        return anchor(projected[:count], projected[count:])
