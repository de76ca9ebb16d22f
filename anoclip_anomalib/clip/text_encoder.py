"""Sentences to text embeddings, with a cache on disk."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import platformdirs
import torch
import torch.nn.functional as F
from open_clip.version import __version__ as open_clip_version
from safetensors.torch import load_file, save_file
from torch import nn

from anoclip_anomalib.clip.blocks import causal_block, check_block
from anoclip_anomalib.clip.weights import LoadedClip
from anoclip_anomalib.files import atomic_write

logger = logging.getLogger(__name__)

TextMean = Literal["before_norm", "after_norm"]


@dataclass(frozen=True)
class TextEmbeddings:
    """What the method needs to know about a class.

    Attributes:
        class_embeddings: (2, D) unit vectors, normal then anomalous.
        prompt_bank: (N, D) unit vectors of all sentences, the normal ones first.
    """

    class_embeddings: torch.Tensor
    prompt_bank: torch.Tensor


def default_cache_dir() -> Path:
    """The folder for text embeddings in the user's cache."""
    return Path(platformdirs.user_cache_dir("anoclip_anomalib")) / "text"


class TextEncoder:
    """Encodes sentences with a CLIP's text tower, and remembers the results on disk.

    The cache has one file per list of sentences, named by the digest of the weights, the sentences and the version of
    open_clip. Files are written beside and renamed, so several processes may share the folder; a damaged file is built anew.

    Args:
        clip: The loaded CLIP.
        cache_dir: Folder of the cache; ``None`` for the one in the user's cache folder.
        batch_size: Sentences encoded at once.
    """

    def __init__(self, clip: LoadedClip, *, cache_dir: str | Path | None = None, batch_size: int = 128) -> None:
        self.clip = clip
        self.cache_dir = default_cache_dir() if cache_dir is None else Path(cache_dir)
        self.batch_size = batch_size

    def encode(self, sentences: Sequence[str]) -> torch.Tensor:
        """Text embeddings of sentences, from the cache if they are there.

        Args:
            sentences: N sentences.

        Returns:
            (N, D) float32, equal to ``open_clip_model.encode_text``, not normalised, on the CPU.
        """
        sentences = list(sentences)
        path = self.cache_dir / f"{self._key(sentences)}.safetensors"
        embeddings = _read_cache(path, len(sentences))
        if embeddings is None:
            embeddings = self.encode_uncached(sentences)
            _write_cache(path, embeddings)
        return embeddings

    @torch.no_grad()
    def encode_uncached(self, sentences: Sequence[str]) -> torch.Tensor:
        """As :meth:`encode`, always computed.

        Sentences are sorted by length and encoded only as far as the longest of their batch reaches: attention in the text
        tower is causal, so that nothing behind a sentence's end-of-text token can influence it.
        """
        model = self.clip.model
        tokens = self.clip.tokenize(list(sentences)).to(next(model.parameters()).device)
        tower = getattr(model, "text", model)
        if not _is_causal_tower(tower):
            batches = [model.encode_text(batch) for batch in tokens.split(self.batch_size)]
            return torch.cat(batches).float().cpu()
        ends = tokens.argmax(dim=-1)  # end-of-text has the highest id
        order = ends.argsort()
        batches = [_encode_until_end(tower, tokens[chosen], ends[chosen]) for chosen in order.split(self.batch_size)]
        return torch.cat(batches)[order.argsort()].float().cpu()

    def _key(self, sentences: list[str]) -> str:
        content = json.dumps([self.clip.digest, open_clip_version, sentences])
        return hashlib.sha256(content.encode()).hexdigest()


def embed_class(
    encoder: TextEncoder, normal: Sequence[str], abnormal: Sequence[str], *, mean: TextMean = "before_norm"
) -> TextEmbeddings:
    """The two class embeddings and the prompt bank of a class.

    Args:
        encoder: The text encoder.
        normal: Sentences about good parts.
        abnormal: Sentences about defective parts.
        mean: ``"before_norm"`` averages the embeddings as they are (AnoCLIP's code), ``"after_norm"`` normalises each
            sentence first (WinCLIP and others). The mean is normalised in both.

    Raises:
        ValueError: If ``mean`` is unknown.
    """
    check_text_mean(mean)
    embeddings = encoder.encode([*normal, *abnormal])
    bank = F.normalize(embeddings, dim=-1)
    averaged = embeddings if mean == "before_norm" else bank
    means = torch.stack([averaged[: len(normal)].mean(dim=0), averaged[len(normal) :].mean(dim=0)])
    return TextEmbeddings(F.normalize(means, dim=-1), bank)


def check_text_mean(mean: str) -> None:
    """Raise a ``ValueError`` unless :func:`embed_class` knows this kind of mean."""
    if mean not in get_args(TextMean):
        msg = f"Unknown text mean {mean!r}; choose {' or '.join(map(repr, get_args(TextMean)))}"
        raise ValueError(msg)


def _is_causal_tower(tower: nn.Module) -> bool:
    """Whether the tower is open_clip's causal transformer that reads the sentence at its end-of-text token."""
    if getattr(tower, "attn_mask", None) is None or not hasattr(tower, "token_embedding"):
        return False
    if getattr(tower, "cls_emb", None) is not None or getattr(tower, "use_pad_mask", False):
        return False
    pool = getattr(tower, "text_pool_type", getattr(tower, "pool_type", "argmax"))
    if pool != "argmax":
        return False
    for block in tower.transformer.resblocks:
        check_block(block)
    return True


def _encode_until_end(tower: nn.Module, tokens: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    length = int(ends.max()) + 1
    x = tower.token_embedding(tokens[:, :length]) + tower.positional_embedding[:length]
    for block in tower.transformer.resblocks:
        x = causal_block(block, x)
    x = tower.ln_final(x[torch.arange(len(x), device=x.device), ends])
    projection = tower.text_projection
    if projection is None:
        return x
    return projection(x) if isinstance(projection, nn.Module) else x @ projection


def _read_cache(path: Path, count: int) -> torch.Tensor | None:
    if not path.is_file():
        return None
    try:
        embeddings = load_file(path)["embeddings"]
    except Exception as error:  # any damage has the same remedy
        logger.warning("Text embedding cache %s is damaged and will be rebuilt (%s)", path, error)
        return None
    if embeddings.ndim != 2 or len(embeddings) != count or not torch.isfinite(embeddings).all():
        logger.warning("Text embedding cache %s does not hold %d embeddings and will be rebuilt", path, count)
        return None
    return embeddings


def _write_cache(path: Path, embeddings: torch.Tensor) -> None:
    try:
        with atomic_write(path) as temporary:
            save_file({"embeddings": embeddings.contiguous()}, temporary)
    except OSError as error:
        logger.warning("Text embeddings could not be cached at %s (%s); they are computed again next time", path, error)
