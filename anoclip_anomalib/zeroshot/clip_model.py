"""What the torch models on a frozen CLIP share: its image encoder, batches for it, and the embeddings of a class."""

from collections.abc import Callable
from pathlib import Path

import torch
from anomalib.data import InferenceBatch

from anoclip_anomalib.clip import LoadedClip, VisualEncoder
from anoclip_anomalib.zeroshot.buffers import FloatBuffers
from anoclip_anomalib.zeroshot.clip_reference import ClipReference
from anoclip_anomalib.zeroshot.tiling import Tiling


class ClipModel(FloatBuffers):
    """Base of the torch models; their constructors call :meth:`take_clip` once.

    Attributes:
        text_embeddings: (2, D) unit vectors, normal then anomalous; empty before a class is set.
        class_name: The class that they were made for.
        image_size: (height, width) of the images.
    """

    float_buffers: tuple[str, ...] = ("text_embeddings",)
    tiling: Tiling = "none"
    text_embeddings: torch.Tensor
    encode: Callable
    score: Callable

    def take_clip(
        self,
        clip: LoadedClip,
        encoder: VisualEncoder,
        size: tuple[int, int] | None,
        encode_batch_size: int,
        text_cache_dir: str | Path | None,
    ) -> None:
        """Take over a CLIP.

        Args:
            clip: The loaded CLIP, which encodes text.
            encoder: Around its image tower.
            size: (height, width) of the images; ``None`` for the one that it was trained with.
            encode_batch_size: Images that go through the encoder at once.
            text_cache_dir: Folder for text embeddings; ``None`` for the user's cache folder.

        Raises:
            ValueError: If the image size does not fit the patches.
        """
        # Not a submodule: neither moved nor saved with the model. Text is always encoded on the CPU in float32.
        self._clip = ClipReference(clip)
        self.backbone, self.pretrained, self.provenance = clip.backbone, clip.pretrained, clip.provenance
        self.encode_batch_size, self.text_cache_dir = encode_batch_size, text_cache_dir
        self.visual_encoder, self.image_size = encoder, size or encoder.image_size
        encoder.check_image_size(*self.image_size)
        self.class_name: str | None = None
        self.register_buffer("text_embeddings", torch.empty(0))

    @property
    def _limit(self) -> int | None:
        # An exported graph has a batch size of its own choice, which no branch here may fix.
        return None if torch.compiler.is_compiling() else self.encode_batch_size

    def _batches(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (images,) if self._limit is None else images.split(self._limit)

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        """Read and score images, see :meth:`encode` and :meth:`score`."""
        return self.score(self.encode(images))
