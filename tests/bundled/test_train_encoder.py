"""Training of the encoder: captions, loss, and a tiny run from the command line."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from anoclip_anomalib.bundled.captions import Captioner
from anoclip_anomalib.bundled.train_encoder import Embeddings, grow_positions, multi_positive_loss
from anoclip_anomalib.clip import load_clip
from anoclip_anomalib.prompts import PromptBuilder
from tests.bundled.files import read_weights


def test_captions_are_sentences_of_the_prompt_vocabulary() -> None:
    rng = np.random.default_rng(0)
    captioner = Captioner(["cookie", "damaged", "zipper"])
    assert "damaged" not in captioner.words
    for texture in (False, True):
        prompts = PromptBuilder(texture=texture).sentences("gear")
        known = {False: set(prompts.normal_sentences), True: set(prompts.abnormal_sentences)}
        drawn = {state: {captioner.draw(rng, "gear", state) for _ in range(400)} for state in (False, True)}
        for state in (False, True):
            assert len(drawn[state] & known[state]) > 50
            assert not drawn[state] & known[not state]
    both = [PromptBuilder(texture=texture).sentences("gear") for texture in (False, True)]
    everything = {sentence for prompts in both for sentence in (*prompts.normal_sentences, *prompts.abnormal_sentences)}
    assert {captioner.draw(rng, "gear", True) for _ in range(200)} <= everything


def test_generic_captions_never_carry_a_fixed_name() -> None:
    rng = np.random.default_rng(0)
    captioner = Captioner(["cookie", "zipper", "lantern"])
    captions = [captioner.draw_generic(rng, abnormal=True) for _ in range(200)]
    assert any("cookie" in caption for caption in captions)
    assert any("object" in caption for caption in captions)


def test_loss_is_lowest_for_matching_pairs_and_equals_clip_for_single_positives() -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, 5)
    labels = torch.arange(5)
    clip = (torch.nn.functional.cross_entropy(logits, labels) + torch.nn.functional.cross_entropy(logits.T, labels)) / 2
    torch.testing.assert_close(multi_positive_loss(logits, torch.eye(5).bool()), clip)
    positive = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]]).bool()
    right = multi_positive_loss(20.0 * positive, positive)
    wrong = multi_positive_loss(20.0 * ~positive, positive)
    assert right < multi_positive_loss(torch.zeros(2, 4), positive) < wrong


def test_embeddings_equal_the_models_own() -> None:
    clip = load_clip("demo", "demo")
    tokens = clip.tokenize(["a photo of the flawless gear", "a dark industrial image of a gear with damage"])
    images = torch.rand(2, 3, 128, 128)
    with torch.inference_mode():
        image_embedding, text_embedding, scale = Embeddings(clip.model)(images, tokens)
        own = clip.model(images, tokens)
    torch.testing.assert_close(image_embedding, own[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(text_embedding, own[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scale, own[2])


def test_positions_grow_smoothly() -> None:
    ramp = torch.linspace(0, 1, 8)
    grid = torch.stack([ramp[:, None].expand(8, 8), ramp[None].expand(8, 8)], -1).reshape(64, 2)
    state = {"visual.positional_embedding": torch.cat([torch.full((1, 2), 9.0), grid])}
    grow_positions(state, 16)
    grown = state["visual.positional_embedding"]
    assert grown.shape == (257, 2)
    assert (grown[0] == 9).all()
    rows = grown[1:].reshape(16, 16, 2)[2:-2, 2:-2]
    assert (rows[1:, :, 0] > rows[:-1, :, 0]).all()
    assert (rows[:, 1:, 1] > rows[:, :-1, 1]).all()


def _train(folder: Path, processes: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "anoclip_anomalib.bundled.train_encoder", "--out", str(folder)]
    command += ["--steps", "2", "--pairs", "2", "--processes", str(processes), "--workers", "0", "--log-every", "1"]
    return subprocess.run([*command, "--chunk-pairs", "4"], capture_output=True, text=True, timeout=240, check=False)


def test_a_tiny_run_writes_loadable_weights_and_their_origin(tmp_path: Path) -> None:
    run = _train(tmp_path / "enc", processes=2)
    assert run.returncode == 0, run.stderr
    assert "step 2/2 named" in run.stdout
    tensors, header = read_weights(tmp_path / "enc")
    config = json.loads((tmp_path / "enc" / "demo_clip.json").read_text())
    assert config["vision_cfg"]["image_size"] == 128
    assert tensors["visual.positional_embedding"].shape == (257, config["vision_cfg"]["width"])
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    assert header["progress"] == "complete"
    assert "--steps 2" in header["command"]


@pytest.mark.parametrize("arguments", [["--steps", "x"], ["--out", "x", "--init", "y"], []])
def test_bad_command_lines_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from anoclip_anomalib.bundled.train_encoder import main

    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "error:" in capsys.readouterr().err
