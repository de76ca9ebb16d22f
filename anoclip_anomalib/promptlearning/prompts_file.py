"""What a method of the table learned, as a file: its tensors and a header that says what they were trained on."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import torch
from torch import nn

from anoclip_anomalib.clip import LoadedClip
from anoclip_anomalib.clip.state_dict import WeightFileError
from anoclip_anomalib.promptlearning.hybrid_prompts import HybridLearner
from anoclip_anomalib.promptlearning.linear_heads import LinearHeads
from anoclip_anomalib.promptlearning.methods import METHODS, PromptMethod, find_method
from anoclip_anomalib.promptlearning.prompt_learner import PromptLearner, causal_tower
from anoclip_anomalib.zeroshot.learned_weights import DEMO, LearnedWeights, TrainingFacts, fill, load_learned, save_learned

Learner: TypeAlias = PromptLearner | HybridLearner | LinearHeads
BUNDLED = ("anomalyclip", "crane", "adaclip", "april-gan")
"""Methods whose learned weights come with the package, for the demo encoder; Crane+ needs a second encoder's weights."""


def load_prompts(path: str | Path, method: str | None = None) -> tuple[LearnedWeights, PromptMethod, Learner]:
    """Read what was learned.

    Args:
        path: A ``.safetensors`` of ours, or ``"demo"`` for those bundled for the demo encoder.
        method: What it must be for; ``None`` for any method of the table, of the bundled ones AnomalyCLIP.

    Returns:
        The file's content, its method, and the module with its weights.

    Raises:
        FileNotFoundError: If there is no such file; Crane+ does not come with the package.
        ValueError: If there is no such method.
        WeightFileError: If the file is damaged, of another method, or its tensors do not fit each other.
    """
    if method is not None:
        find_method(method)
    if str(path) == DEMO:
        method = method or BUNDLED[0]
        if method not in BUNDLED:
            raise FileNotFoundError(
                f"No adapters of {METHODS[method].title} come with the package; there are those of {', '.join(BUNDLED)}"
            )
    learned = load_learned(path, method or tuple(METHODS))
    own = METHODS[learned.facts.method]
    return learned, own, build(own, learned.tensors, learned.facts.settings.get("taps") or (), learned.origin)


def save_prompts(path: str | Path, learner: nn.Module, facts: TrainingFacts) -> Path:
    """Write what was learned.

    Args:
        path: A ``.safetensors`` file.
        learner: What was trained.
        facts: The header; where there are taps its settings name them.
    """
    return save_learned(path, learner.state_dict(), facts)


def build(method: PromptMethod, tensors: Mapping[str, torch.Tensor], taps: tuple | list, origin: str) -> Learner:
    """A module with these weights.

    Args:
        method: Says which tensors there must be.
        tensors: Name -> tensor, as in our files.
        taps: Where patches are read, for linear heads.
        origin: The file, for errors.

    Raises:
        WeightFileError: Naming what is missing, unknown or of another shape.
    """
    fault = f"{origin} does not hold what {method.title} learns"
    try:
        learner = _empty(method, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, taps)
    except (KeyError, ValueError, IndexError) as error:
        raise WeightFileError(f"{fault}: {error} is missing or has another shape") from error
    return fill(learner, tensors, fault).requires_grad_(requires_grad=False)


def _empty(method: PromptMethod, shapes: Mapping[str, tuple[int, ...]], taps: tuple | list) -> Learner:
    if method.learned == "prompts":
        (_, context, width), (sets, tokens, _) = shapes["context"], shapes["deep"]
        return PromptLearner(width, context, sets, tokens)
    heads = sum(name.startswith("patches.") and name.endswith(".weight") for name in shapes)
    if len(taps) != heads or not heads:
        raise ValueError(f"taps[{heads}], one for each projection,")
    joint, width = shapes["patches.0.weight"]
    if method.learned == "projections":
        return LinearHeads(width, joint, taps)
    (image_blocks, tokens, _), (text_blocks, _, text_width) = shapes["image_prompts.static"], shapes["text_prompts.static"]
    return HybridLearner(width, text_width, joint, taps, (image_blocks, text_blocks), tokens)


def check_fit(learned: LearnedWeights, learner: Learner, clip: LoadedClip) -> None:
    """Raise a ``ValueError`` if what was learned does not fit a CLIP: its weights by the header, its towers by their shapes."""
    learned.check_clip(clip)
    visual, faults = clip.model.visual, []
    depth, width = len(visual.transformer.resblocks), visual.ln_post.weight.shape[0]
    if isinstance(learner, PromptLearner | HybridLearner):
        tower = causal_tower(clip)
        text_depth, text_width = len(tower.transformer.resblocks), tower.ln_final.weight.shape[0]
    if isinstance(learner, PromptLearner):
        faults += _differs("a text tower of width", learner.context.shape[2], text_width)
        faults += _exceeds("tokens in text block", len(learner.deep) + 1, text_depth)
        faults += _exceeds("a context of", learner.context.shape[1] + 5, tower.positional_embedding.shape[0])
    else:
        faults += _differs("an image tower of width", learner.patches[0].in_features, width)
        faults += _exceeds("a tap behind block", max(learner.taps), depth)
    if isinstance(learner, HybridLearner):
        faults += _differs("a text tower of width", learner.text_prompts.static.shape[2], text_width)
        faults += _exceeds("prompts in image block", len(learner.image_prompts.static), depth)
        faults += _exceeds("prompts in text block", len(learner.text_prompts.static), text_depth)
    if faults:
        raise ValueError(f"The adapters {learned.origin} do not fit {clip.backbone}: they need {'; '.join(faults)}")


def _differs(what: str, needed: int, found: int) -> list[str]:
    return [f"{what} {needed}, and it is {found}"] if needed != found else []


def _exceeds(what: str, needed: int, found: int) -> list[str]:
    return [f"{what} {needed}, and there are {found}"] if needed > found else []
