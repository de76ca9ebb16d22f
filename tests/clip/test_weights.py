import logging
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from open_clip.version import __version__ as open_clip_version
from safetensors.torch import load_file, save_file

from anoclip_anomalib.clip import WeightsUnavailableError, load_clip
from anoclip_anomalib.clip.state_dict import WeightFileError, state_dict_digest


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin"])
def test_a_local_file_is_loaded_whatever_its_format(tmp_path, weight_file, suffix):
    state = load_file(weight_file())
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    clip = load_clip("tiny", str(path))
    assert clip.digest == state_dict_digest(state)
    assert clip.provenance == {
        "backbone": "tiny",
        "pretrained": str(path),
        "weights_digest": clip.digest,
        "open_clip": open_clip_version,
    }
    assert not clip.model.training
    assert not any(parameter.requires_grad for parameter in clip.model.parameters())


def test_half_precision_weights_are_loaded_as_float32(tmp_path, weight_file):
    save_file({name: value.half() for name, value in load_file(weight_file()).items()}, tmp_path / "half.safetensors")
    clip = load_clip("tiny", str(tmp_path / "half.safetensors"))
    assert {value.dtype for value in clip.model.parameters()} == {torch.float32}


def test_weights_of_the_plain_layout_fit_a_custom_text_tower(weight_file):
    plain, custom = load_clip("tiny", weight_file()), load_clip("tiny-custom-text", weight_file())
    tokens = plain.tokenize(["a bottle"])
    with torch.no_grad():
        torch.testing.assert_close(plain.model.encode_text(tokens), custom.model.encode_text(tokens))


def test_a_process_loads_once_and_sees_a_replaced_file(tmp_path, weight_file, caplog):
    path = tmp_path / "weights.safetensors"
    state = load_file(weight_file())
    save_file(state, path)
    with caplog.at_level(logging.INFO):
        first = load_clip("tiny", str(path))
    assert first.digest in caplog.text
    assert load_clip("tiny", str(path)) is first
    save_file({**state, "logit_scale": state["logit_scale"] + 1}, path)
    assert load_clip("tiny", str(path)).digest != first.digest


def test_random_weights_are_the_same_every_time_and_leave_the_random_numbers_alone(architectures, caplog):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    digest = load_clip("tiny-heads", "random").digest
    assert torch.equal(torch.rand(3), expected)
    assert "random" in caplog.text
    from anoclip_anomalib.clip import weights

    weights._load_clip.cache_clear()
    assert load_clip("tiny-heads", "random").digest == digest
    torch.manual_seed(0)
    assert digest == state_dict_digest(open_clip.create_model("tiny-heads").state_dict())


def test_precisions_are_made_once_and_the_float32_tower_stays(tiny_clip):
    clip = tiny_clip()
    assert clip.visual_tower() is clip.model.visual
    half = clip.visual_tower("bfloat16")
    assert half is clip.visual_tower("bfloat16")
    assert half.proj.dtype == torch.bfloat16
    assert clip.model.visual.proj.dtype == torch.float32
    with pytest.raises(ValueError, match=r"'int8'; choose one of 'float32', 'bfloat16', 'float16'"):
        clip.visual_tower("int8")


# Activation


def activations(model: torch.nn.Module) -> list[set[type]]:
    """What the MLPs of the image and of the text tower use."""
    towers = model.visual.transformer, getattr(model, "text", model).transformer
    return [{type(block.mlp.gelu) for block in tower.resblocks} for tower in towers]


GELU, QUICK = [{torch.nn.GELU}] * 2, [{QuickGELU}] * 2


@pytest.mark.parametrize("name", ["tiny", "tiny-quickgelu", "tiny-custom-text", "tiny-custom-blocks"])
def test_another_activation_is_built_in_when_asked_for(weight_file, name):
    trained = load_clip(name, weight_file(name))
    assert activations(trained.model) == (QUICK if name == "tiny-quickgelu" else GELU)
    for activation, expected in (("gelu", GELU), ("quick_gelu", QUICK)):
        clip = load_clip(name, weight_file(name), activation=activation)
        assert activations(clip.model) == expected
        assert (clip.digest == trained.digest) is (activations(trained.model) == expected)
        assert clip.provenance == {**trained.provenance, "weights_digest": clip.digest, "activation": activation}
        assert load_clip(name, weight_file(name), activation=activation) is clip
    assert "activation" not in trained.provenance
    assert activations(trained.model) == (QUICK if name == "tiny-quickgelu" else GELU)  # that one is somebody else's


@torch.no_grad()
def test_an_activation_gives_what_open_clip_built_with_it_gives(weight_file):
    asked = load_clip("tiny", weight_file("tiny"), activation="quick_gelu")
    built = open_clip.create_model("tiny", pretrained=weight_file("tiny"), force_quick_gelu=True).eval()
    images, tokens = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)), asked.tokenize(["a bottle"])
    assert torch.equal(asked.model.encode_image(images), built.encode_image(images))
    assert torch.equal(asked.model.encode_text(tokens), built.encode_text(tokens))
    plain = load_clip("tiny", weight_file("tiny"))
    assert (plain.model.encode_image(images) - built.encode_image(images)).abs().max() > 1e-4


def test_an_unknown_activation_is_refused(weight_file):
    with pytest.raises(ValueError, match=r"'relu'; choose one of 'as_trained', 'gelu', 'quick_gelu'"):
        load_clip("tiny", weight_file(), activation="relu")


@pytest.mark.parametrize("quick", [True, False])
def test_a_tags_own_activation_is_used(monkeypatch, weight_file, quick):
    """OpenAI's tags say QuickGELU; their architectures' configuration does not."""
    from anoclip_anomalib.clip import weights

    tag = f"quick_{quick}".lower()  # as open_clip looks tags up
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {tag: {"hf_hub": f"nobody/{tag}/", "quick_gelu": quick}})
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda *_, **__: weight_file())
    weights._load_clip.cache_clear()
    assert activations(load_clip("tiny", tag).model) == (QUICK if quick else GELU)
    exact = load_clip("tiny", tag, activation="gelu")
    assert activations(exact.model) == GELU
    assert exact.digest == load_clip("tiny", weight_file()).digest or quick


def test_a_file_for_an_architecture_with_openais_weights_is_warned_about(monkeypatch, weight_file, caplog, tmp_path):
    def named(**choices) -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
        path.write_bytes(Path(weight_file()).read_bytes())
        caplog.clear()
        load_clip("tiny", str(path), **choices)
        return caplog.text

    assert "QuickGELU" not in named()
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {"openai": {"quick_gelu": True, "hf_hub": "timm/x.openai/"}})
    assert "GELU is used; OpenAI's need activation='quick_gelu'" in named()
    assert "QuickGELU" not in named(activation="gelu")
    assert "QuickGELU" not in named(activation="quick_gelu")


# Bad input


def test_weights_that_are_not_finite_are_refused_wherever_they_come_from(monkeypatch, tmp_path, weight_file):
    state = load_file(weight_file())
    state["visual.proj"][3, 4] = float("nan")
    path = tmp_path / "nan.safetensors"
    save_file(state, path)
    with pytest.raises(WeightFileError, match=r"nan\.safetensors has NaN or infinite values in 'visual\.proj'"):
        load_clip("tiny", str(path))
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {"broken": {"hf_hub": "nobody/broken/"}})
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda *_, **__: str(path))
    with pytest.raises(WeightFileError, match=r"tiny with weights broken has NaN or infinite values in 'visual\.proj'"):
        load_clip("tiny", "broken")


def test_a_file_that_cannot_be_used_is_told_before_a_model_is_built(monkeypatch, tmp_path):
    monkeypatch.setattr(open_clip, "create_model", lambda *_, **__: pytest.fail("a model was built"))
    (tmp_path / "weights.pt").write_bytes(b"not weights")
    with pytest.raises(WeightFileError, match="damaged"):
        load_clip("tiny", str(tmp_path / "weights.pt"))


def test_unknown_and_missing_tensors_are_told(tmp_path, weight_file):
    state = load_file(weight_file())
    save_file({**state, "visual.extra": torch.zeros(2)}, tmp_path / "more.safetensors")
    with pytest.raises(WeightFileError, match=r"more\.safetensors was not made for tiny: unknown 1 \(visual\.extra\)$"):
        load_clip("tiny", str(tmp_path / "more.safetensors"))
    del state["visual.proj"]
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(WeightFileError, match=r"less\.safetensors was not made for tiny: missing 1 \(visual\.proj\)$"):
        load_clip("tiny", str(tmp_path / "less.safetensors"))


def test_an_unknown_backbone_is_answered_with_the_closest_names():
    with pytest.raises(ValueError, match=r"Unknown backbone 'ViT-B-16-plus240'; closest names:.*ViT-B-16-plus-240"):
        load_clip("ViT-B-16-plus240", "laion400m_e32")
    with pytest.raises(ValueError, match=r"Unknown backbone 'Demo'; closest names:.*\bdemo\b"):
        load_clip("Demo", None)
    with pytest.raises(ValueError, match=r"Unknown backbone '§§'; known: demo, "):
        load_clip("§§", None)


def test_an_unknown_tag_is_answered_with_the_closest_tags():
    with pytest.raises(ValueError, match=r"Unknown weights 'laion400m' for ViT-B-16-plus-240.*laion400m_e31"):
        load_clip("ViT-B-16-plus-240", "laion400m")
    with pytest.raises(ValueError, match=r"Unknown weights '' for ViT-B-16-plus-240.*local file"):
        load_clip("ViT-B-16-plus-240", None)
    with pytest.raises(ValueError, match=r"for ViT-B-16-plus; name a local file \(open_clip has no weights"):
        load_clip("ViT-B-16-plus", "laion400m_e32")


@pytest.mark.parametrize("tag", ["laion400m_e31", "laion400m_e32"])
def test_offline_it_is_said_what_to_download_and_where_to_put_it(monkeypatch, tag):
    monkeypatch.setattr(open_clip, "create_model", _offline(open_clip.create_model))
    with pytest.raises(WeightsUnavailableError) as caught:
        load_clip("ViT-B-16-plus-240", tag)
    said = str(caught.value)
    assert f"'{tag}' of ViT-B-16-plus-240" in said
    assert tag in said.split("Download ")[1].split()[0]  # the tag's own file, not the other epoch's
    assert "as `pretrained`" in said
    if tag == "laion400m_e32":
        assert "put it at" in said
        assert "/.cache/clip/vit_b_16_plus_240-laion400m_e32-699c4b84.pt" in said


def test_offline_weights_on_the_hub_are_named(monkeypatch):
    monkeypatch.setattr(open_clip, "create_model", _offline(open_clip.create_model))
    with pytest.raises(
        WeightsUnavailableError, match=r"https://huggingface\.co/timm/vit_large_patch14_clip_336\S*.*pretrained"
    ) as caught:
        load_clip("ViT-L-14-336", "openai")
    assert "backbone='ViT-L-14-336-quickgelu'" in str(caught.value)  # the file alone does not tell the activation
    with pytest.raises(WeightsUnavailableError, match=r"hf-hub:nobody/nothing.*https://huggingface\.co/nobody/nothing"):
        load_clip("hf-hub:nobody/nothing", None)


def test_a_weight_file_of_another_shape_is_refused_with_what_differs(weight_file):
    with pytest.raises(
        WeightFileError, match=r"was not made for tiny-patch8: other shape \d+ .*conv1.*missing|other shape"
    ) as caught:
        load_clip("tiny-patch8", weight_file("tiny"))
    assert "was not made for tiny-patch8" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_weight_file_of_another_model_is_refused(tmp_path):
    save_file({"fc.weight": torch.zeros(2, 2)}, tmp_path / "resnet.safetensors")
    with pytest.raises(
        WeightFileError, match=r"resnet\.safetensors was not made for tiny: missing \d+ .*unknown 1 \(fc\.weight\)"
    ):
        load_clip("tiny", str(tmp_path / "resnet.safetensors"))


def test_a_missing_weight_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors"):
        load_clip("ViT-B-16-plus-240", str(tmp_path / "nothing.safetensors"))


def test_a_damaged_weight_file_is_named(tmp_path, weight_file):
    content = Path(weight_file()).read_bytes()
    (tmp_path / "half.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightFileError, match=r"half\.safetensors is damaged or truncated"):
        load_clip("tiny", str(tmp_path / "half.safetensors"))


@pytest.mark.parametrize(
    ("backbone", "tag", "found"),
    [
        ("RN50", "openai", "ResNet"),
        ("convnext_base", "laion400m_s13b_b51k", "convnext_base"),
        ("ViT-B-16-SigLIP", "webli", "vit_base_patch16_siglip_224"),
        ("EVA02-B-16", "merged2b_s8b_b131k", "eva02_base_patch16_clip_224"),
        ("coca_ViT-B-32", "laion2b_s13b_b90k", "attentional pooling"),
        ("ViT-H-14-CLIPA", "datacomp1b", "averages its patches"),
    ],
)
def test_towers_that_cannot_serve_are_refused_before_anything_is_downloaded(monkeypatch, backbone, tag, found):
    def fail(*_: object, **__: object) -> None:
        msg = "nothing may be created or downloaded"
        raise AssertionError(msg)

    monkeypatch.setattr(open_clip, "create_model", fail)
    with pytest.raises(ValueError, match=rf"{backbone}.*{found}.*supported are .*ViT-B-16-plus-240"):
        load_clip(backbone, tag)


def _offline(create_model):  # noqa: ANN001, ANN202
    """open_clip without the seconds that building the real architecture takes before it looks for weights."""

    def create(name: str, pretrained: str | None = None, **kwargs: object):  # noqa: ANN202
        if pretrained is None and not kwargs.get("require_pretrained"):
            return create_model("tiny")
        return create_model(name, pretrained=pretrained, **kwargs)

    return create


def test_a_tag_is_not_answered_with_another_epochs_weights(monkeypatch, weight_file):
    """open_clip >= 2.27 maps laion400m_e32 of ViT-B-16-plus-240 to the repository of e31."""
    from anoclip_anomalib.clip import weights

    url = "https://github.com/nobody/releases/tiny-epoch_32.safetensors"
    config = {"url": url, "hf_hub": "nobody/tiny.epoch_31/"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {"epoch_32": config})
    asked = []
    monkeypatch.setattr(weights, "reachable", lambda address: address == url)
    monkeypatch.setattr(weights, "download_pretrained_from_url", lambda url: asked.append(url) or weight_file())
    assert load_clip("tiny", "epoch_32").digest == load_clip("tiny", weight_file()).digest
    assert asked == [url]
