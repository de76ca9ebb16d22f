"""The authors' two files, from and to ours.

``text_adapter.pth`` has ``0.fc.0.weight``, ..., the last one the projection; ``image_adapter_N.pth`` has
``layer_adapters.0.fc.0.weight``, ..., ``seg_proj.0.fc.weight``, ..., ``det_proj.fc.weight``.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch

from anoclip_anomalib.aaclip.adapters import default_taps
from anoclip_anomalib.aaclip.adapters_file import build_image, build_text, count_adapters, load_adapters, save_adapters
from anoclip_anomalib.aaclip.settings import MIXING
from anoclip_anomalib.clip.state_dict import WeightFileError, read_state_dict
from anoclip_anomalib.files import atomic_write
from anoclip_anomalib.zeroshot.learned_weights import TrainingFacts

logger = logging.getLogger(__name__)

DEPTH = 24
"""Blocks of the authors' image tower, ViT-L-14-336; their files do not say which taps were used."""


def text_from_authors(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our names for the text half of the authors; see :func:`text_to_authors`."""
    count = len(state) - 1
    names = {f"{index}.fc.0.weight": f"adapters.weights.{index}" for index in range(count)}
    return _renamed(state, names | {f"{count}.fc.0.weight": "projection.weight"}, "text_adapter")


def text_to_authors(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The authors' names for a text half: adapters ``0``, ``1``, ..., the projection last."""
    count = count_adapters(state)
    names = {f"adapters.weights.{index}": f"{index}.fc.0.weight" for index in range(count)}
    return _renamed(state, names | {"projection.weight": f"{count}.fc.0.weight"}, "text half")


def image_from_authors(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our names for the image half of the authors."""
    if any(name.startswith("seg_proj.") and name.endswith(".fc.0.weight") for name in state):
        raise WeightFileError(
            "image_adapter was trained with the authors' option --relu (an activation behind the projections): not supported"
        )
    return _renamed(
        state, {own: ours for ours, own in _image_names(state, "layer_adapters.", "seg_proj.").items()}, "image_adapter"
    )


def image_to_authors(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The authors' names for an image half."""
    return _renamed(state, _image_names(state, "adapters.weights.", "segmentation."), "image half")


def _image_names(state: Mapping[str, torch.Tensor], adapter: str, projection: str) -> dict[str, str]:
    adapters = sum(name.startswith(adapter) for name in state)
    projections = sum(name.startswith(projection) for name in state)
    return {
        **{f"adapters.weights.{index}": f"layer_adapters.{index}.fc.0.weight" for index in range(adapters)},
        **{f"segmentation.{index}.weight": f"seg_proj.{index}.fc.weight" for index in range(projections)},
        "detection.weight": "det_proj.fc.weight",
    }


def _renamed(state: Mapping[str, torch.Tensor], names: Mapping[str, str], what: str) -> dict[str, torch.Tensor]:
    unknown, missing = sorted(state.keys() - names.keys()), sorted(names.keys() - state.keys())
    if unknown or missing:
        raise WeightFileError(f"{what} has other tensors than AA-CLIP's: unknown {unknown[:3]}, missing {missing[:3]}")
    if whole := sorted(name for name, tensor in state.items() if not tensor.is_floating_point()):
        raise WeightFileError(f"{what} has whole numbers in {whole[0]!r}, which are no weights")
    return {names[name]: tensor for name, tensor in state.items()}


def convert_from_authors(text: str | Path, image: str | Path, out: str | Path, facts: TrainingFacts) -> Path:
    """Convert the authors' two files (``weights_only``, no code is run) to one of ours.

    Args:
        text: ``text_adapter.pth``.
        image: ``image_adapter_N.pth`` of the same run, which nothing in the files proves.
        out: The ``.safetensors`` to write.
        facts: The header, as far as the user knows it.

    Raises:
        FileNotFoundError: If a file does not exist.
        WeightFileError: If a file is damaged, holds code or other tensors.
    """
    text_state = text_from_authors(read_state_dict(text, entry="text_adapter"))
    image_state = image_from_authors(read_state_dict(image, entry="image_adapter"))
    taps = default_taps(DEPTH)
    if sum(name.startswith("segmentation.") for name in image_state) != len(taps):
        raise WeightFileError(f"{image} does not have the authors' {len(taps)} segmentation projections")
    return save_adapters(
        out,
        build_text(text_state, mixing=MIXING, activation=True, origin=str(text)),
        build_image(image_state, taps, mixing=MIXING, origin=str(image)),
        facts,
    )


def convert_to_authors(adapters: str | Path, text: str | Path, image: str | Path) -> None:
    """Write the authors' two files from one of ours, without optimiser states and with epoch 0.

    Their code always has a LeakyReLU behind the text projection and a mixing of 0.1: for adapters without it, such as those
    of mode ``"clean"``, it computes something else, which is said.

    Raises:
        WeightFileError: If the detection vector has a share of the class token, which their files cannot hold.
    """
    loaded = load_adapters(adapters)
    if loaded.image.class_share:
        raise WeightFileError(
            f"{adapters} has a share of {loaded.image.class_share:g} of the class token in its detection vector, which the "
            "authors' files cannot hold; train without --class-share"
        )
    if not loaded.text.activation or {loaded.text.adapters.mixing, loaded.image.adapters.mixing} != {MIXING}:
        logger.warning(
            "%s was not trained as the authors' code does (its text projection has %s activation, mixing %g and %g): the "
            "authors' code will compute other scores with it",
            adapters,
            "an" if loaded.text.activation else "no",
            loaded.text.adapters.mixing,
            loaded.image.adapters.mixing,
        )
    halves = (
        (text, "text_adapter", text_to_authors(loaded.text.state_dict())),
        (image, "image_adapter", image_to_authors(loaded.image.state_dict())),
    )
    for path, entry, state in halves:
        with atomic_write(path) as temporary:
            torch.save({"epoch": 0, entry: state}, temporary)
