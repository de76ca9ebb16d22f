"""The methods as choices in one table. Read without importing torch."""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

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


_CRANE = PromptMethod(
    name="crane",
    title="Crane",
    learned="prompts",
    activation="quick_gelu",
    position="bilinear",
    local_attention="self-self",
    pooling=0.5,
    image_token=True,
)
METHODS: dict[str, PromptMethod] = {
    method.name: method
    for method in (
        PromptMethod(
            name="anomalyclip",
            title="AnomalyCLIP",
            learned="prompts",
            activation="quick_gelu",
            position="bilinear",
            local_attention="value",
            class_norm=False,
        ),
        _CRANE,
        PromptMethod(
            **{**vars(_CRANE), "name": "crane-plus", "title": "Crane+", "second_encoder": True, "order": "softmax last"}
        ),
        PromptMethod(
            name="adaclip",
            title="AdaCLIP",
            learned="hybrid",
            activation="gelu",
            position="bicubic",
            temperature=0.01,
            order="softmax last",
            align_corners=True,
            pooling=0.2,
        ),
        PromptMethod(
            name="april-gan",
            title="APRIL-GAN",
            learned="projections",
            activation="gelu",
            position="bicubic-antialias",
            temperature=0.01,
            order="softmax per level",
            align_corners=True,
            smoothed=False,
        ),
    )
}

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
        close = get_close_matches(str(name).lower(), METHODS, n=1)
        hint = f"; is {close[0]!r} meant?" if close else ""
        msg = f"There is no method {name!r} among {', '.join(METHODS)}{hint}"
        raise ValueError(msg)
    return METHODS[name]
