import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from anoclip_anomalib.aaclip.adapters import ImageAdapters
from anoclip_anomalib.aaclip.adapters_file import load_adapters, load_text_half, save_adapters
from anoclip_anomalib.clip import load_clip
from anoclip_anomalib.clip.state_dict import WeightFileError
from anoclip_anomalib.zeroshot.learned_weights import HEADER, load_learned


def rewritten(path, change_tensors=None, change_header=None):
    from safetensors import safe_open

    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()[HEADER])
    tensors = change_tensors(tensors) if change_tensors else tensors
    if change_header:
        change_header(header)
    save_file(tensors, path, metadata={HEADER: json.dumps(header)})
    return path


def test_what_is_written_is_read(adapters_file, halves):
    text, image = halves()
    loaded = load_adapters(adapters_file("own", categories=["candle"], images=7, seed=3))
    for own, read in ((text, loaded.text), (image, loaded.image)):
        assert own.state_dict().keys() == read.state_dict().keys()
        for name, tensor in read.state_dict().items():
            torch.testing.assert_close(own.state_dict()[name], tensor, rtol=0, atol=0)
    assert loaded.image.taps == (3, 6, 9, 12)
    assert (loaded.facts.source, loaded.facts.categories, loaded.facts.images, loaded.facts.seed) == ("VisA", ["candle"], 7, 3)
    assert loaded.facts.auxiliary_data == "VisA test split, with masks"
    assert len(loaded.digest) == 64


def test_mixing_and_activation_belong_to_the_file(tmp_path, halves, facts):
    text, image = halves(reference=True)
    text.adapters.mixing, image.adapters.mixing = 0.2, 0.5
    loaded = load_adapters(save_adapters(tmp_path / "x.safetensors", text, image, facts()))
    assert (loaded.text.adapters.mixing, loaded.image.adapters.mixing, loaded.text.activation) == (0.2, 0.5, True)


def test_the_share_of_the_class_token_belongs_to_the_file(tmp_path, halves, facts):
    text, _ = halves()
    image = ImageAdapters(2, 64, 32, (3, 12), class_share=0.3)
    loaded = load_adapters(save_adapters(tmp_path / "x.safetensors", text, image, facts()))
    assert loaded.image.class_share == 0.3
    assert torch.equal(loaded.image.class_detection.weight, image.class_detection.weight)


def test_which_class_token_belongs_to_the_file(tmp_path, halves, facts):
    text, _ = halves()
    image = ImageAdapters(2, 64, 32, (3, 12), class_share=0.3, class_token="clip")
    loaded = load_adapters(save_adapters(tmp_path / "x.safetensors", text, image, facts())).image
    assert (loaded.class_token, loaded.class_share, loaded.class_detection) == ("clip", 0.3, None)


def test_halves_of_different_runs_are_refused(tmp_path, halves, facts):
    text, image = halves(seed=0)
    path = save_adapters(tmp_path / "x.safetensors", text, image, facts())
    other = halves(seed=1)[0].state_dict()
    rewritten(path, lambda tensors: {**tensors, **{f"text.{name}": tensor for name, tensor in other.items()}})
    with pytest.raises(WeightFileError, match="different runs"):
        load_adapters(path)


def test_a_text_half_alone_is_no_model_but_can_be_trained_towards(tmp_path, halves, facts):
    text, _ = halves()
    path = save_adapters(tmp_path / "x.safetensors", text, None, facts())
    with pytest.raises(WeightFileError, match="no image half; both stages"):
        load_adapters(path)
    read, found = load_text_half(path)
    assert torch.equal(read.projection.weight, text.projection.weight)
    assert "image_of" not in found.halves


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {**t, "image.odd": torch.zeros(1)}, "odd"),
        (lambda t: {k: v for k, v in t.items() if k != "image.segmentation.1.weight"}, "segmentation.1.weight"),
        (lambda t: {**t, "image.segmentation.1.weight": torch.zeros(3, 3)}, "segmentation.1.weight"),
        (lambda t: {k: v for k, v in t.items() if k != "image.detection.weight"}, "no matrix detection.weight"),
        (lambda t: {**t, "image.detection.weight": torch.full((32, 64), torch.nan)}, "NaN"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, halves, facts, change, message):
    path = rewritten(save_adapters(tmp_path / "x.safetensors", *halves(), facts()), change)
    with pytest.raises(WeightFileError, match=message):
        load_adapters(path)


def test_another_backbone_or_activation_is_refused_before_anything_is_loaded(adapters_file):
    loaded = load_adapters(adapters_file("own"))
    loaded.check_backbone("tiny", "as_trained")
    loaded.check_backbone(None, None)
    with pytest.raises(ValueError, match=r"trained with backbone 'tiny', not 'ViT-B-16'"):
        loaded.check_backbone("ViT-B-16", None)
    with pytest.raises(ValueError, match=r"trained with activation 'as_trained', not 'gelu'"):
        loaded.check_backbone(None, "gelu")


def test_another_clip_is_refused_by_its_digest_and_else_by_its_shapes(adapters_file, tiny_clip):
    loaded = load_adapters(adapters_file("own"))
    loaded.check_clip(tiny_clip())
    with pytest.raises(ValueError, match="other weights of tiny"):
        loaded.check_clip(tiny_clip("tiny-quickgelu"))
    unknown = replace(loaded, facts=replace(loaded.facts, backbone_digest=""))
    unknown.check_clip(tiny_clip("tiny-quickgelu"))  # nothing speaks against it
    with pytest.raises(ValueError, match="do not fit tiny-patch8.*3 blocks"):
        unknown.check_clip(tiny_clip("tiny-patch8"))
    with pytest.raises(ValueError, match="do not fit demo: they are for towers of width 64 and 64"):
        unknown.check_clip(load_clip("demo"))


def test_the_header_alone_can_be_read(adapters_file):
    assert load_learned(adapters_file("own"), "aaclip").facts.backbone == "tiny"
