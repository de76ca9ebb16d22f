"""``anoclip train aaclip``: options, errors, and the real command killed and started again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from anoclip_anomalib.cli import train as command
from anoclip_anomalib.cli.main import main
from anoclip_anomalib.zeroshot.learned_weights import load_learned
from tests.mvtec_files import write_mvtec

DOCUMENTED = Path(__file__).parents[2] / "docs/training.md"
SMALL = [
    "--backbone", "demo", "--image-size", "32", "--accelerator", "cpu", "--text.epochs", "1", "--text.batch-size", "4",
    "--image.epochs", "4", "--image.batch-size", "2", "--image.adapters".replace(".", "-"), "2",
]  # fmt: skip


@pytest.fixture
def source(tmp_path) -> str:
    root = write_mvtec(tmp_path / "mvtec", ("bottle", "cable"), good=2, defects=2, size=(32, 32))
    path = tmp_path / "source.yaml"
    path.write_text(f"name: MVTec AD\ndata: [{{class_path: MVTecAD, init_args: {{root: '{root}'}}}}]\n")
    return str(path)


def weights(path) -> dict[str, torch.Tensor]:
    return load_file(path)


def same(first, second) -> bool:
    return all(torch.equal(weights(first)[name], tensor) for name, tensor in weights(second).items())


def test_options_become_a_recipe(source, tmp_path):
    words = [
        "--source", source, "--out", str(tmp_path / "x.safetensors"), "--mode", "reference", "--seed", "7",
        "--image-mixing", "0.5", "--taps", "3", "12", "--text.lr", "0.01", "--text.betas", "0.8", "0.9",
        "--image.sizes", "128", "192", "--image.schedule", "cosine", "--image.average", "0.9",
    ]  # fmt: skip
    own = [*words[:4], "--scales", "0.667", "1", "--class-token", "clip", "--class-share", "1", "--image-weight", "0.25"]
    read_at = command._checked(command.build_parser().parse_args(own))[0]
    assert (read_at.scales, read_at.class_token, read_at.class_share, read_at.image_weight) == ((0.667, 1.0), "clip", 1.0, 0.25)
    recipe, read = command._checked(command.build_parser().parse_args(words))
    assert (recipe.mode, recipe.seed, recipe.image_mixing, recipe.text_mixing, recipe.taps) == (
        "reference",
        7,
        0.5,
        0.1,
        (3, 12),
    )
    assert (recipe.text.lr, recipe.text.betas, recipe.text.epochs) == (0.01, (0.8, 0.9), 5)
    assert (recipe.image.sizes, recipe.image.schedule, recipe.image.average, recipe.image.lr) == (
        (128, 192),
        "cosine",
        0.9,
        5e-4,
    )
    assert (recipe.backbone, recipe.pretrained, recipe.image_size) == ("ViT-L-14-336", "openai", 518)
    assert read.name == "MVTec AD"


def test_a_source_on_disk_is_trained_on(source, tmp_path, capsys):
    out = tmp_path / "a.safetensors"
    assert main(["train", "aaclip", "--source", source, "--out", str(out), *SMALL]) == 0
    assert f"Adapters: {out}" in capsys.readouterr().out
    facts = load_learned(out, "aaclip").facts
    assert (facts.source, facts.categories, facts.images, facts.image_size) == ("MVTec AD", ["bottle", "cable"], 8, 32)
    assert len(facts.image_digests) == 8
    assert (facts.backbone, facts.pretrained) == ("demo", "demo")
    tensors = weights(out)
    assert sum(name.startswith("image.adapters") for name in tensors) == 2


def test_generated_parts_are_a_source(tmp_path):
    path, out = tmp_path / "drawn.yaml", tmp_path / "a.safetensors"
    path.write_text("name: drawn\ngenerated: {images: 4}\n")
    words = ["train", "aaclip", "--source", str(path), "--out", str(out), "--stage", "image", "--text", "clip", *SMALL]
    assert main([*words, "--image.epochs", "1", "--image-size", "64"]) == 0
    facts = load_learned(out, "aaclip").facts
    assert facts.auxiliary_data == "drawn, with masks"
    assert facts.images == 4
    assert facts.settings["generated"] == {"images": 4, "photos": False, "plain": 0.4, "photographs": {}}
    assert "object" in facts.categories


def test_the_documented_training_of_the_bundled_adapters_gives_equal_bytes(tmp_path):
    path = tmp_path / "drawn.yaml"
    path.write_text("name: drawn\ngenerated: {images: 8, plain: 0.5}\n")
    start = "anoclip train aaclip --source configs/sources/demo.yaml"
    command = next(part for part in DOCUMENTED.read_text().split("\n\n") if part.strip().startswith(start))
    words = command.replace("configs/sources/demo.yaml", str(path)).split()[1:]
    files = [tmp_path / f"{name}.safetensors" for name in "ab"]
    for file in files:
        own = [str(file) if word.endswith(".safetensors") else word for word in words]
        assert main([*own, "--image.epochs", "2", "--accelerator", "cpu"]) == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    facts, bundled = load_learned(files[0], "aaclip").facts, load_learned("demo", "aaclip").facts
    changed = {"epochs", "epoch", "losses"}
    own, shipped = ({k: v for k, v in f.settings["image"].items() if k not in changed} for f in (facts, bundled))
    assert own == shipped, "the bundled adapters were made by the documented command"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--source", "none.yaml"], "No such source: none.yaml"),
        (["--out", "x.pth"], "must be a .safetensors"),
        (["--root", "nowhere"], "no such folder: nowhere"),
        (["--image.lr", "0"], "image stage: lr=0.0"),
        (["--text.epochs", "0"], "text stage: epochs=0"),
        (["--accumulate", "0"], "--accumulate 0 is too small"),
        (["--text", "x.safetensors"], "--text is for --stage image"),
        (["--descriptions", "none.yaml"], "No such file of descriptions"),
        (["--taps", "5", "2"], "rising list"),
        (["--image-size", "33"], "multiple"),
        (["--backbone", "ViT-B-166"], "Unknown backbone"),
        (["--stage", "image"], "needs text anchors"),
    ],
)
def test_bad_input_is_one_line(source, tmp_path, capsys, words, message):
    own = ["--source", source, "--out", str(tmp_path / "a.safetensors"), *SMALL, *words]
    assert main(["train", "aaclip", *own]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("anoclip train: ")
    assert message in error
    assert not (tmp_path / "a.safetensors").exists()


def test_a_source_whose_data_is_not_there(tmp_path, capsys):
    path = tmp_path / "s.yaml"
    path.write_text("data: [{class_path: Visa, init_args: {root: nowhere}}]\n")
    assert main(["train", "aaclip", "--source", str(path), "--out", str(tmp_path / "a.safetensors"), *SMALL]) == 2
    assert "needs its data in nowhere, which does not exist; name its folder with --root" in capsys.readouterr().err
    path.write_text(f"data: [{{class_path: Visa, init_args: {{root: '{tmp_path}'}}}}]\n")
    assert main(["train", "aaclip", "--source", str(path), "--out", str(tmp_path / "a.safetensors"), *SMALL]) == 2
    assert "has no category of Visa; name its folder with --root" in capsys.readouterr().err
    path.write_text(f"data: [{{class_path: Visa, init_args: {{root: '{tmp_path}'}}, categories: [candle]}}]\n")
    assert main(["train", "aaclip", "--source", str(path), "--out", str(tmp_path / "a.safetensors"), *SMALL]) == 2
    assert "has no 'candle' of Visa" in capsys.readouterr().err
    path.write_text("data: [{class_path: Vise, init_args: {}}]\n")
    assert main(["train", "aaclip", "--source", str(path), "--out", str(tmp_path / "a.safetensors"), *SMALL]) == 2
    assert 'unknown data "Vise"; did you mean Visa' in capsys.readouterr().err
    path.write_text(f"data: [{{class_path: Visa, init_args: {{root: '{tmp_path}', categry: candle}}, categories: [candle]}}]\n")
    (tmp_path / "candle").mkdir()
    assert main(["train", "aaclip", "--source", str(path), "--out", str(tmp_path / "a.safetensors"), *SMALL]) == 2
    assert 'Visa has no argument "categry" (it has: category' in capsys.readouterr().err


def test_another_method_is_named_and_anomalibs_train_is_still_there(capsys):
    assert main(["train", "bbclip"]) == 2
    assert "no method 'bbclip' to train; known: aaclip, prompts" in capsys.readouterr().err


def test_descriptions_come_from_a_file(source, tmp_path):
    path = tmp_path / "d.yaml"
    path.write_text("bottle: [green bottle, flask]\n")
    own = command.build_parser().parse_args(["--source", source, "--out", "x.safetensors", "--descriptions", str(path)])
    assert command._checked(own)[0].descriptions == {"bottle": ["green bottle", "flask"]}
    path.write_text("bottle: 3\n")
    with pytest.raises(ValueError, match="'bottle' must be a class with a description"):
        command._checked(own)


def process(words, folder) -> subprocess.Popen:
    code = "import sys; from anoclip_anomalib.cli.main import main; sys.exit(main(sys.argv[1:]))"
    script = folder / "anoclip_command.py"
    script.write_text(code)
    return subprocess.Popen(
        [sys.executable, str(script), "train", "aaclip", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_kill_9_and_the_same_command(source, tmp_path):
    words = ["--source", source, *SMALL, "--image.epochs", "40", "--image.average", "0.9", "--image.schedule", "cosine"]
    whole, killed = tmp_path / "whole.safetensors", tmp_path / "killed.safetensors"
    assert main(["train", "aaclip", *words, "--out", str(whole)]) == 0
    own = process([*words, "--out", str(killed)], tmp_path)
    checkpoint = tmp_path / "killed.safetensors.checkpoints/image/0002.ckpt"
    limit = time.monotonic() + 240
    while not checkpoint.exists() and own.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    own.send_signal(signal.SIGKILL)
    own.communicate()
    assert checkpoint.exists()
    assert not killed.exists(), "it was killed before the end"
    assert main(["train", "aaclip", *words, "--out", str(killed)]) == 0
    assert same(whole, killed)


@pytest.mark.slow
def test_two_processes_train_one_model(source, tmp_path):
    out = tmp_path / "two.safetensors"
    words = ["--source", source, *SMALL, "--image.epochs", "2", "--devices", "2", "--out", str(out)]
    _, error = (own := process(words, tmp_path)).communicate(timeout=400)
    assert own.returncode == 0, error[-3000:]
    facts = load_learned(out, "aaclip").facts
    assert facts.settings["image"]["devices"] == 2
    steps = torch.load(tmp_path / "two.safetensors.checkpoints/image/0001.ckpt", weights_only=True)["global_step"]
    assert steps == 2 * 2  # 8 images, 2 processes, batches of 2
