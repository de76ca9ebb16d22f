"""Training a method of the table, and the file that comes out. It can be stopped at any time and goes on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from anoclip_anomalib.clip import LoadedClip, TextEncoder
from anoclip_anomalib.promptlearning.hybrid_prompts import HybridLearner
from anoclip_anomalib.promptlearning.linear_heads import LinearHeads
from anoclip_anomalib.promptlearning.methods import HYBRID_BLOCKS
from anoclip_anomalib.promptlearning.prompt_learner import PromptLearner, causal_tower, new_prompt_learner
from anoclip_anomalib.promptlearning.prompts_file import Learner, save_prompts
from anoclip_anomalib.promptlearning.second_encoder import DINO, SecondEncoder
from anoclip_anomalib.promptlearning.settings import PromptRecipe
from anoclip_anomalib.promptlearning.training import HeadTraining, PromptTraining
from anoclip_anomalib.prompts import PromptBuilder
from anoclip_anomalib.prompts.knowledge import read_knowledge
from anoclip_anomalib.zeroshot.neighbourhoods import quarter_depths
from anoclip_anomalib.zeroshot.train import Data, Machine, TrainingRun, seeded, writes_results
from anoclip_anomalib.zeroshot.training import Training

STAGE = "prompts"


def train(recipe: PromptRecipe, data: Data, out: str | Path, *, machine: Machine | None = None) -> Path:
    """Train, or go on where an interrupted training of the same setting stopped.

    Every epoch leaves a checkpoint in ``<out>.checkpoints/prompts/``; the result is that of the last epoch, or where the source
    holds images out, of the epoch with the lowest loss on them. There is no augmentation, as in the authors' code.

    Args:
        recipe: How to train.
        data: What to train on.
        out: The ``.safetensors`` to write.
        machine: Where to run; with ``cache_features`` what the frozen tower says is computed once and kept on disk.

    Returns:
        ``out``.

    Raises:
        ValueError: For a setting that cannot be used, and for a folder of another setting.
        RuntimeError: If another process trains there.
        FloatingPointError: If the loss is not finite.
    """
    recipe.check()
    method, machine = recipe.choice, machine or Machine()
    if not method.text_is_static and (machine.cache_features or machine.devices not in (1, "1")):
        what = "cached features: its image tower has prompts" if machine.cache_features else "several devices"
        raise ValueError(f"{method.title} cannot be trained with {what}")
    activation = "gelu" if method.activation == "gelu" else "as_trained"
    run = TrainingRun(recipe, data, out, activation=activation, machine=machine)
    learner = seeded(recipe.seed, lambda: new_learner(recipe, run.clip))
    with run.claimed():
        module = run.datamodule(recipe.training.batch_size, None)
        stage, setting = _stage(recipe, run.clip, learner, module.categories)
        cached = machine.cache_features
        callbacks = run.cache_features(module, f"features_{method.name}", **setting) if cached else []
        setting |= {"cached_features": cached}
        if recipe.knowledge:
            setting |= {name: getattr(recipe, name) for name in ("knowledge", "knowledge_weight", "knowledge_margin")}
        run.fit(STAGE, stage, module, setting, callbacks)
        if writes_results():
            save_prompts(run.out, stage.result, run.facts(method.name, module, setting))
    return run.out


def new_learner(recipe: PromptRecipe, clip: LoadedClip) -> Learner:
    """What is to be trained, with its initial weights.

    Raises:
        ValueError: If a tap is behind the last block.
    """
    method, visual = recipe.choice, clip.model.visual
    if method.learned == "prompts":
        return new_prompt_learner(clip)
    depth, width = len(visual.transformer.resblocks), visual.ln_post.weight.shape[0]
    taps = recipe.taps or quarter_depths(depth)
    if max(taps) > depth:
        raise ValueError(f"No tap behind block {max(taps)}: the image tower of {clip.backbone} has {depth} blocks")
    joint = visual.proj.shape[1] if visual.proj is not None else width
    if method.learned == "projections":
        return LinearHeads(width, joint, taps)
    tower = causal_tower(clip)
    blocks = min(HYBRID_BLOCKS, depth), min(HYBRID_BLOCKS, len(tower.transformer.resblocks))
    return HybridLearner(width, tower.ln_final.weight.shape[0], joint, taps, blocks)


def _stage(recipe: PromptRecipe, clip: LoadedClip, learner: Learner, classes: Sequence[str]) -> tuple[Training, dict[str, Any]]:
    """The module that trains, and what its features depend on."""
    setting: dict[str, Any] = {"method": recipe.method}
    if not isinstance(learner, PromptLearner):
        return HeadTraining(clip, learner, recipe, classes), setting | {"taps": list(learner.taps)}
    second = None
    if recipe.choice.second_encoder:
        second = SecondEncoder(recipe.second_encoder or DINO, recipe.second_pretrained)
        setting |= {"second_encoder": recipe.second_encoder or DINO, "second_digest": second.digest}
    knowledge = knowledge_embeddings(clip, classes, recipe.knowledge) if recipe.knowledge else None
    return PromptTraining(clip, learner, recipe, second=second, knowledge=knowledge), setting


def knowledge_embeddings(clip: LoadedClip, classes: Sequence[str], source: bool | str) -> torch.Tensor:  # noqa: FBT001
    """What is commonly wrong with each class, as one unit vector (C, E): the mean of its sentences in plain CLIP.

    A class that nobody described gets the mean over those that somebody did.

    Args:
        clip: The CLIP.
        classes: Of the source.
        source: See :func:`anoclip_anomalib.prompts.knowledge.read_knowledge`.

    Raises:
        ValueError: If none of the classes is described.
    """
    known = read_knowledge(source)
    found: dict[str, torch.Tensor] = {}
    for name in classes:
        phrases = (*known.get("*", ()), *known.get(name, ()))
        if phrases:
            texts = PromptBuilder(abnormal_states=phrases).sentences(name).abnormal_sentences
            found[name] = F.normalize(F.normalize(TextEncoder(clip).encode(texts), dim=-1).mean(dim=0), dim=-1)
    if not found:
        raise ValueError(
            f"Nobody described the defects of {', '.join(classes)}: a YAML that does can be named (--knowledge FILE)"
        )
    others = F.normalize(torch.stack(list(found.values())).mean(dim=0), dim=-1)
    return torch.stack([found.get(name, others) for name in classes])
