"""Adapters as a file: both halves, and a header that says what they were trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from anoclip_anomalib.aaclip.adapters import ImageAdapters, TextAdapters
from anoclip_anomalib.aaclip.settings import MIXING, ClassToken
from anoclip_anomalib.clip import LoadedClip
from anoclip_anomalib.clip.state_dict import WeightFileError, state_dict_digest
from anoclip_anomalib.zeroshot.learned_weights import LearnedWeights, TrainingFacts, fill, load_learned, save_learned

METHOD = "aaclip"


@dataclass(frozen=True)
class LoadedAdapters(LearnedWeights):
    """Both halves, as they were read.

    Attributes:
        text: The text half.
        image: The image half.
    """

    text: TextAdapters
    image: ImageAdapters

    def check_clip(self, clip: LoadedClip) -> None:
        """Raise a ``ValueError`` if the CLIP's weights are not those of the training, as far as header and shapes tell."""
        super().check_clip(clip)
        visual = clip.model.visual
        depth, width = len(visual.transformer.resblocks), visual.ln_post.weight.shape[0]
        text_width, own = clip.text_tower.ln_final.weight.shape[0], self.text.projection.in_features
        if (width, text_width) != (self.image.detection.in_features, own) or max(self.image.taps) > depth:
            raise ValueError(
                f"The adapters {self.origin} do not fit {clip.backbone}: they are for towers of width "
                f"{self.image.detection.in_features} and {own} with a tap behind block {max(self.image.taps)}, not for "
                f"widths {width} and {text_width} and {depth} blocks"
            )


def load_adapters(path: str | Path) -> LoadedAdapters:
    """Read both halves.

    Args:
        path: A ``.safetensors`` of ours, or ``"demo"``.

    Raises:
        FileNotFoundError: If there is no such file.
        WeightFileError: If it is damaged or of another method, a half is missing, shapes do not fit each other, or the image
            half was trained with another text half.
    """
    learned = load_learned(path, METHOD)
    text, image = learned.part("text"), learned.part("image")
    for name, half in (("text", text), ("image", image)):
        if not half:
            raise WeightFileError(f"{path} has no {name} half; both stages of the training are needed")
    if learned.facts.halves.get("image_of") != state_dict_digest(text):
        raise WeightFileError(
            f"The halves in {path} are of different runs: the image half was trained with other text anchors. "
            "Only halves of one run fit each other"
        )
    settings = learned.facts.settings
    return LoadedAdapters(
        learned.tensors,
        learned.facts,
        learned.origin,
        _text_half(learned),
        build_image(
            image,
            settings.get("taps") or (),
            mixing=float(settings.get("mixing", MIXING)),
            class_share=float(settings.get("class_share", 0)),
            class_token=settings.get("class_token", "adapted"),
            origin=learned.origin,
        ),
    )


def load_text_half(path: str | Path) -> tuple[TextAdapters, TrainingFacts]:
    """Read the text half of a file, which may have no image half; errors as :func:`load_adapters`."""
    learned = load_learned(path, METHOD)
    return _text_half(learned), learned.facts


def _text_half(learned: LearnedWeights) -> TextAdapters:
    settings = learned.facts.settings
    mixing, activation = float(settings.get("text_mixing", MIXING)), bool(settings.get("text_activation"))
    return build_text(learned.part("text"), mixing=mixing, activation=activation, origin=learned.origin)


def text_digest(text: TextAdapters) -> str:
    """The digest that pairs an image half with its text half."""
    return state_dict_digest({name: tensor.float() for name, tensor in text.state_dict().items()})


def save_adapters(path: str | Path, text: TextAdapters, image: ImageAdapters | None, facts: TrainingFacts) -> Path:
    """Write the halves with what they were trained on; the pairing digest is added here.

    Args:
        path: A ``.safetensors`` file.
        text: The text half that the image half was trained with.
        image: The image half; ``None`` after the first stage alone.
        facts: The header.
    """
    settings: dict[str, Any] = {"text_mixing": text.adapters.mixing, "text_activation": text.activation}
    halves = {"text": text_digest(text)}
    tensors = {f"text.{key}": tensor for key, tensor in text.state_dict().items()}
    if image is not None:
        state = image.state_dict()
        settings |= {"mixing": image.adapters.mixing, "taps": list(image.taps)}
        settings |= {"class_share": image.class_share, "class_token": image.class_token} if image.class_share else {}
        halves |= {"image": state_dict_digest({k: v.float() for k, v in state.items()}), "image_of": halves["text"]}
        tensors |= {f"image.{key}": tensor for key, tensor in state.items()}
    return save_learned(path, tensors, replace(facts, settings={**facts.settings, **settings}, halves=halves))


def build_text(state: Mapping[str, torch.Tensor], *, mixing: float, activation: bool, origin: str) -> TextAdapters:
    """A text half with these weights; a ``WeightFileError`` that names what does not fit otherwise."""
    projection = _matrix(state, "projection.weight", origin)
    half = TextAdapters(count_adapters(state), projection.shape[1], projection.shape[0], mixing, activation=activation)
    return fill(half, state, f"The text half of {origin} does not fit")


def build_image(
    state: Mapping[str, torch.Tensor],
    taps: Sequence[int],
    *,
    mixing: float,
    class_share: float = 0.0,
    class_token: ClassToken = "adapted",
    origin: str,
) -> ImageAdapters:
    """An image half with these weights; a ``WeightFileError`` that names what does not fit otherwise."""
    detection = _matrix(state, "detection.weight", origin)
    if not taps:
        raise WeightFileError(f"{origin} does not say behind which blocks patches are read")
    half = ImageAdapters(count_adapters(state), detection.shape[1], detection.shape[0], taps, mixing, class_share, class_token)
    return fill(half, state, f"The image half of {origin} does not fit")


def _matrix(state: Mapping[str, torch.Tensor], name: str, origin: str) -> torch.Tensor:
    if name not in state or state[name].ndim != 2:
        raise WeightFileError(f"{origin} has no matrix {name}")
    return state[name]


def count_adapters(state: Mapping[str, torch.Tensor]) -> int:
    """How many adapters a half with our names has."""
    return sum(name.startswith("adapters.weights.") for name in state)
