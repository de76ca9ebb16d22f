"""Checkpoints as the authors' code writes them, made from random numbers."""

import pickle

import pytest
import torch

from anoclip_anomalib import PromptClipModel
from anoclip_anomalib.clip.state_dict import WeightFileError
from anoclip_anomalib.promptlearning.authors_files import PromptSize, convert_from_authors, recognise
from anoclip_anomalib.promptlearning.methods import METHODS
from anoclip_anomalib.promptlearning.prompts_file import load_prompts

TWO_BLOCKS = PromptSize(blocks=2)


def prompts(clip, *, sets=1, projections=False, context=12) -> dict:
    """`prompt_learner` of AnomalyCLIP (with its unused projections) or Crane, for a text tower of width 64."""
    state = {f"ctx_{kind}": torch.randn(1, 1, context, 64) for kind in ("pos", "neg")}
    state |= {f"compound_prompts_text.{index}": torch.randn(4, 64) for index in range(sets)}
    if projections:
        for index in range(sets):
            state |= {f"compound_prompt_projections.{index}.weight": torch.randn(896, 64)}
            state |= {f"compound_prompt_projections.{index}.bias": torch.randn(896)}
    words = " ".join(["X"] * context)
    for kind, ending in (("pos", "object."), ("neg", "damaged object.")):
        tokens = clip.tokenize([f"{words} {ending}"])
        embedding = clip.text_tower.token_embedding(tokens).detach()
        state[f"tokenized_prompts_{kind}"] = tokens[None].int()
        state[f"token_prefix_{kind}"] = embedding[None, :, :1]
        state[f"token_suffix_{kind}"] = embedding[None, :, 1 + context :]
    return state


def heads(prefix) -> dict:
    sizes = {f"{prefix}{index}.weight": (32, 64) for index in range(4)} | {f"{prefix}{index}.bias": (32,) for index in range(4)}
    return {name: torch.randn(size) for name, size in sizes.items()}


def adaclip() -> dict:
    state = heads("patch_token_layer.head.")
    state |= {"cls_token_layer.head.0.weight": torch.randn(32, 32), "cls_token_layer.head.0.bias": torch.randn(32)}
    for tower in ("visual", "text"):
        state |= {f"{tower}_prompter.static_prompts.{index}": torch.randn(5, 64) for index in range(4)}
        for index in range(5):
            name = f"dynamic_{tower}_prompt_generator.head.{index}"
            state |= {f"{name}.weight": torch.randn(64, 32), f"{name}.bias": torch.randn(64)}
    return {f"clip_model.{name}": tensor for name, tensor in state.items()}


@pytest.fixture
def checkpoint(tmp_path, tiny_clip):
    """(method, changes) -> a file as the method's authors save it."""

    def make(method, change=lambda state: state, **options):
        path = tmp_path / f"{method}.pth"
        if method in ("anomalyclip", "crane"):
            state = prompts(tiny_clip(), projections=method == "anomalyclip", **options)
            content = {"prompt_learner": change(state)}
        else:
            state = adaclip() if method == "adaclip" else heads("fc.")
            content = change(state) if method == "adaclip" else {"trainable_linearlayer": change(state)}
        torch.save(content, path)
        return path, state

    return make


@pytest.fixture
def convert(tmp_path, tiny_clip, facts):
    def run(method, path, *, size=TWO_BLOCKS, clip=None):
        header = facts(method=method, mode="reference", backbone_digest="")
        out = tmp_path / "out.safetensors"
        return convert_from_authors(METHODS[method], path, out, header, clip=clip or tiny_clip(), size=size)

    return run


@pytest.mark.parametrize("method", ["anomalyclip", "crane", "crane-plus"])
def test_prompts_come_over_with_their_numbers(checkpoint, convert, method):
    path, state = checkpoint("anomalyclip" if method == "anomalyclip" else "crane")
    learned, found, learner = load_prompts(convert(method, path))
    assert found.name == method
    assert torch.equal(learner.context[0], state["ctx_pos"][0, 0])
    assert torch.equal(learner.context[1], state["ctx_neg"][0, 0])
    assert torch.equal(learner.deep[0], state["compound_prompts_text.0"])
    assert set(learned.tensors) == {"context", "deep"}, "nothing unused is kept"
    assert learned.facts.settings["buffers"] == "equal to CLIP's"
    assert learned.facts.auxiliary_data == "VisA test split, with masks"


def test_adaclips_prompts_and_heads_come_over(checkpoint, convert, images):
    path, state = checkpoint("adaclip")
    learned, _, learner = load_prompts(convert("adaclip", path))
    assert torch.equal(learner.image_prompts.static[2], state["clip_model.visual_prompter.static_prompts.2"])
    assert torch.equal(learner.text_prompts.static[3], state["clip_model.text_prompter.static_prompts.3"])
    generator = learner.text_prompts.generator[4]
    assert torch.equal(generator.weight, state["clip_model.dynamic_text_prompt_generator.head.4.weight"])
    assert torch.equal(learner.patches[1].bias, state["clip_model.patch_token_layer.head.1.bias"])
    assert torch.equal(learner.class_token.weight, state["clip_model.cls_token_layer.head.0.weight"])
    assert learner.taps == (6, 12, 18, 24)


def test_april_gans_heads_come_over(checkpoint, convert):
    path, state = checkpoint("april-gan")
    _, _, learner = load_prompts(convert("april-gan", path))
    assert torch.equal(learner.patches[3].weight, state["fc.3.weight"])


def test_what_does_not_fit_the_backbone_is_said(checkpoint, convert):
    for method, message in (("april-gan", "a tap behind block 24, and there are 12"), ("adaclip", "prompts in text block 4")):
        out = convert(method, checkpoint(method)[0])
        with pytest.raises(ValueError, match=f"do not fit tiny.*{message}"):
            PromptClipModel(adapters=out, class_name="bottle")


@pytest.mark.parametrize(
    ("said", "given", "whose"),
    [
        ("anomalyclip", "crane", "Crane"),
        ("crane", "anomalyclip", "AnomalyCLIP"),
        ("crane-plus", "april-gan", "APRIL-GAN"),
        ("april-gan", "adaclip", "AdaCLIP"),
        ("adaclip", "crane", "Crane"),
    ],
)
def test_a_checkpoint_of_another_method_is_named(checkpoint, convert, tmp_path, said, given, whose):
    with pytest.raises(WeightFileError, match=f"not a checkpoint of .*: by the names in it, it is of {whose}$"):
        convert(said, checkpoint(given)[0])
    assert not (tmp_path / "out.safetensors").exists()


def test_others_are_recognised():
    assert recognise({"det_proj.fc.weight": torch.zeros(1)}) == recognise({"0.fc.0.weight": torch.zeros(1)}) == "AA-CLIP"
    assert recognise({"visual.proj": torch.zeros(1)}) == ""


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("crane", lambda s: {**s, "extra": torch.zeros(1)}, "unknown extra"),
        ("adaclip", lambda s: {**s, "clip_model.visual.proj": torch.zeros(1)}, "unknown visual.proj"),
        ("april-gan", lambda s: {**s, "fc.4.weight": torch.zeros(1)}, "unknown fc.4.weight"),
        ("crane", lambda s: {k: v for k, v in s.items() if k != "ctx_neg"}, "missing ctx_neg"),
        ("adaclip", lambda s: {k: v for k, v in s.items() if "head.2.bias" not in k}, "missing .*head.2.bias"),
        ("crane", lambda s: {**s, "token_suffix_neg": s["token_suffix_neg"] + 0.01}, "token_suffix_neg is not that of tiny"),
        ("crane", lambda s: {**s, "tokenized_prompts_pos": s["tokenized_prompts_neg"]}, "tokenized_prompts_pos is not that"),
        ("crane", lambda s: {**s, "token_prefix_pos": s["token_prefix_pos"][..., :9]}, "token_prefix_pos is not that"),
        ("crane", lambda s: {**s, "ctx_pos": torch.full_like(s["ctx_pos"], torch.nan)}, "NaN"),
        ("crane", lambda s: {**s, "ctx_pos": s["ctx_pos"][..., :9]}, "ctx_neg of width 64, and ctx_pos of width 9"),
        ("april-gan", lambda s: {**s, "fc.2.weight": torch.zeros(3, 3)}, "patches.2.weight"),
    ],
)
def test_tensors_that_are_wrong_are_named(checkpoint, convert, method, change, message):
    with pytest.raises(WeightFileError, match=message):
        convert(method, checkpoint(method, change)[0])


def test_another_depth_or_context_is_said_and_taken_when_told(checkpoint, convert, tiny_clip):
    path, _ = checkpoint("crane", sets=3)
    with pytest.raises(WeightFileError, match="depth 4; the authors' files have depth 9.*--depth 4"):
        convert("crane", path, size=None)
    assert len(load_prompts(convert("crane", path, size=PromptSize(blocks=4)))[2].deep) == 3
    path, _ = checkpoint("crane", context=7)
    with pytest.raises(WeightFileError, match=r"ctx_pos of shape \(1, 1, 7, 64\), and 12 .*--context"):
        convert("crane", path)
    assert load_prompts(convert("crane", path, size=PromptSize(7, 2)))[2].context.shape == (2, 7, 64)


def test_without_a_clip_nothing_is_compared_and_the_header_says_so(checkpoint, facts, tmp_path):
    path, _ = checkpoint("crane", lambda s: {**s, "token_suffix_neg": s["token_suffix_neg"] + 1})
    out = convert_from_authors(
        METHODS["crane"], path, tmp_path / "x.safetensors", facts(method="crane"), clip=None, size=TWO_BLOCKS
    )
    assert load_prompts(out)[0].facts.settings["buffers"] == "not compared"


def test_pickled_code_is_refused(convert, tmp_path):
    class Bomb:
        def __reduce__(self):
            return print, ("run",)

    with (tmp_path / "x.pth").open("wb") as file:
        pickle.dump({"prompt_learner": Bomb()}, file)
    with pytest.raises(WeightFileError, match="x.pth"):
        convert("crane", tmp_path / "x.pth")
