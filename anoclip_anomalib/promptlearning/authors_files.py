"""The authors' checkpoints to our one file: other names, and a check of what they hold besides learned weights."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from anoclip_anomalib.clip import LoadedClip
from anoclip_anomalib.clip.state_dict import WeightFileError, read_state_dict
from anoclip_anomalib.promptlearning.methods import CONTEXT_TOKENS, DEEP_BLOCKS, DEEP_TOKENS, METHODS, PromptMethod
from anoclip_anomalib.promptlearning.prompt_learner import prompt_sentences
from anoclip_anomalib.promptlearning.prompts_file import build, save_prompts
from anoclip_anomalib.zeroshot.learned_weights import TrainingFacts

TAPS = (6, 12, 18, 24)
"""Of the linear heads; the authors' files do not say where their patches are read."""
ENTRIES = ("prompt_learner", "trainable_linearlayer", "state_dict", "text_adapter", "image_adapter")
CHECKED, NOT_CHECKED = "equal to CLIP's", "not compared"
_UNUSED = "compound_prompt_projections."
_BUFFERS = tuple(f"{name}_{kind}" for name in ("tokenized_prompts", "token_prefix", "token_suffix") for kind in ("pos", "neg"))


@dataclass(frozen=True)
class PromptSize:
    """How many learned tokens a checkpoint should have; the defaults are the authors'.

    Attributes:
        context: Before the words.
        blocks: Text blocks that take part, the first of which has no deep tokens.
        deep: Deep tokens in a block.
    """

    context: int = CONTEXT_TOKENS
    blocks: int = DEEP_BLOCKS
    deep: int = DEEP_TOKENS


def recognise(state: Mapping[str, torch.Tensor]) -> str:
    """Whose checkpoint it is, by the names in it; empty if nobody's that is known. Crane's and Crane+'s look alike."""
    names = {name.removeprefix("clip_model.") for name in state}
    if "ctx_pos" in names:
        return "anomalyclip" if any(name.startswith(_UNUSED) for name in names) else "crane"
    signs = (
        ("adaclip", "patch_token_layer.head.0.weight"),
        ("april-gan", "fc.0.bias"),
        ("AA-CLIP", "det_proj.fc.weight"),
        ("AA-CLIP", "0.fc.0.weight"),
    )
    return next((method for method, needed in signs if needed in names), "")


def convert_from_authors(
    method: PromptMethod,
    checkpoint: str | Path,
    out: str | Path,
    facts: TrainingFacts,
    *,
    clip: LoadedClip | None,
    size: PromptSize | None = None,
) -> Path:
    """Convert an authors' checkpoint (``weights_only``, no code is run) to one of ours.

    Args:
        method: What the user says it is of.
        checkpoint: The file.
        out: The ``.safetensors`` to write.
        facts: The header, as far as the user knows it.
        clip: What its buffers are compared with; ``None`` to leave that out.
        size: Learned tokens that it should have; ``None`` for the authors'.

    Raises:
        FileNotFoundError: If there is no such file.
        WeightFileError: If it is damaged, holds code, is of another method (which is named), has tensors that are not known,
            other numbers of tokens, or buffers that are not those of the CLIP.
    """
    state = read_state_dict(checkpoint, entry=ENTRIES)
    found = recognise(state)
    wanted = "crane" if method.name == "crane-plus" else method.name
    if found != wanted:
        whose = f"of {METHODS[found].title if found in METHODS else found}" if found else "none that is known"
        raise WeightFileError(f"{checkpoint} is not a checkpoint of {method.title}: by the names in it, it is {whose}")
    if method.learned == "prompts":
        tensors = _prompts(state, size or PromptSize(), checkpoint)
        settings = {"buffers": _compare_buffers(state, clip, tensors["context"].shape[1], checkpoint)}
        taps: tuple[int, ...] = ()
    else:
        state = {name.removeprefix("clip_model."): tensor for name, tensor in state.items()}
        names = _hybrid_names() if method.learned == "hybrid" else _head_names("fc.")
        _known(state, list(names), [], checkpoint)
        tensors = _stacked({ours: state[authors] for authors, ours in names.items()})
        settings, taps = {"taps": list(TAPS)}, TAPS  # type: ignore[dict-item]
    learner = build(method, tensors, taps, str(checkpoint))
    return save_prompts(out, learner, replace(facts, settings={**facts.settings, **settings}))


def _prompts(state: Mapping[str, torch.Tensor], size: PromptSize, origin: str | Path) -> dict[str, torch.Tensor]:
    deep = [f"compound_prompts_text.{index}" for index in range(size.blocks - 1)]
    found = sum(name.startswith("compound_prompts_text.") for name in state)
    if found != len(deep):
        raise WeightFileError(
            f"{origin} has deep tokens for {found} text blocks, which is depth {found + 1}; the authors' files have depth "
            f"{DEEP_BLOCKS}. If it was trained so, say it with --depth {found + 1}"
        )
    _known(state, ["ctx_pos", "ctx_neg", *deep], [*_BUFFERS], origin)
    for name in ("ctx_pos", "ctx_neg", *deep):
        count, option = (size.context, "context") if name.startswith("ctx") else (size.deep, "deep-tokens")
        shape = tuple(state[name].shape)
        if len(shape) < 2 or shape[-2] != count or state[name].numel() != count * shape[-1]:
            raise WeightFileError(
                f"{origin} has {name} of shape {shape}, and {count} learned tokens were expected there. If it was trained with "
                f"another number, say it with --{option}"
            )
    width = state["ctx_pos"].shape[-1]
    for name in ("ctx_neg", *deep):
        if state[name].shape[-1] != width:
            raise WeightFileError(f"{origin} has {name} of width {state[name].shape[-1]}, and ctx_pos of width {width}")
    context = torch.stack([state[name].reshape(size.context, -1) for name in ("ctx_pos", "ctx_neg")])
    tokens = [state[name] for name in deep]
    return {"context": context, "deep": torch.stack(tokens) if tokens else context.new_zeros(0, size.deep, width)}


def _known(state: Mapping[str, torch.Tensor], needed: list[str], optional: list[str], origin: str | Path) -> None:
    """Raise unless all that is needed is there, and nothing else but what is optional and AnomalyCLIP's unused projections."""
    missing = sorted(set(needed) - state.keys())
    unknown = sorted(name for name in state.keys() - {*needed, *optional} if not name.startswith(_UNUSED))
    if missing or unknown:
        faults = [f"{what} {', '.join(names[:3])}" for what, names in (("missing", missing), ("unknown", unknown)) if names]
        raise WeightFileError(f"{origin} has other tensors than the authors' checkpoints: {'; '.join(faults)}")


def _compare_buffers(state: Mapping[str, torch.Tensor], clip: LoadedClip | None, context: int, origin: str | Path) -> str:
    """Compare what the checkpoint holds of CLIP (embeddings and numbers of the fixed words) with a CLIP's own."""
    if clip is None:
        return NOT_CHECKED
    tokens = clip.tokenize(prompt_sentences(context))
    embeddings = clip.text_tower.token_embedding(tokens).detach()
    for row, kind in enumerate(("pos", "neg")):
        expected = {
            f"tokenized_prompts_{kind}": tokens[row],
            f"token_prefix_{kind}": embeddings[row, :1],
            f"token_suffix_{kind}": embeddings[row, 1 + context :],
        }
        for name, own in expected.items():
            if name not in state:
                continue
            same = state[name].numel() == own.numel()
            if not same or not torch.allclose(state[name].reshape(own.shape).float(), own.float(), atol=1e-4, rtol=0):
                raise WeightFileError(
                    f"{origin}: {name} is not that of {clip.backbone} with weights {clip.pretrained}: it was trained with "
                    "another CLIP. Name it with --backbone and --pretrained, or leave the comparison out with --unchecked"
                )
    return CHECKED


def _head_names(prefix: str) -> dict[str, str]:
    return {f"{prefix}{index}.{part}": f"patches.{index}.{part}" for index in range(len(TAPS)) for part in ("weight", "bias")}


def _hybrid_names() -> dict[str, str]:
    """AdaCLIP's names -> ours; static prompts are numbered, to be stacked."""
    names = _head_names("patch_token_layer.head.")
    names |= {f"cls_token_layer.head.0.{part}": f"class_token.{part}" for part in ("weight", "bias")}
    for authors, ours in (("visual", "image"), ("text", "text")):
        names |= {f"{authors}_prompter.static_prompts.{index}": f"{ours}_prompts.static.{index}" for index in range(4)}
        for index in range(5):
            generator = f"dynamic_{authors}_prompt_generator.head.{index}"
            names |= {f"{generator}.{part}": f"{ours}_prompts.generator.{index}.{part}" for part in ("weight", "bias")}
    return names


def _stacked(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Static prompts ``x.static.0``, ``x.static.1``, ... as one tensor ``x.static``."""
    for tower in ("image_prompts", "text_prompts"):
        names = [name for name in tensors if name.startswith(f"{tower}.static.")]
        if names:
            tensors[f"{tower}.static"] = torch.stack([tensors.pop(name) for name in names])
    return tensors
