"""Whole trainings: the same twice, interrupted, cached, refused."""

import logging
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from anoclip_anomalib import PromptClipModel
from anoclip_anomalib.data.auxiliary import AuxiliaryDataset
from anoclip_anomalib.data.sources import Source
from anoclip_anomalib.promptlearning.methods import METHODS
from anoclip_anomalib.promptlearning.prompts_file import load_prompts
from anoclip_anomalib.promptlearning.settings import TRAINING, PromptRecipe
from anoclip_anomalib.promptlearning.train import train
from anoclip_anomalib.promptlearning.training import PromptTraining
from anoclip_anomalib.zeroshot.train import Data, Machine
from tests.aaclip.conftest import Squares

MACHINE = Machine(accelerator="cpu", progress=False)


def recipe(method="anomalyclip", *, epochs=2, lr=1e-2, normal_aware=0.0, **changes) -> PromptRecipe:
    training = replace(TRAINING[method], epochs=epochs, batch_size=4, lr=lr, normal_aware=normal_aware)
    own = {"backbone": "demo", "pretrained": "random", "image_size": 64}
    second = {"second_encoder": "test_vit4", "second_pretrained": "random"} if method == "crane-plus" else {}
    return PromptRecipe(**{"method": method, "training": training, **own, **second, **changes})


def data(**changes) -> Data:
    return Data(source=Source(name="squares", **changes), drawn=Squares())


def same(first, second) -> bool:
    first, second = load_file(first), load_file(second)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_trained_is_a_model(tmp_path, method):
    out = train(recipe(method, epochs=1), data(), tmp_path / "a.safetensors", machine=MACHINE)
    learned, found, _ = load_prompts(out)
    assert found.name == learned.facts.method == method
    assert learned.facts.auxiliary_data == "squares, with masks"
    assert learned.facts.activation == ("gelu" if METHODS[method].activation == "gelu" else "as_trained")
    assert learned.facts.settings["prompts"]["lr"] == 1e-2
    assert set(learned.facts.settings["prompts"]["losses"]) >= {"loss", "segmentation_loss"}
    second = {"second_encoder": "test_vit4", "second_pretrained": "random"} if method == "crane-plus" else {}
    model = PromptClipModel(adapters=out, class_name="plate", **second)
    result = model(torch.zeros(2, 3, 64, 64))
    assert result.anomaly_map.shape == (2, 1, 64, 64)
    assert torch.isfinite(result.pred_score).all()


def test_the_normal_aware_loss_stands_in_the_header_where_it_is_used(tmp_path):
    plain = train(recipe(epochs=1), data(), tmp_path / "a.safetensors", machine=MACHINE)
    aware = train(recipe("crane", epochs=1, normal_aware=0.5), data(), tmp_path / "b.safetensors", machine=MACHINE)
    headers = [load_prompts(file)[0].facts.settings["prompts"] for file in (plain, aware)]
    assert [header.get("normal_aware") for header in headers] == [None, 0.5]
    assert "normal_aware_loss" in headers[1]["losses"]


def test_two_trainings_are_equal_and_another_seed_is_not(tmp_path):
    first = train(recipe(), data(), tmp_path / "a.safetensors", machine=MACHINE)
    torch.manual_seed(99)
    assert same(first, train(recipe(), data(), tmp_path / "b.safetensors", machine=MACHINE))
    assert not same(first, train(recipe(seed=5), data(), tmp_path / "c.safetensors", machine=MACHINE))


def test_killed_and_resumed_is_undisturbed(tmp_path, monkeypatch):
    own = recipe("crane", epochs=3)
    whole = train(own, data(held_out=0.25), tmp_path / "a.safetensors", machine=MACHINE)

    def die(self):
        if self.current_epoch == 2:
            msg = "killed"
            raise SystemError(msg)

    with monkeypatch.context() as patch:
        patch.setattr(PromptTraining, "on_train_epoch_start", die, raising=False)
        with pytest.raises(SystemError, match="killed"):
            train(own, data(held_out=0.25), tmp_path / "b.safetensors", machine=MACHINE)
    assert not (tmp_path / "b.safetensors").exists()
    assert same(whole, train(own, data(held_out=0.25), tmp_path / "b.safetensors", machine=MACHINE))


@pytest.mark.parametrize("method", ["anomalyclip", "april-gan"])
def test_features_are_computed_once_and_train_alike(tmp_path, method, monkeypatch):
    own = recipe(method, epochs=1, lr=1e-3)
    plain = train(own, data(), tmp_path / "a.safetensors", machine=MACHINE)
    cached = replace(MACHINE, cache_features=True)
    kept = train(own, data(), tmp_path / "b.safetensors", machine=cached)
    folder = tmp_path / f"b.safetensors.checkpoints/features_{method}"
    assert len(list(folder.glob("*.safetensors"))) == 8
    first, second = load_file(plain), load_file(kept)
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], atol=2e-3, rtol=0)
    monkeypatch.setattr(AuxiliaryDataset, "_draw", None)  # not read again
    for path in (tmp_path / "b.safetensors.checkpoints/prompts").glob("*.ckpt"):
        path.unlink()
    assert same(kept, train(own, data(), tmp_path / "b.safetensors", machine=cached))


def test_the_loss_falls(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        out = train(recipe(epochs=8), data(), tmp_path / "a.safetensors", machine=MACHINE)
    lines = [record.message for record in caplog.records if record.message.startswith("prompts stage, epoch")]
    first, last = (float(line.split("loss ")[1].split(",")[0]) for line in (lines[0], lines[-1]))
    assert len(lines) == 8
    assert last < 0.97 * first
    assert load_prompts(out)[0].facts.settings["prompts"]["epoch"] == 8


def test_knowledge_stands_in_the_header_and_changes_the_result(tmp_path):
    path = tmp_path / "k.yaml"
    path.write_text("plate: ['{} with a bright square']\n")
    plain = train(recipe(epochs=1), data(), tmp_path / "a.safetensors", machine=MACHINE)
    own = recipe(epochs=1, knowledge=str(path))
    knowing = train(own, data(), tmp_path / "b.safetensors", machine=MACHINE)
    assert not same(plain, knowing)
    assert load_prompts(knowing)[0].facts.settings["knowledge"] == str(path)
    assert "knowledge" not in load_prompts(plain)[0].facts.settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "anomalyclip stage: epochs=0"),
        ({"image_size": 0}, "image_size=0"),
        ({"image_size": 65}, "multiple"),
        ({"seed": -1}, "seed=-1"),
        ({"knowledge_weight": 0.0}, "knowledge_weight"),
        ({"knowledge_margin": 2.0}, "knowledge_margin"),
        ({"method": "april-gan", "knowledge": True}, "which APRIL-GAN does not have"),
        ({"method": "april-gan", "normal_aware": 1.0}, "APRIL-GAN has no image loss"),
        ({"normal_aware": -1.0}, "normal_aware=-1.0 must not be negative"),
        ({"taps": (3, 6)}, "no taps"),
        ({"method": "adaclip", "taps": (6, 3)}, "rising"),
        ({"method": "adaclip", "taps": (13,)}, "12 blocks"),
        ({"method": "crane", "second_encoder": "test_vit4"}, "Crane has no second encoder"),
        ({"knowledge": True}, "Nobody described the defects of plate, tile"),
        ({"backbone": "tiny", "method": "crane"}, "cannot be a word"),
    ],
)
def test_settings_that_cannot_be_used(tmp_path, changes, message, weight_file):
    if changes.get("backbone") == "tiny":
        changes = {**changes, "pretrained": weight_file("tiny")}
    if changes == {"knowledge": True}:
        changes = {"knowledge": str(tmp_path / "k.yaml")}
        (tmp_path / "k.yaml").write_text("spoon: ['bent {}']\n")
    with pytest.raises(ValueError, match=message):
        train(recipe(**changes), data(), tmp_path / "a.safetensors", machine=MACHINE)


@pytest.mark.parametrize("machine", [{"cache_features": True}, {"devices": 2}])
def test_adaclip_refuses_what_it_cannot(tmp_path, machine):
    with pytest.raises(ValueError, match="AdaCLIP cannot be trained with"):
        train(recipe("adaclip"), data(), tmp_path / "a.safetensors", machine=replace(MACHINE, **machine))
