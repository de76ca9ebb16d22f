import sys

import pytest
import torch
from anomalib.data import ImageBatch
from torch import nn

from anoclip_anomalib.cli.submit import main
from anoclip_anomalib.submission.provenance import read_json
from anoclip_anomalib.submission.vand.fewshot import CATEGORIES, Model, check_model_file, write_model_file

DEMO = {"backbone": "demo", "pretrained": "demo"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def model(cache):
    return Model(**DEMO, text_cache_dir=cache).eval()


def images(count, seed=0):
    return torch.rand(count, 3, 256, 256, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def scored(model, batch, shots, category="pushpins"):
    model.setup({"few_shot_samples": shots, "dataset_category": category})
    return model(batch)


def test_interface_of_the_kit(model):
    assert isinstance(model, nn.Module)
    assert model.weights_url("pushpins") is None
    assert model.batch_size >= 1
    for shots in (1, 2):
        output = scored(model, images(3), images(shots, 1))
        assert isinstance(output, ImageBatch)
        assert output.pred_score.shape == (3,)
        assert output.anomaly_map.shape == (3, 256, 256)
        assert torch.isfinite(output.pred_score).all()


def test_a_reference_image_itself_is_no_surprise(model):
    shots = images(2, 1)
    output = scored(model, torch.cat([shots[:1], images(1, 7)]), shots)
    text_only = scored(model, torch.cat([shots[:1], images(1, 7)]), shots[:0])
    gain = output.pred_score - 0.5 * text_only.pred_score
    assert gain[0] == pytest.approx(0.0, abs=1e-4)
    assert gain[1] > 1e-3


def test_setup_forgets_the_call_before(model):
    first = scored(model, images(2), images(2, 1)).pred_score
    scored(model, images(2), images(4, 5), "screw_bag")
    torch.testing.assert_close(scored(model, images(2), images(2, 1)).pred_score, first)
    assert not torch.equal(scored(model, images(2), images(2, 1), "screw_bag").pred_score, first)


def test_batches_do_not_matter(model):
    together = scored(model, images(3), images(1, 1)).pred_score
    one_by_one = torch.cat([model(image[None]).pred_score.detach() for image in images(3)])
    torch.testing.assert_close(together, one_by_one, atol=1e-5, rtol=0)


def test_weight_zero_is_zero_shot_anoclip(cache):
    model = Model(0.0, **DEMO, text_cache_dir=cache).eval()
    batch = images(2)
    output = scored(model, batch, images(2, 1))
    with torch.no_grad():
        expected = model.anoclip.model(model.anoclip.pre_processor(batch))
    torch.testing.assert_close(output.pred_score, expected.pred_score)
    assert model.anoclip.model.adapter is None  # the seam is left as it was


def test_tiles_of_wide_images(cache):
    model = Model(**DEMO, text_cache_dir=cache, tiling="square").eval()
    wide = torch.rand(2, 3, 100, 250, generator=torch.Generator().manual_seed(0))
    output = scored(model, wide, wide[:1])
    assert output.anomaly_map.shape == (2, 100, 250)
    assert output.anomaly_map[0].mean() < output.anomaly_map[1].mean()


def test_bad_input(model):
    with pytest.raises(KeyError, match="dataset_category"):
        model.setup({})
    with pytest.raises(ValueError, match="reference_weight"):
        Model(1.5, **DEMO)


def test_command_writes_a_file_that_the_kit_can_import(tmp_path, cache, monkeypatch):
    path = tmp_path / "eval" / "submission" / "model.py"
    options = ["--backbone", "demo", "--pretrained", "demo", "--set", f"text_cache_dir={cache}", "--reference-weight", "0.3"]
    assert main(["vand-fewshot", "--out", str(path), *options]) == 0
    assert main(["vand-fewshot", "--validate", str(path)]) == 0
    assert read_json(path.with_name("model.provenance.json"))["settings"]["reference_weight"] == 0.3
    # As the kit's evaluate.py does.
    for folder in (path.parent, path.parent.parent):
        (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("eval", "eval.submission", "eval.submission.model"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    from eval.submission.model import Model as Submitted

    instance = Submitted()
    assert instance.reference_weight == 0.3
    output = scored(instance.eval(), images(1), images(1, 1), CATEGORIES[0])
    assert output.pred_score.shape == (1,)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("class Other: pass", "no class Model"),
        ("import torch\nclass Model(torch.nn.Module):\n    weights_url = lambda self, c: 'ftp://x'", "None or a URL"),
        (
            "import torch\nclass Model(torch.nn.Module):\n    weights_url = lambda self, c: None\n"
            "    setup = lambda self, d: None\n    forward = lambda self, i: i",
            "must return anomalib's ImageBatch",
        ),
        (
            "import torch\nfrom anomalib.data import ImageBatch\nclass Model(torch.nn.Module):\n"
            "    weights_url = lambda self, c: None\n    setup = lambda self, d: None\n"
            "    forward = lambda self, i: ImageBatch(image=i, pred_score=torch.full((len(i),), float('nan')))",
            "finite numbers",
        ),
    ],
)
def test_models_that_do_not_keep_the_interface(tmp_path, capsys, code, message):
    path = tmp_path / "model.py"
    path.write_text(code)
    with pytest.raises((TypeError, ValueError), match=message):
        check_model_file(path)
    assert main(["vand-fewshot", "--validate", str(path)]) == 1
    assert message in capsys.readouterr().out


def test_unknown_arguments(tmp_path, capsys):
    assert main(["vand-fewshot", "--out", str(tmp_path / "m.py"), "--set", "colour=red"]) == 2
    assert "colour" in capsys.readouterr().err
    assert main(["vand-fewshot", "--out", str(tmp_path / "m.py"), "--set", "colour"]) == 2
    assert not list(tmp_path.iterdir())


def test_settings_are_data_and_not_code(tmp_path):
    settings = {"backbone": "demo'); import os; ('", "image_size": [240, 240], "class_name": None}
    path = write_model_file(tmp_path / "model.py", settings)
    found = {}
    source = path.read_text().replace("from anoclip_anomalib.submission.vand.fewshot import Model as _Model", "")
    exec(source, {"_Model": type("Base", (), {"__init__": lambda self, **kwargs: found.update(kwargs)})}, found)
    found["Model"]()
    assert {key: found[key] for key in settings} == settings
    assert set(found) == {*settings, "Model", "__doc__"}


@torch.no_grad()
def test_the_score_of_the_references_is_half_of_one_minus_the_cosine(cache):
    batch, shots = images(3), images(2, 1)
    for weight in (1.0, 0.25):
        model = Model(weight, **DEMO, text_cache_dir=cache).eval()
        tokens, known = (
            nn.functional.normalize(model._encode(one).patch_tokens.flatten(1, 2), dim=-1) for one in (batch, shots)
        )
        unlike = (1 - (tokens @ known.flatten(0, 1).T).amax(dim=2)) / 2
        by_text = scored(model, batch, None).pred_score
        expected = (1 - weight) * by_text + weight * unlike.amax(dim=1)
        torch.testing.assert_close(scored(model, batch, shots).pred_score, expected, atol=1e-5, rtol=0)
