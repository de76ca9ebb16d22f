"""Whole trainings of the tiny CLIP: the same twice, interrupted, damaged, refused."""

import io
import logging
import re
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from anoclip_anomalib.aaclip import train as train_module
from anoclip_anomalib.aaclip.adapters_file import load_adapters
from anoclip_anomalib.aaclip.settings import Recipe, StageSettings
from anoclip_anomalib.aaclip.torch_model import AaClipModel
from anoclip_anomalib.aaclip.train import train
from anoclip_anomalib.aaclip.training import Stage
from anoclip_anomalib.claims import Claims
from anoclip_anomalib.data.auxiliary import AuxiliaryDataset
from anoclip_anomalib.data.samples import Sample
from anoclip_anomalib.data.sources import DataSpec, Source
from anoclip_anomalib.progress import Progress
from anoclip_anomalib.zeroshot.train import Data, Machine
from tests.aaclip.conftest import Squares
from tests.mvtec_files import write_mvtec

MACHINE = Machine(accelerator="cpu", progress=False)
AWARE = StageSettings(epochs=1, batch_size=1, lr=1, normal_aware=0.5)


@pytest.fixture
def recipe(weight_file):
    def make(**changes) -> Recipe:
        own = {
            "backbone": "tiny",
            "pretrained": weight_file("tiny"),
            "image_size": 64,
            "text": StageSettings(epochs=2, batch_size=4, lr=1e-3),
            "image": StageSettings(epochs=3, batch_size=4, lr=1e-3, average=0.5, schedule="cosine", jitter=0.5),
        }
        return Recipe(**{**own, **changes})

    return make


def data(**changes) -> Data:
    return Data(source=Source(name="squares", **changes), drawn=Squares())


def weights(path):
    return load_file(path)


def same(first, second) -> bool:
    first, second = weights(first), weights(second)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def stop_after(monkeypatch):
    """Make a training die like a killed process behind an epoch of a stage."""

    def make(stage: str, epoch: int):
        original = Stage.on_train_epoch_start if "on_train_epoch_start" in vars(Stage) else None
        assert original is None

        def die(self):
            if type(self).__name__ == stage and self.current_epoch == epoch:
                msg = "killed"
                raise SystemError(msg)

        monkeypatch.setattr(Stage, "on_train_epoch_start", die, raising=False)

    return make


def test_two_trainings_are_equal_and_another_seed_is_not(recipe, tmp_path):
    first = train(recipe(), data(), tmp_path / "a.safetensors", machine=MACHINE)
    torch.manual_seed(99)
    torch.rand(7)
    assert same(first, train(recipe(), data(), tmp_path / "b.safetensors", machine=MACHINE))
    other = train(recipe(seed=5), data(), tmp_path / "c.safetensors", machine=MACHINE)
    assert not same(first, other)


@pytest.mark.parametrize(("stage", "epoch"), [("TextStage", 1), ("ImageStage", 2)])
@pytest.mark.parametrize("mode", ["clean", "reference"])
def test_killed_and_resumed_is_undisturbed(recipe, tmp_path, stop_after, monkeypatch, stage, epoch, mode):
    own = recipe(mode=mode)
    whole = train(own, data(held_out=0.25), tmp_path / "a.safetensors", machine=MACHINE)
    with monkeypatch.context():
        stop_after(stage, epoch)
        with pytest.raises(SystemError, match="killed"):
            train(own, data(held_out=0.25), tmp_path / "b.safetensors", machine=MACHINE)
        monkeypatch.undo()
    assert not (tmp_path / "b.safetensors").exists()
    resumed = train(own, data(held_out=0.25), tmp_path / "b.safetensors", machine=MACHINE)
    assert same(whole, resumed)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(recipe, tmp_path, caplog):
    out = tmp_path / "a.safetensors"
    before = weights(train(recipe(), data(), out, machine=MACHINE))
    newest = tmp_path / "a.safetensors.checkpoints/image/0002.ckpt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 0xFF
    newest.write_bytes(content)
    with caplog.at_level(logging.INFO):
        train(recipe(), data(), out, machine=MACHINE)
    assert "0002.ckpt is damaged" in caplog.text
    assert "going on after epoch 2 of 3" in caplog.text
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(out).items())


def test_another_setting_in_the_same_folder_is_refused_with_what_differs(recipe, tmp_path):
    out = tmp_path / "a.safetensors"
    train(recipe(), data(), out, stages=("text",), machine=MACHINE)
    changed = recipe(text=StageSettings(epochs=2, batch_size=4, lr=2e-3))
    with pytest.raises(ValueError, match=r"another setting \(lr was 0.001, now 0.002\)"):
        train(changed, data(), out, machine=MACHINE)


def test_the_stages_can_be_run_one_by_one(recipe, tmp_path):
    both = train(recipe(), data(), tmp_path / "a.safetensors", machine=MACHINE)
    text = train(recipe(), data(), tmp_path / "b.safetensors", stages=("text",), machine=MACHINE)
    assert all(name.startswith("text.") for name in weights(text))
    assert same(both, train(recipe(), data(), text, stages=("image",), machine=MACHINE))
    other = tmp_path / "c.safetensors"
    train(recipe(), data(), other, stages=("image",), text_from=both, machine=MACHINE)
    assert same(both, other)
    assert load_adapters(other).facts.settings["text"]["epochs"] == 2


def test_an_image_stage_needs_text_anchors(recipe, tmp_path, facts, halves):
    with pytest.raises(ValueError, match=r"needs text anchors.*--stage text.*--text FILE.*--text clip"):
        train(recipe(), data(), tmp_path / "a.safetensors", stages=("image",), machine=MACHINE)
    from anoclip_anomalib.aaclip.adapters_file import save_adapters

    path = save_adapters(tmp_path / "other.safetensors", halves()[0], None, facts(backbone_digest="ab" * 32))
    with pytest.raises(ValueError, match="other weights than tiny"):
        train(recipe(), data(), tmp_path / "a.safetensors", stages=("image",), text_from=path, machine=MACHINE)
    with pytest.raises(ValueError, match="mode 'reference'"):
        train(recipe(mode="reference"), data(), tmp_path / "a", stages=("image",), text_from="clip", machine=MACHINE)


def test_plain_clips_anchors(recipe, tmp_path, tiny_clip):
    out = train(recipe(), data(), tmp_path / "a.safetensors", stages=("image",), text_from="clip", machine=MACHINE)
    own = AaClipModel(adapters=out, class_name="bottle", description="bottle", text_cache_dir=tmp_path, clip=tiny_clip())
    from anoclip_anomalib.aaclip.text import anchor
    from anoclip_anomalib.prompts.aaclip import sentences

    normal, abnormal = (tiny_clip().model.encode_text(tiny_clip().tokenize(one)) for one in sentences("bottle"))
    torch.testing.assert_close(own.text_embeddings, anchor(normal, abnormal).detach(), atol=1e-5, rtol=1e-4)


def test_the_loss_falls_and_the_header_says_how(recipe, tmp_path):
    image = StageSettings(epochs=6, batch_size=4, lr=3e-3)
    out = train(recipe(image=image), data(), tmp_path / "a.safetensors", machine=MACHINE)
    folder = tmp_path / "a.safetensors.checkpoints/image"
    losses = [torch.load(path, weights_only=True)["losses"]["loss"] for path in sorted(folder.glob("*.ckpt"))]
    assert len(losses) == 6
    assert losses[-1] < 0.8 * losses[0]
    facts = load_adapters(out).facts
    assert (facts.source, facts.split, facts.images, facts.masks, facts.mode, facts.seed) == (
        "squares",
        "",
        8,
        True,
        "clean",
        111,
    )
    assert facts.auxiliary_data == "squares, with masks"
    assert facts.categories == ["plate", "tile"]
    assert facts.settings["image"]["lr"] == 3e-3
    assert facts.settings["image"]["losses"]["loss"] == pytest.approx(losses[-1], abs=1e-5)
    assert facts.settings["image"]["chosen"] == "last epoch"
    assert "image_weight" not in facts.settings
    assert {"torch", "open_clip_torch", "anomalib"} <= set(facts.versions)
    state = torch.load(folder / "0000.ckpt", weights_only=True)["state_dict"]
    assert all(name.startswith("part.") for name in state), "the frozen towers are not in checkpoints"


def test_the_epoch_with_the_lowest_held_out_loss_is_taken(recipe, tmp_path):
    image = StageSettings(epochs=4, batch_size=4, lr=0.3)
    out = train(recipe(image=image), data(held_out=0.5), tmp_path / "a.safetensors", machine=MACHINE)
    contents = [
        torch.load(path, weights_only=True) for path in sorted((tmp_path / "a.safetensors.checkpoints/image").glob("*.ckpt"))
    ]
    held = [content["losses"]["held_out_loss"] for content in contents]
    best = held.index(min(held))
    facts = load_adapters(out).facts
    assert facts.settings["image"]["epoch"] == best + 1
    assert facts.settings["image"]["chosen"] == "lowest loss on held-out images"
    assert torch.equal(weights(out)["image.detection.weight"], contents[best]["state_dict"]["part.detection.weight"])


def test_the_class_token_and_random_projections_are_asked_for(recipe, tmp_path, tiny_clip):
    own = recipe(class_share=0.25, projections="random", image=StageSettings(epochs=1, batch_size=4, lr=1e-9))
    out = train(own, data(), tmp_path / "a.safetensors", stages=("image",), text_from="clip", machine=MACHINE)
    half = load_adapters(out).image
    assert half.class_share == 0.25
    proj = tiny_clip().model.visual.proj.T
    torch.testing.assert_close(half.class_detection.weight, proj, atol=1e-5, rtol=0)
    assert (half.detection.weight - proj).abs().max() > 0.05


def test_the_plain_class_token_and_scales_are_asked_for(recipe, tmp_path):
    image = StageSettings(epochs=1, batch_size=4, lr=1e-3)
    own = recipe(class_share=0.25, class_token="clip", scales=(0.5, 1.0), image=image)
    out = train(own, data(), tmp_path / "a.safetensors", stages=("image",), text_from="clip", machine=MACHINE)
    loaded = load_adapters(out)
    assert (loaded.image.class_token, loaded.image.class_share) == ("clip", 0.25)
    assert loaded.facts.settings["scales"] == [0.5, 1.0]
    other = recipe(class_share=0.25, scales=(0.5, 1.0), image=image)
    with pytest.raises(ValueError, match="class_token"):
        train(other, data(), out, stages=("image",), text_from="clip", machine=MACHINE)


def test_with_the_plain_class_token_alone_no_detection_vector_is_learned(recipe, tmp_path, tiny_clip):
    image = StageSettings(epochs=2, batch_size=4, lr=1e-3, loss="balanced")
    own = recipe(class_share=1.0, class_token="clip", image_weight=0.25, image=image)
    out = train(own, data(), tmp_path / "a.safetensors", stages=("image",), text_from="clip", machine=MACHINE)
    loaded = load_adapters(out)
    assert loaded.facts.settings["image_weight"] == 0.25
    assert set(loaded.facts.settings["image"]["losses"]) == {"loss", "segmentation_loss", "peak_loss"}
    proj = tiny_clip().model.visual.proj.T
    assert torch.equal(loaded.image.detection.weight, proj)
    assert all((level.weight - proj).abs().max() > 1e-4 for level in loaded.image.segmentation)


def test_the_balanced_loss_leaves_its_share_of_the_image_score_in_the_header(recipe, tmp_path):
    image = StageSettings(epochs=1, batch_size=4, lr=1e-3, loss="balanced", detection_scale=25.0)
    out = tmp_path / "a.safetensors"
    train(recipe(image=image), data(), out, stages=("image",), text_from="clip", machine=MACHINE)
    assert load_adapters(out).facts.settings["image_weight"] == 0.2  # 25 to 100


def test_files_of_a_data_set_are_a_source(recipe, tmp_path):
    root = write_mvtec(tmp_path / "mvtec", ("bottle",))
    samples = [Sample(str(path), None, "bottle") for path in sorted((root / "bottle/test/good").glob("*.png"))]
    masks = root / "bottle/ground_truth/spot"
    samples += [
        Sample(str(path), str(masks / f"{path.stem}_mask.png"), "bottle")
        for path in sorted((root / "bottle/test/spot").glob("*.png"))
    ]
    source = Source(name="MVTec AD", data=(DataSpec(class_path="MVTecAD", categories=("bottle",)),))
    out = train(recipe(), Data(source=source, samples=samples), tmp_path / "a.safetensors", machine=MACHINE)
    facts = load_adapters(out).facts
    assert facts.auxiliary_data == "MVTec AD test split, with masks"
    assert facts.data_sets == [{"class": "MVTecAD", "name": "", "categories": ["bottle"]}]
    assert len(facts.image_digests) == 6


def test_cached_features_train_as_images_do_without_augmentation(recipe, tmp_path, monkeypatch):
    own = recipe(text=StageSettings(epochs=1, batch_size=4, lr=1e-3))
    monkeypatch.setattr(train_module, "Augmentation", lambda **_: None)
    plain = train(own, data(), tmp_path / "a.safetensors", stages=("text",), machine=MACHINE)
    cached = replace(MACHINE, cache_features=True)
    kept = train(own, data(), tmp_path / "b.safetensors", stages=("text",), machine=cached)
    assert len(list((tmp_path / "b.safetensors.checkpoints/features").glob("*.safetensors"))) == 8
    for name, tensor in weights(kept).items():
        torch.testing.assert_close(tensor, weights(plain)[name], atol=2e-4, rtol=0)
    monkeypatch.setattr(AuxiliaryDataset, "_draw", None)  # not read again
    for path in (tmp_path / "b.safetensors.checkpoints/text").glob("*.ckpt"):
        path.unlink()
    assert same(kept, train(own, data(), tmp_path / "b.safetensors", stages=("text",), machine=cached))


def test_features_that_depend_on_the_batch_are_not_cached(recipe, tmp_path):
    with pytest.raises(ValueError, match="cannot be cached.*depend on the batch"):
        train(recipe(mode="reference"), data(), tmp_path / "a", machine=replace(MACHINE, cache_features=True))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(recipe, tmp_path, monkeypatch):
    original = Stage.training_step

    def poisoned(self, batch, batch_idx):
        if type(self).__name__ == "ImageStage" and self.current_epoch == 1:
            batch = {**batch, "image": batch["image"] * float("nan")}
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Stage, "training_step", poisoned)
    out = tmp_path / "a.safetensors"
    with pytest.raises(FloatingPointError, match=r"not finite in epoch 2, step 1 \(segmentation nan"):
        train(recipe(), data(), out, machine=MACHINE)
    assert [path.name for path in (tmp_path / "a.safetensors.checkpoints/image").glob("*.ckpt")] == ["0000.ckpt"]
    assert not out.exists()


def test_two_trainings_in_one_folder_are_refused(recipe, tmp_path):
    claim = Claims(tmp_path / "a.safetensors.checkpoints").take("training")
    with claim, pytest.raises(RuntimeError, match="Another process trains"):
        train(recipe(), data(), tmp_path / "a.safetensors", machine=MACHINE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": StageSettings(epochs=0, batch_size=1, lr=1)}, "text stage: epochs=0"),
        ({"image": StageSettings(epochs=1, batch_size=1, lr=0)}, "image stage: lr=0"),
        ({"image": StageSettings(epochs=1, batch_size=1, lr=1, betas=(0.5, 1.0))}, "betas"),
        ({"image": StageSettings(epochs=1, batch_size=1, lr=1, hold=1.0)}, "hold"),
        ({"image": StageSettings(epochs=1, batch_size=1, lr=1, schedule="x")}, "schedule='x'"),
        ({"image": StageSettings(epochs=1, batch_size=1, lr=1, pairs=-1, loss="balanced")}, "pairs=-1"),
        ({"image": StageSettings(epochs=1, batch_size=1, lr=1, pairs=1)}, "is for loss 'balanced'"),
        ({"projections": "x"}, "projections='x'"),
        ({"class_share": 1.0}, "class_share"),
        ({"mode": "reference", "class_share": 0.5}, "in mode 'reference' it is 0"),
        ({"class_share": 1.0, "class_token": "clip", "image": AWARE}, "nothing that normal_aware"),
        ({"class_share": 1.1, "class_token": "clip"}, "class_share=1.1"),
        ({"image_weight": 1.5}, "image_weight=1.5"),
        ({"mode": "reference", "image_weight": 0.5}, "in mode 'reference' it is 0.5"),
        ({"class_token": "x"}, "class_token='x'"),
        ({"class_token": "clip"}, "needs a class_share above 0"),
        ({"scales": ()}, "scales"),
        ({"scales": (0.4, 1.0)}, "from 0.5 to 2"),
        ({"mode": "reference", "scales": (0.5, 1.0)}, "in mode 'reference' 1 alone"),
        ({"mode": "x"}, "mode='x'"),
        ({"image_mixing": 1.5}, "mixing"),
        ({"taps": (6, 3)}, "rising"),
        ({"taps": (13,)}, "12 blocks"),
        ({"image_size": 65}, "multiple"),
    ],
)
def test_settings_that_cannot_be_used(recipe, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(recipe(**changes), data(), tmp_path / "a.safetensors", stages=("image",), text_from="clip", machine=MACHINE)


@pytest.mark.parametrize("shown", [True, False])
def test_how_far_a_stage_is_is_shown(recipe, tmp_path, monkeypatch, shown):
    stream = io.StringIO()
    terminal = Console(file=stream, force_terminal=True, width=100)
    monkeypatch.setattr("anoclip_anomalib.zeroshot.train.Progress", lambda quiet: Progress(terminal, quiet=quiet))
    train(recipe(), data(), tmp_path / "a.safetensors", machine=Machine(accelerator="cpu", progress=shown))
    found = re.findall(r"(text|image) stage, epoch (\d) of (\d)", stream.getvalue())
    assert set(found) == (
        {("text", "1", "2"), ("text", "2", "2"), *(("image", str(n), "3") for n in (1, 2, 3))} if shown else set()
    )
    assert bool(re.search(r"m([1-9]\d*)/\1\b", stream.getvalue())) == shown
