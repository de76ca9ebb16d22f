"""Sentences to text embeddings, with a cache on disk."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import platformdirs
import torch
import torch.nn.functional as F
from open_clip.version import __version__ as open_clip_version
from safetensors import safe_open
from safetensors.torch import save_file

from anoclip_anomalib.clip.blocks import Hook
from anoclip_anomalib.clip.text_tower import embed_tokens, is_causal_tower, walk_text
from anoclip_anomalib.clip.weights import LoadedClip
from anoclip_anomalib.files import atomic_write
from anoclip_anomalib.versions import state_dict_digest

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

    The cache has one file per list of sentences, named by the digest of the weights, activation and heads, the variant, the
    sentences and the version of open_clip. Files are written beside and renamed, so several processes may share the folder;
    a file that is damaged, or holds anything but what was written for its name, is built anew.

    Args:
        clip: The loaded CLIP.
        cache_dir: Folder of the cache; ``None`` for the one in the user's cache folder.
        batch_size: Sentences encoded at once.
        before_block: See :func:`anoclip_anomalib.clip.walk_text`.
        after_block: See there.
        project: See there.
        variant: Tells the cache what the hooks do, for instance by the digest of their weights; hooks need one.

    Raises:
        ValueError: For hooks without a variant, and for hooks or ``project=False`` with a text tower that is not the causal
            transformer of CLIP.
    """

    def __init__(
        self,
        clip: LoadedClip,
        *,
        cache_dir: str | Path | None = None,
        batch_size: int = 128,
        before_block: Hook | None = None,
        after_block: Hook | None = None,
        project: bool = True,
        variant: str = "",
    ) -> None:
        self.clip, self.batch_size = clip, batch_size
        self.cache_dir = default_cache_dir() if cache_dir is None else Path(cache_dir)
        hooked = before_block is not None or after_block is not None
        if hooked and not variant:
            raise ValueError(
                "Hooks in the text tower need a variant: a name that changes with what they do, for the cache of embeddings"
            )
        self._causal = is_causal_tower(clip.text_tower)
        if (hooked or not project) and not self._causal:
            raise ValueError(
                f"The text tower of {clip.backbone} is not CLIP's causal transformer; it can only be used as it is"
            )
        self._walk = partial(walk_text, before_block=before_block, after_block=after_block, project=project)
        self._variant = [variant, project]

    def encode(self, sentences: Sequence[str]) -> torch.Tensor:
        """Text embeddings of sentences, from the cache if they are there.

        Args:
            sentences: N sentences.

        Returns:
            (N, D) float32, equal to ``open_clip_model.encode_text`` but for hooks, not normalised, on the CPU.
        """
        content = json.dumps([self.clip.digest, self.clip.architecture, open_clip_version, self._variant, list(sentences)])
        key = hashlib.sha256(content.encode()).hexdigest()
        path = self.cache_dir / f"{key}.safetensors"
        embeddings = _read_cache(path, key, len(sentences))
        if embeddings is None:
            embeddings = self.encode_uncached(sentences)
            _write_cache(path, key, embeddings)
        return embeddings

    @torch.no_grad()
    def encode_uncached(self, sentences: Sequence[str]) -> torch.Tensor:
        """As :meth:`encode`, always computed.

        Sentences are sorted by length and encoded only as far as the longest of their batch reaches.
        """
        tower = self.clip.text_tower
        device = next(tower.parameters()).device
        tokens = self.clip.tokenize(list(sentences)).to(device)
        with torch.autocast(device.type, enabled=False):  # what is kept is for everybody
            if not self._causal:
                batches = [self.clip.model.encode_text(batch) for batch in tokens.split(self.batch_size)]
                return torch.cat(batches).float().cpu()
            order = tokens.argmax(dim=-1).argsort()
            batches = [self._walk(tower, *embed_tokens(tower, tokens[chosen])) for chosen in order.split(self.batch_size)]
            return torch.cat(batches)[order.argsort()].float().cpu()


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
        raise ValueError(f"Unknown text mean {mean!r}; choose {' or '.join(map(repr, get_args(TextMean)))}")


def _read_cache(path: Path, key: str, count: int) -> torch.Tensor | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            embeddings, metadata = file.get_tensor("embeddings"), file.metadata() or {}
    except Exception as error:  # any damage has the same remedy
        logger.warning("Text embedding cache %s is damaged and will be rebuilt (%s)", path, error)
        return None
    # The digest tells whether these are the numbers that were written for this key; the count that they were right.
    digest = state_dict_digest({key: embeddings})
    if metadata.get("digest") != digest or len(embeddings) != count or not torch.isfinite(embeddings).all():
        logger.warning("Text embedding cache %s does not hold what was written there and will be rebuilt", path)
        return None
    return embeddings


def _write_cache(path: Path, key: str, embeddings: torch.Tensor) -> None:
    try:
        with atomic_write(path) as temporary:
            digest = state_dict_digest({key: embeddings})
            save_file({"embeddings": embeddings.contiguous()}, temporary, metadata={"digest": digest})
    except OSError as error:
        logger.warning("Text embeddings could not be cached at %s (%s); they are computed again next time", path, error)
