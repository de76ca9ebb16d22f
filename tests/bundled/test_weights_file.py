"""The bundled encoder's files: small, deep enough, with their origin in the header."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from anoclip_anomalib.bundled.weights_file import CONFIG, NOTICE, WEIGHTS, save_weights
from anoclip_anomalib.clip import load_clip
from tests.bundled.files import read_weights


def test_size_depth_and_vocabulary() -> None:
    assert WEIGHTS.stat().st_size <= 12 * 1024 * 1024
    config = json.loads(CONFIG.read_text(encoding="utf-8"))
    assert config["vision_cfg"]["layers"] >= 12
    assert config["vision_cfg"]["image_size"] >= 128
    assert config["text_cfg"]["vocab_size"] == 49408
    assert config["text_cfg"]["context_length"] == 77


def test_header_says_how_it_was_made_and_what_it_is_not() -> None:
    with safe_open(WEIGHTS, framework="pt") as file:
        header = file.metadata()
    assert header["notice"] == NOTICE
    assert "no inspector of real parts" in NOTICE
    for stage in ("stage 1", "stage 2"):
        origin = json.loads(header[stage])
        assert origin["command"].startswith("python -m anoclip_anomalib.demo.train_encoder")  # where it was then
        assert re.match(r"[0-9a-f]{7}", origin["commit"])


def test_it_loads_whole() -> None:
    clip = load_clip("demo", "demo")
    parameters, _ = read_weights(WEIGHTS.parent)
    loaded = dict(clip.model.named_parameters())
    assert set(parameters) == set(loaded)
    for name, tensor in parameters.items():
        assert torch.isfinite(tensor).all()
        torch.testing.assert_close(loaded[name].detach(), tensor)


def test_round_trip_and_nothing_left_behind(tmp_path: Path) -> None:
    state = {"weight": torch.tensor([0.5, -2.0]), "attn_mask": torch.zeros(2, 2), "count": torch.tensor(3)}
    save_weights(tmp_path, state, {"embed_dim": 2}, {"command": "x"})
    tensors, header = read_weights(tmp_path)
    assert list(tensors) == ["weight"]
    torch.testing.assert_close(tensors["weight"], state["weight"])
    assert header == {"command": "x", "notice": NOTICE}
    assert json.loads((tmp_path / CONFIG.name).read_text()) == {"embed_dim": 2}
    assert {path.name for path in tmp_path.iterdir()} == {WEIGHTS.name, CONFIG.name}


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"demo_clip\.safetensors"):
        read_weights(tmp_path / "nowhere")
