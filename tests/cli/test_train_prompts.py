"""``anoclip train prompts``: options, defaults, errors, and what comes out."""

import pytest

from anoclip_anomalib.cli import train_prompts as command
from anoclip_anomalib.cli.main import main
from anoclip_anomalib.zeroshot.learned_weights import load_learned
from tests.mvtec_files import write_mvtec

SMALL = ["--backbone", "demo", "--image-size", "32", "--accelerator", "cpu", "--epochs", "1", "--batch-size", "4"]


@pytest.fixture
def source(tmp_path) -> str:
    root = write_mvtec(tmp_path / "mvtec", ("bottle", "cable"), good=2, defects=2, size=(32, 32))
    path = tmp_path / "source.yaml"
    path.write_text(f"name: MVTec AD\ndata: [{{class_path: MVTecAD, init_args: {{root: '{root}'}}}}]\n")
    return str(path)


def checked(*words):
    args = command.build_parser().parse_args(["--out", "x.safetensors", *words])
    return *command._checked(args), args


def test_each_method_has_its_authors_steps(source):
    expected = {
        "anomalyclip": (15, 8, 1e-3, (0.5, 0.999)),
        "crane": (5, 8, 1e-3, (0.6, 0.999)),
        "adaclip": (5, 1, 1e-2, (0.5, 0.999)),
    }
    for method, steps in expected.items():
        own = checked("--source", source, "--method", method)[0].training
        assert (own.epochs, own.batch_size, own.lr, own.betas) == steps
    recipe = checked("--source", source, "--method", "crane", "--lr", "0.1", "--betas", "0.8", "0.9", "--schedule", "cosine")[0]
    assert (recipe.training.lr, recipe.training.betas, recipe.training.schedule) == (0.1, (0.8, 0.9), "cosine")
    assert (recipe.training.epochs, recipe.backbone, recipe.pretrained, recipe.image_size) == (5, "ViT-L-14-336", "openai", 518)


def test_features_are_kept_where_they_are_constant(source, tmp_path):
    drawn = tmp_path / "drawn.yaml"
    drawn.write_text("name: drawn\ngenerated: {images: 4}\n")
    assert checked("--source", source)[2].cache_features
    assert not checked("--source", source, "--method", "adaclip")[2].cache_features
    assert not checked("--source", str(drawn))[2].cache_features
    assert not checked("--source", source, "--no-cache-features")[2].cache_features


def test_a_source_on_disk_is_trained_on_and_refused_as_target(source, tmp_path, capsys):
    out = tmp_path / "a.safetensors"
    assert main(["train", "prompts", "--method", "crane", "--source", source, "--out", str(out), "--knowledge", *SMALL]) == 0
    assert f"Adapters: {out}" in capsys.readouterr().out
    facts = load_learned(out, "crane").facts
    assert (facts.source, facts.categories, facts.images, facts.image_size) == ("MVTec AD", ["bottle", "cable"], 8, 32)
    assert len(facts.image_digests) == 8
    assert facts.settings["knowledge"] is True
    assert facts.settings["cached_features"] is True
    assert len(list((tmp_path / "a.safetensors.checkpoints/features_crane").glob("*.safetensors"))) == 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--source", "none.yaml"], "No such source: none.yaml"),
        (["--out", "x.pth"], "must be a .safetensors"),
        (["--root", "nowhere"], "no such folder: nowhere"),
        (["--lr", "0"], "lr=0.0"),
        (["--accumulate", "0"], "--accumulate 0 is too small"),
        (["--taps", "3"], "no taps to choose"),
        (["--second-encoder", "x"], "AnomalyCLIP has no second encoder"),
        (["--method", "crane-plus", "--second-encoder", "x"], "timm has no model 'x'"),
        (["--method", "adaclip", "--cache-features"], "cached features"),
        (["--knowledge", "none.yaml"], "none.yaml"),
        (["--image-size", "33"], "multiple"),
    ],
)
def test_bad_input_is_one_line(source, tmp_path, capsys, words, message):
    own = ["--source", source, "--out", str(tmp_path / "a.safetensors"), *SMALL, *words]
    assert main(["train", "prompts", *own]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("anoclip train: ")
    assert message in error
    assert not list(tmp_path.glob("a.safetensors.checkpoints/*"))  # they would refuse the corrected command
