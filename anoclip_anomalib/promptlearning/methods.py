"""The methods as choices in one table. Read without importing torch."""

from dataclasses import dataclass
from typing import Any, Literal

from anoclip_anomalib.checks import did_you_mean

MethodName = Literal["anomalyclip", "crane", "crane-plus", "adaclip", "april-gan"]
Learned = Literal["prompts", "hybrid", "projections"]
Order = Literal["softmax first", "softmax last", "softmax per level"]


@dataclass(frozen=True, kw_only=True)
class PromptMethod:
    """What a method chooses. Constants are those of the authors' code, see ``docs/methods.md``.

    Attributes:
        name: As users and files call it.
        title: As its authors call it.
        learned: ``"prompts"``: context tokens and deep text tokens around fixed words. ``"hybrid"``: prompts of both towers,
            in part made from the image, and linear heads. ``"projections"``: linear heads alone.
        activation: Of CLIP's MLPs, as the authors have it.
        position: Kind of position embedding at another size, see :func:`anoclip_anomalib.clip.walk_image`.
        local_attention: Of the local path; ``None`` where patches are read from the original stream.
        second_encoder: Whether a second local path takes its attention weights from another encoder.
        class_norm: Whether the class token passes ``ln_post``.
        temperature: That cosines are divided by.
        order: Of upsampling, softmax and mean over the levels: ``"softmax first"``, then upsampling, then the mean;
            ``"softmax last"``, behind upsampling and mean; ``"softmax per level"``, between them.
        align_corners: Of the upsampling.
        smoothed: Whether a Gaussian follows.
        pooling: Share of pooled patches in the image feature; the class token has the rest.
        image_token: Whether training puts the image's class token behind the context tokens.
    """

    name: MethodName
    title: str
    learned: Learned
    activation: Literal["quick_gelu", "gelu"]
    position: Literal["bilinear", "bicubic", "bicubic-antialias"]
    local_attention: Literal["value", "self-self"] | None = None
    second_encoder: bool = False
    class_norm: bool = True
    temperature: float = 0.07
    order: Order = "softmax first"
    align_corners: bool = False
    smoothed: bool = True
    pooling: float = 0.0
    image_token: bool = False

    @property
    def needs_class(self) -> bool:
        """Whether the prompts name the product; otherwise they say "object"."""
        return self.learned != "prompts"

    @property
    def text_is_static(self) -> bool:
        """Whether the text embeddings are the same for every image."""
        return self.learned != "hybrid"


_PROMPTS: dict[str, Any] = {"learned": "prompts", "activation": "quick_gelu", "position": "bilinear"}
_CRANE: dict[str, Any] = _PROMPTS | {"local_attention": "self-self", "pooling": 0.5, "image_token": True}
_HEADS: dict[str, Any] = {"activation": "gelu", "temperature": 0.01, "align_corners": True}
_TABLE = (
    PromptMethod(name="anomalyclip", title="AnomalyCLIP", local_attention="value", class_norm=False, **_PROMPTS),
    PromptMethod(name="crane", title="Crane", **_CRANE),
    PromptMethod(name="crane-plus", title="Crane+", second_encoder=True, order="softmax last", **_CRANE),
    PromptMethod(
        name="adaclip", title="AdaCLIP", learned="hybrid", position="bicubic", order="softmax last", pooling=0.2, **_HEADS
    ),
    PromptMethod(
        name="april-gan",
        title="APRIL-GAN",
        learned="projections",
        position="bicubic-antialias",
        order="softmax per level",
        smoothed=False,
        **_HEADS,
    ),
)
METHODS: dict[str, PromptMethod] = {method.name: method for method in _TABLE}

CONTEXT_TOKENS = 12
"""Learned tokens before the words, of each of the two prompts."""
DEEP_BLOCKS, DEEP_TOKENS = 9, 4
"""Tokens 1 to 4 are overwritten before text blocks 2 to 9."""
HYBRID_BLOCKS, HYBRID_TOKENS = 4, 5
"""AdaCLIP's prompts: before blocks 1 to 4 of the image tower and 2 to 4 of the text tower."""
LOCAL_SHARE = 19 / 24
"""Part of the blocks, the last ones, that the local path has."""
WORDS = ("object.", "damaged object.")
"""What follows the learned tokens of the normal and the abnormal prompt."""


def find_method(name: str) -> PromptMethod:
    """Look up a method.

    Raises:
        ValueError: If there is none of this name, with the closest.
    """
    if name not in METHODS:
        raise ValueError(f"There is no method {name!r} among {', '.join(METHODS)}{did_you_mean(str(name), METHODS)}")
    return METHODS[name]
