"""Misspelt words on the real command line: one clear error with the nearest name, and torch is not imported for it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from anoclip_anomalib.cli import early_checks
from anoclip_anomalib.cli.early_checks import InputError, check_command, check_own, no_such_path
from tests.mvtec_files import write_mvtec

HERE = Path(__file__).parents[2]
MISSPELT = [
    ("tset --model AnoClip", "no command tset; did you mean test?"),
    ("test --model AnoCllip", 'unknown model "AnoCllip"; did you mean AnoClip?'),
    ("train --model anomalib.models.Padin", "did you mean Padim?"),
    ("predict --model=patchcore --data photos", "did you mean Patchcore?"),
    ("test --model Zzz", "known: AaClip, AnoClip"),
    ("test --modle AnoClip", "no option --modle; did you mean --model?"),
    ("test --data MVTecAD", "--model is missing"),
    ("predict --model AnoClip", "--data is missing"),
    ("test --model AnoClip --model.clas_name x", 'AnoClip has no argument "clas_name"; did you mean class_name?'),
    ("fit --model Padim --model.init_args.bakbone x", 'Padim has no argument "bakbone"; did you mean backbone?'),
    ("test --model AnoClip --model.backbone ViT-B-16-plus240", "ViT-B-16-plus-240"),
    ("test --model AnoClip --model.pretrained no.safetensors", "--model.pretrained: there is no file no.safetensors"),
    ("test --model AnoClip --model.normal_images photo", "did you mean photos?"),
    ("test --model AnoClip --model.image_size abc", "AnoClip: image_size is int or tuple[int, int] or None, not abc"),
    ("test --model AnoClip --model.image_size [192]", "AnoClip: image_size is int or tuple[int, int] or None, not [192]"),
    ("test --model AnoClip --model.tiling sqare", "AnoClip: tiling is {none,square}, not sqare; did you mean square?"),
    ("test --model AnoClip --model.views 21", "AnoClip: views is {1,22}, not 21"),
    ("test --model AnoClip --model.false_alarms few", "AnoClip: false_alarms is float, not few"),
    ("test --model AnoClip --model.turned_normals perhaps", "AnoClip: turned_normals is bool, not perhaps"),
    ("test --model Padim --model.n_features 3.5", "Padim: n_features is int or None, not 3.5"),
    ("fit --model Padim --data MVTecAD --data.root mvtec --data.train_batch_size true", "train_batch_size is int, not true"),
    ("inspect photos --set tilin=square", 'AnoClip has no argument "tilin"; did you mean tiling?'),
    ("inspect photos --set tiling=sqare", "AnoClip: tiling is {none,square}, not sqare; did you mean square?"),
    ("inspect photos --device gpu", "--device gpu: there is no such kind of device; auto, cpu, cuda, mps"),
    ("test --model AnoClip --ckpt_path last.ckpt", "--ckpt_path: there is no file last.ckpt"),
    ("test --model AnoClip --trainer.acelerator cpu", "did you mean --trainer.accelerator?"),
    ("export --model AnoClip --exprt_type onnx", "did you mean --export_type?"),
    ("test --model AnoClip --data MVTecAd", 'unknown data set "MVTecAd"; did you mean MVTecAD?'),
    ("test --model AnoClip --data MVTecAD --data.categry x", 'no argument "categry"; did you mean category?'),
    ("test --model AnoClip --data MVTecAD --data.root mvtek", "no folder mvtek; did you mean mvtec?"),
    ("test --model AnoClip --data MVTecAD --data.root mvtec --data.category botle", "did you mean bottle?"),
    (
        "test --model AnoClip --data MVTecAD --data.root mvtec --data.category cable",
        "mvtec has no folder cable; it has: bottle",
    ),
    ("test --model AnoClip --data MVTecAD --data.category botle", "did you mean bottle?"),
    ("test --model AnoClip --data GeneratedParts --data.category fuze", "did you mean fuse?"),
    ("predict --model AnoClip --data fotos", "no folder fotos; did you mean photos?"),
    ("predict --model AnoClip --data MVTecAd", "no data set MVTecAd; did you mean MVTecAD?"),
    ("test --config confg.yaml", "no file confg.yaml; did you mean config.yaml?"),
    ("test --config config.yaml", 'unknown model "AnoKlip"; did you mean AnoClip?'),
    ("test --config broken.yaml", "broken.yaml is not valid YAML"),
    ("benchmark --config confg.yaml", "did you mean config.yaml?"),
    ("compare siute.yaml", "no file siute.yaml; did you mean suite.yaml?"),
    ("compare suite.yaml", 'suite.yaml:2: unknown model "AnoKlip"; did you mean AnoClip?'),
    ("compare values.yaml", "values.yaml:3: AnoClip: tiling is {none,square}, not sqare; did you mean square?"),
    ("compare values.yaml", "values.yaml:4: AnoClip: image_size is int or tuple[int, int] or None, not [1, 2, 3]"),
    ("compare suite.yaml", 'suite.yaml:3: Padim has no argument "bakbone"'),
    ("compare suite.yaml", 'suite.yaml:5: data root mvtek of "parts" does not exist; did you mean mvtec?'),
    ("compare suite.yaml --ouput x", "did you mean --output?"),
    ("compare suite.yaml --runner rya", "did you mean ray?"),
    ("report resluts", "no folder resluts; did you mean results?"),
    ("pool build fotos --out x.safetensors", "did you mean photos?"),
    ("pool biuld photos", "did you mean build?"),
    ("prompts cookie --backbone demmo", "closest names: demo"),
    ("prompts cookie --state-only", "did you mean --states-only?"),
    ("demo --categories fuze", "fuse"),
    ("demo --imagesize 3", "did you mean --image-size?"),
    ("train aaclip --source no.yaml --out x.safetensors", "No such source: no.yaml"),
    ("train aaclip --sorce no.yaml --source x --out x.safetensors", "did you mean --source?"),
    ("submit mvtec-ad", "did you mean mvtec-ad2?"),
    ("submit mvtec-ad2 --naem x --model AnoClip", "did you mean --name?"),
    ("submit mvtec-ad2 --name x --model AnoCllip", "did you mean AnoClip?"),
    ("submit mvtec-ad2 --name x --model AnoClip --data MVTecAD2 --data.root mvtek", "did you mean mvtec?"),
    ("submit model-card resluts", "did you mean results?"),
    ("submit vand-fewshot --set views", "--set 'views' is no NAME=VALUE"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    write_mvtec(folder / "mvtec", ("bottle",), good=1, defects=1, size=(8, 8))
    for name in ("photos", "results"):
        (folder / name).mkdir()
    (folder / "photos" / "a.png").touch()
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": {"class_path": "AnoKlip"}, "data": "MVTecAD"}))
    (folder / "broken.yaml").write_text("model: [")
    models = "name: x\nmodels: [AnoKlip,\n  {class_path: Padim, init_args: {bakbone: x}}]\n"
    (folder / "suite.yaml").write_text(models + "data:\n  - {name: parts, class_path: MVTecAD, init_args: {root: mvtek}}\n")
    values = "name: x\nmodels:\n  - {class_path: AnoClip, init_args: {tiling: sqare}}\n"
    (folder / "values.yaml").write_text(values + "  - {class_path: AnoClip, init_args: {image_size: [1, 2, 3]}}\ndata: []\n")
    return folder


@pytest.fixture(scope="module")
def answers(folder) -> dict[str, dict]:
    """Every misspelt command in one process: exit code, what was printed, and whether torch is there."""
    code = """
import contextlib, io, json, sys
from anoclip_anomalib.cli.main import main
for line in sys.stdin.read().splitlines():
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = main(line.split())
        except SystemExit as stop:
            code = stop.code
    print(json.dumps({"line": line, "code": code, "error": err.getvalue(), "torch": "torch" in sys.modules}), flush=True)
"""
    lines = "\n".join(dict.fromkeys(line for line, _ in MISSPELT))
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    before = sorted(folder.rglob("*"))
    run = subprocess.run(
        [sys.executable, "-c", code], input=lines, capture_output=True, text=True, cwd=folder, env=environment, timeout=200
    )
    assert sorted(folder.rglob("*")) == before, "something was created"
    return {answer["line"]: answer for answer in map(json.loads, run.stdout.splitlines())}


@pytest.mark.parametrize(("line", "said"), MISSPELT)
def test_a_misspelt_word_is_answered_without_torch(answers, line, said):
    answer = answers[line]
    assert said in answer["error"]
    assert (answer["code"], answer["torch"]) == (2, False)
    assert "Traceback" not in answer["error"]


FINE = [
    "test --model AnoClip --data MVTecAD --data.root mvtec --data.category bottle",
    "test --model anoclip_anomalib.AnoClip --model.init_args.views 22 --data anomalib.data.MVTecAD",
    "test --model some.other.Model --model.anything 3",
    "test --model AnoClip --model.pretrained hf-hub:a/b.bin --model.prompts.templates ['a{}']",
    "test --model AnoClip --data MVTecAD --data.root empty --data.category cable",
    "test --model AnoClip --data MVTecAD --data.root archive --data.category cable",
    "test --model AnoClip --data MVTecAD --data.root ./datasets/MVTecAD",
    "test --model AnoClip --data MVTecAD --data.root ./datasets/MVTecAD --data.category bottle",
    "test --model AnoClip --data GeneratedParts --data.root new --data.category fuse",
    "test --model AnoClip --data MVTecAD --data.root own --data.category cookie",
    "test --model AnoClip --model.image_size 192 --model.views 22 --model.tiling square --model.false_alarms 1e-3",
    "test --model AnoClip --model.image_size [192,160] --model.smoothing 0x10 --model.k_seed null --model.turned_normals yes",
    "test --model AnoClip --model.image_size (192,160) --model.views ${views} --model.depths 3",
    "test --model AnoClip --model.k_seed None --model.turned_normals 1 --model.class_name 7 --model.coreset 1",
    "predict --model AnoClip --data photos",
    "predict --model AnoClip --data MVTecAD",
    "predict --model AnoClip --data PredictDataset",
    "test --model AnoClip --trainer.callbacks+ TestTimeAdaptation --trainer.callbacks.x 3",
    "test --model.help AnoClip",
    "test --help",
    "fit --print_config --model.class_path AnoClip --optimizer Adam --lr_scheduler.x 3",
    "install --option full",
]


@pytest.mark.parametrize("line", FINE)
def test_what_may_be_right_is_left_to_others(folder, tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    for name in ("mvtec/bottle", "own/cookie", "photos", "empty", "archive/other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "archive/mvtec.tar.xz").touch()
    command, *words = line.split()
    check_command(command, words)


def test_exports_are_named_as_anomalib_names_them():
    from anomalib.deploy import ExportType

    assert set(early_checks._EXPORT_NEEDS) == {one.value for one in ExportType}
    with pytest.raises(InputError, match="--export_type onx is unknown: torch, onnx, openvino; did you mean onnx"):
        check_command("export", ["--model", "AnoClip", "--export_type", "onx"])


@pytest.mark.parametrize(("kind", "missing"), [("onnx", "onnx"), ("openvino", "openvino"), ("openvino", "onnx")])
def test_a_package_that_an_export_needs_is_missed_before_anything_is_loaded(monkeypatch, kind, missing):
    monkeypatch.setattr(early_checks, "find_spec", lambda name: None if name == missing else name)
    with pytest.raises(InputError, match=rf"{missing} is not installed; pip install 'anoclip_anomalib\[export\]'"):
        check_command("export", ["--model", "AnoClip", "--export_type", kind])
    check_command("export", ["--model", "AnoClip", "--export_type", "torch"])
    check_command("test", ["--model", "AnoClip", "--export_type", kind])  # its parser says what is wrong


def test_a_later_option_counts_more_than_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mvtec").mkdir()
    data = {"class_path": "MVTecAD", "init_args": {"root": "elsewhere", "category": "bottle"}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"model": "AnoClip", "data": data}))
    check_command("test", ["--config", "c.yaml", "--data.root", "mvtec"])
    with pytest.raises(InputError, match="no folder elsewhere"):
        check_command("test", ["--config", "c.yaml"])


def test_a_model_card_is_of_a_comparisons_model():
    check_own(["submit", "model-card", "results", "--model", "AnoCLIP, 22 views"])
    with pytest.raises(InputError, match="Zzz"):
        check_own(["inspect", "--model", "Zzz"])


def test_the_nearest_path_is_looked_for_where_the_path_ends(tmp_path):
    (tmp_path / "photos/line 1").mkdir(parents=True)
    (tmp_path / "photos/line123").touch()  # nearer, and no folder
    assert no_such_path(tmp_path / "photos/line12", folder=True).endswith(f"did you mean {tmp_path}/photos/line 1?")
    assert no_such_path(tmp_path / "fotos/line 1/x", folder=True).endswith(f"did you mean {tmp_path}/photos?")
    assert no_such_path(tmp_path / "zzzzzz") == f"there is no file {tmp_path}/zzzzzz"
    assert no_such_path("zzzzzz.nothing.near") == "there is no file zzzzzz.nothing.near"


def test_every_command_of_anomalibs_with_a_model_is_known_by_its_method():
    from anoclip_anomalib.cli.main import ANOMALIB_COMMANDS

    assert set(early_checks._METHODS) == set(ANOMALIB_COMMANDS) - {"benchmark", "install"}
