"""Anomalib's WinClip and the repaired one, with the open_clip at hand and with 2.24 beside it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from anomalib.models import WinClip
from anomalib.models.image.winclip import torch_model

from anoclip_anomalib.baselines.winclip import (
    RepairedWinClip,
    RepairedWinClipModel,
    fair_winclip,
    one_clip_per_process,
    transformer_is_batch_first,
    window_embeddings,
    window_fault,
)
from anoclip_anomalib.clip import load_clip

ROOT = Path(__file__).parents[2]
VISION = {"image_size": 48, "layers": 3, "width": 64, "patch_size": 8, "head_width": 16}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}


def tiny_factory(create):
    """open_clip's factory, which makes a small random CLIP whatever is asked for."""
    from open_clip.factory import _MODEL_CONFIGS

    def small(name, pretrained=None, **kwargs):
        torch.manual_seed(0)
        _MODEL_CONFIGS["tiny-winclip"] = {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": TEXT}
        return create("tiny-winclip", pretrained=None, **kwargs)

    return small


def tiny_winclip(**options) -> WinClip:
    """Anomalib's WinClip on a small random CLIP."""
    with pytest.MonkeyPatch.context() as patch:
        create = torch_model.open_clip.create_model_and_transforms
        patch.setattr(torch_model.open_clip, "create_model_and_transforms", tiny_factory(create))
        return WinClip(**options)


def compare() -> dict:
    """What both compute on the same images."""
    original = tiny_winclip()
    repaired = RepairedWinClipModel(source=original.model)
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    for model in (original.model, repaired):
        model.setup("cable", images[:1])
    first, second = original.model(images), repaired(images)
    chosen, note = fair_winclip(original)
    return {
        "fault": window_fault(original.model),
        "repaired_fault": window_fault(repaired),
        "map_difference": float((first.anomaly_map - second.anomaly_map).abs().max()),
        "score_difference": float((first.pred_score - second.pred_score).abs().max()),
        "repaired_map_mean": float(second.anomaly_map.mean()),
        "measured": type(chosen).__name__,
        "note": note,
    }


def test_fault_is_found_and_repaired():
    found = compare()
    assert found["repaired_fault"] < 1e-5
    if found["fault"] > 1e-3:  # open_clip >= 2.26.1
        assert found["fault"] > 0.1
        assert found["measured"] == "RepairedWinClip"
        assert "wrong" in found["note"]
        assert found["map_difference"] > 1e-3
    else:
        assert (found["measured"], found["note"]) == ("WinClip", None)
        assert found["map_difference"] < 1e-6


def test_with_open_clip_224_original_and_repaired_agree_and_equal_todays_repaired(open_clip_224):
    code = "import json; from tests.baselines.test_winclip import compare; print(json.dumps(compare()))"
    env = os.environ | {"PYTHONPATH": f"{open_clip_224}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    old = json.loads(run.stdout.splitlines()[-1])
    assert old["measured"] == "WinClip"
    assert old["fault"] < 1e-5
    assert old["map_difference"] < 1e-6
    assert old["score_difference"] < 1e-6
    assert old["repaired_map_mean"] == pytest.approx(compare()["repaired_map_mean"], abs=1e-6)


def test_a_process_loads_winclips_clip_once(monkeypatch):
    asked = []
    small = tiny_factory(torch_model.open_clip.create_model_and_transforms)

    def counted(name, pretrained=None):
        asked.append((name, pretrained))
        return small(name)

    monkeypatch.setattr(torch_model.open_clip, "create_model_and_transforms", counted)
    models = []
    for _ in range(2):
        with one_clip_per_process():
            models.append(WinClip())
    assert asked == [(torch_model.BACKBONE, torch_model.PRETRAINED)]
    assert models[0].model.clip is models[1].model.clip
    assert torch_model.open_clip.create_model_and_transforms is counted


def test_settings_survive_the_repair():
    original = tiny_winclip(class_name="nut", scales=(2,), k_shot=3, few_shot_source="photos")
    chosen, _ = fair_winclip(original)
    assert (chosen.class_name, chosen.k_shot, str(chosen.few_shot_source)) == ("nut", 3, "photos")
    assert chosen.model.scales == (2,)
    # As if it had been repaired, under every version of open_clip.
    own = RepairedWinClip(source=original.model, class_name="nut", scales=(2,), k_shot=3)
    assert (own.class_name, own.k_shot, own.model.scales, own.few_shot_source) == ("nut", 3, (2,), None)


def test_the_fault_is_relative_and_its_limit_lies_between_right_and_wrong(monkeypatch):
    model = tiny_winclip().model
    right = window_embeddings
    monkeypatch.setattr(type(model), "_get_window_embeddings", lambda self, features, masks: 3 * right(
        self.clip.visual, features, masks, transformer_is_batch_first(self.clip.visual.transformer, 64)
    ))  # fmt: skip
    assert window_fault(model) == pytest.approx(2, abs=1e-3)


@torch.no_grad()
def test_a_window_of_all_patches_is_the_image_and_a_small_one_is_its_patches_alone():
    visual = load_clip("demo", "random").model.visual
    tokens = 1 + visual.grid_size[0] * visual.grid_size[1]
    features = torch.randn(2, tokens, visual.conv1.weight.shape[0], generator=torch.Generator().manual_seed(0))
    batch_first = transformer_is_batch_first(visual.transformer, features.shape[-1])

    def alone(chosen):
        x = visual.ln_pre(features[:, chosen])
        x = visual.transformer(x) if batch_first else visual.transformer(x.transpose(0, 1)).transpose(0, 1)
        return visual.ln_post(x[:, 0]) @ visual.proj

    whole = window_embeddings(visual, features, torch.arange(tokens - 1)[:, None], batch_first)
    torch.testing.assert_close(whole[:, 0], alone(slice(None)), atol=1e-5, rtol=1e-5)
    two = window_embeddings(visual, features, torch.tensor([[0, 3], [1, tokens - 2]]), batch_first)
    for index, patches in enumerate(([0, 1, 2], [0, 4, tokens - 1])):  # the class token, then the patches
        torch.testing.assert_close(two[:, index], alone(patches), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch_first", [True, False])
def test_the_layout_is_found_by_computing(batch_first):
    attention = torch.nn.MultiheadAttention(8, 2, batch_first=batch_first)

    class Transformer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = attention

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)[0]

    assert transformer_is_batch_first(Transformer(), 8) is batch_first


def test_images_are_prepared_as_anomalibs_winclip_does():
    ours = RepairedWinClip(backbone="demo", pretrained="random").pre_processor.transform.transforms
    theirs = {type(one).__name__: one for one in WinClip.configure_pre_processor().transform.transforms}
    assert ours[0].interpolation == theirs["Resize"].interpolation
    assert ours[0].antialias == theirs["Resize"].antialias
    assert (list(ours[1].mean), list(ours[1].std)) == (list(theirs["Normalize"].mean), list(theirs["Normalize"].std))


def test_windows_differ_and_other_clips_can_be_used():
    model = RepairedWinClip(backbone="demo", pretrained="random")
    model.model.setup("nut")
    size = model.model.clip.visual.image_size
    size = size if isinstance(size, int) else size[0]
    assert list(model.pre_processor.transform.transforms[0].size) == [size, size]
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    _, windows, _ = model.model.encode_image(images)
    assert all(window.std(dim=1).mean() > 1e-4 for window in windows)
    assert len(model.weights_digest) == 64
    assert fair_winclip(model)[0] is model
