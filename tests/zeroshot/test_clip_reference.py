"""Text is always encoded by the CLIP whose image tower the model has."""

import copy
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from anoclip_anomalib import AnoClip, AnoClipModel
from anoclip_anomalib.clip import load_clip
from anoclip_anomalib.clip import weights as weights_module
from anoclip_anomalib.zeroshot.clip_reference import ClipReference


@pytest.fixture
def replaceable(weight_file, tmp_path):
    """A weight file, and a function that replaces it by other weights."""
    path = tmp_path / "clip.safetensors"
    shutil.copy(weight_file(), path)

    def replace() -> None:
        state = load_file(path)
        save_file({name: value * 1.5 if "proj" in name else value for name, value in state.items()}, tmp_path / "new")
        (tmp_path / "new").replace(path)
        weights_module._load_clip.cache_clear()

    return path, replace


def test_a_replaced_file_cannot_pair_new_text_with_an_old_tower(replaceable):
    path, replace = replaceable
    expected = AnoClipModel(backbone="tiny", pretrained=str(path), class_name="cable").text_embeddings
    model = AnoClipModel(backbone="tiny", pretrained=str(path), class_name="bottle")
    duplicate, pickled = copy.deepcopy(model), pickle.dumps(model)
    replace()
    for kept in (model, duplicate):
        kept.set_class("cable")
        assert torch.equal(kept.text_embeddings, expected)
    late = pickle.loads(pickled)  # noqa: S301
    assert late.class_name == "bottle"
    with pytest.raises(RuntimeError, match="were replaced since this model was made"):
        late.set_class("cable")
    anew = AnoClipModel(backbone="tiny", pretrained=str(path), class_name="cable")
    assert anew.weights_digest != model.weights_digest
    assert not torch.equal(anew.text_embeddings, expected)


def test_a_given_clip_is_used_and_nothing_is_loaded(tiny_clip, monkeypatch, anoclip_model):
    clip = tiny_clip()
    expected = anoclip_model()
    monkeypatch.setattr("anoclip_anomalib.zeroshot.text_model.load_clip", lambda *_, **__: pytest.fail("loaded"))
    model = AnoClipModel(clip=clip, class_name="bottle")
    assert (model.backbone, model.image_size) == ("tiny", (64, 64))
    assert torch.equal(model.text_embeddings, expected.text_embeddings)
    assert model.visual_encoder.visual is clip.visual_tower()


def test_the_text_tower_is_no_part_of_the_model(anoclip_model):
    model = anoclip_model()
    assert {name.split(".")[0] for name in model.state_dict()} == {"visual_encoder", "text_embeddings"}
    visual = sum(p.numel() for p in model.visual_encoder.parameters())
    assert sum(p.numel() for p in model.parameters()) == visual
    assert len(pickle.dumps(model)) < 1.2 * 4 * visual + 4 * model.prompt_bank.numel() + 200_000


def test_a_pickled_clip_is_loaded_with_its_activation(weight_file):
    clip = load_clip("tiny", weight_file(), activation="quick_gelu")
    assert pickle.loads(pickle.dumps(ClipReference(clip))).clip is clip  # noqa: S301


def test_a_pickled_model_gets_its_clip_back(anoclip_model):
    model = pickle.loads(pickle.dumps(anoclip_model()))  # noqa: S301
    model.set_class("cable")
    assert torch.equal(model.text_embeddings, anoclip_model(class_name="cable").text_embeddings)


@pytest.mark.parametrize("given", [None, "laion400m_e32", "demo"])
def test_the_bundled_weights_are_recorded_as_what_they_are(given):
    """`laion400m_e32` is what a config file made before says of the demo encoder."""
    model = AnoClip(backbone="demo", pretrained=given)
    assert model.model.pretrained == "demo"
    assert model.model.provenance["pretrained"] == "demo"
    assert model.hparams.pretrained == given
    assert model.weights_digest == load_clip("demo").digest


@pytest.mark.parametrize("backbone", ["ViT-B-16-plus-240", "ViT-L-14", "demo"])
def test_a_bad_image_size_is_named_before_weights_are_loaded(backbone, monkeypatch):
    monkeypatch.setattr("anoclip_anomalib.zeroshot.text_model.load_clip", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(ValueError, match="99 x 99 is not a multiple of the patch size"):
        AnoClipModel(backbone=backbone, image_size=99)
