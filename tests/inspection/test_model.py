import pytest
import torch

from anoclip_anomalib import registry
from anoclip_anomalib.inspection.model import build_model, check_model, on_device, usual_model


def test_every_model_of_the_package_is_known():
    assert [check_model(name) for name in registry.MODELS] == list(registry.MODELS)


@pytest.mark.parametrize(
    ("name", "nearest"), [("anoclip", "AnoClip"), ("AnoCLIP", "AnoClip"), ("aa-clip", "AaClip"), ("Centre", "CentreDistance")]
)
def test_a_misspelt_model_is_answered_with_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"did you mean {nearest}"):
        check_model(name)


def test_aa_clip_is_usual_with_adapters_and_where_nothing_is_said():
    assert usual_model(None) == usual_model(None, None, None) == usual_model("demo", "good") == "AaClip"
    assert usual_model(None, None, "good") == usual_model(None, "ViT-B-16", None) == "AnoClip"


def test_learned_weights_are_recognised_and_bring_their_encoder():
    model = build_model("AaClip", None, None, None, None, {})
    assert model.model.backbone == "demo"
    from importlib.resources import files

    learned = next(files("anoclip_anomalib").joinpath("bundled/weights").glob("aaclip*.safetensors"))
    again = build_model("AaClip", None, str(learned), None, None, {})
    assert again.weights_digest == model.weights_digest
    assert not again.training


def test_nothing_of_anomalib_is_around_the_model(weight_file):
    model = build_model("AnoClip", "tiny", weight_file("tiny"), None, None, {})
    assert model.post_processor is None
    assert model.visualizer is None
    assert model.model.image_size == (64, 64)


def test_scores_that_depend_on_other_photographs_are_refused():
    with pytest.raises(ValueError, match="mode='clean'"):
        build_model("AaClip", None, None, None, None, {"mode": "reference"})


def test_a_model_on_the_cpu_is_the_one_that_was_built_and_elsewhere_a_copy(weight_file):
    model = build_model("AnoClip", "tiny", weight_file("tiny"), None, None, {})
    assert on_device(model, "cpu") == (model, "cpu")
    assert on_device(model, "auto")[1] == ("cuda" if torch.cuda.is_available() else "cpu")
    moved, device = on_device(model, "meta")  # a device that every machine has
    assert device == "meta"
    assert moved.model.visual_encoder.visual.proj.device.type == "meta"
    assert model.model.visual_encoder.visual.proj.device.type == "cpu"
