"""anomalib's WinClip and the repaired one, with the open_clip at hand and with 2.24 beside it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from anomalib.models import WinClip
from anomalib.models.image.winclip import torch_model

from anoclip_anomalib.comparison.winclip import RepairedWinClip, RepairedWinClipModel, fair_winclip, window_fault

ROOT = Path(__file__).parents[2]
OLD_OPEN_CLIP = Path(os.environ.get("OPEN_CLIP_224", "/work/openclip224"))
VISION = {"image_size": 48, "layers": 3, "width": 64, "patch_size": 8, "head_width": 16}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}


def tiny_winclip(**options) -> WinClip:
    """anomalib's WinClip on a small random CLIP."""
    import open_clip
    from open_clip.factory import _MODEL_CONFIGS

    create = open_clip.create_model_and_transforms

    def small(name, pretrained=None, **kwargs):
        torch.manual_seed(0)
        _MODEL_CONFIGS["tiny-winclip"] = {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": TEXT}
        return create("tiny-winclip", pretrained=None, **kwargs)

    torch_model.open_clip.create_model_and_transforms = small
    try:
        return WinClip(**options)
    finally:
        torch_model.open_clip.create_model_and_transforms = create


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


@pytest.mark.skipif(
    not (OLD_OPEN_CLIP / "open_clip").is_dir(),
    reason=f"no open_clip 2.24 at {OLD_OPEN_CLIP}: pip install --target FOLDER --no-deps open_clip_torch==2.24.0, "
    "and name the folder in OPEN_CLIP_224",
)
def test_with_open_clip_224_original_and_repaired_agree_and_equal_todays_repaired():
    code = "import json; from tests.comparison.test_winclip import compare; print(json.dumps(compare()))"
    env = os.environ | {"PYTHONPATH": f"{OLD_OPEN_CLIP}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    old = json.loads(run.stdout.splitlines()[-1])
    assert old["measured"] == "WinClip"
    assert old["fault"] < 1e-5
    assert old["map_difference"] < 1e-6
    assert old["score_difference"] < 1e-6
    assert old["repaired_map_mean"] == pytest.approx(compare()["repaired_map_mean"], abs=1e-6)


def test_settings_survive_the_repair():
    chosen, _ = fair_winclip(tiny_winclip(class_name="nut", scales=(2,)))
    assert chosen.class_name == "nut"
    assert chosen.model.scales == (2,)


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
