"""The real command lines on a small data set, in processes without a network, with their files looked at."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from tests.mvtec_files import image, write_mvtec

HERE = Path(__file__).parent
MODEL = ["--model.backbone", "demo", "--model.pretrained", "random"]


@dataclass
class Finished:
    """What the commands left behind."""

    folder: Path
    errors: dict[str, str]

    def output(self, name: str) -> str:
        path = self.folder / f"{name}.txt"
        assert path.exists(), self.errors
        return re.sub(r"\x1b\[[0-9;]*m", "", path.read_text())

    def code(self, name: str) -> int:
        return int((self.folder / f"{name}.rc").read_text())

    def ok(self, name: str) -> str:
        output = self.output(name)
        assert self.code(name) == 0, output
        return output

    def figures(self, name: str) -> dict[str, float]:
        cells = re.findall(r"│\s+(\w[\w.]*)\s+│\s+(-?[\d.e-]+|nan)\s+│", self.ok(name))
        return {metric: float(value) for metric, value in cells}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_mvtec(root / "mvtec", ("bottle", "cable"))
    write_mvtec(root / "bare", masks=False)
    pictures = root / "pictures"
    pictures.mkdir()
    for index in range(3):
        image(index, defect=index == 2)[0].save(pictures / f"{index}.png")
    content = (pictures / "1.png").read_bytes()
    (pictures / "1.png").write_bytes(content[: len(content) // 2])
    (root / "empty").mkdir()
    benchmark = {
        "accelerator": ["cpu"],
        "benchmark": {
            "seed": 42,
            "model": {"class_path": "AnoClip", "init_args": {"backbone": "demo", "pretrained": "random", "visualizer": False}},
            "data": {
                "class_path": "MVTecAD",
                "init_args": {
                    "root": str(root / "mvtec"),
                    "num_workers": 0,
                    "eval_batch_size": 4,
                    "train_batch_size": 4,
                    "category": {"grid": ["bottle", "cable"]},
                },
            },
        },
    }
    (root / "benchmark.yaml").write_text(yaml.safe_dump(benchmark))
    torch.save({"state_dict": {"a": torch.zeros(2)}, "x": _Code()}, root / "code.pt")
    return root


class _Code:
    """What would run a command when it is unpickled."""

    def __reduce__(self) -> tuple:
        return (os.system, ("echo code was run",))


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory, home) -> Finished:
    """All commands, in three processes side by side."""
    folder = tmp_path_factory.mktemp("commands")
    mvtec = ["--data", "MVTecAD", "--data.root", str(data / "mvtec"), "--data.num_workers", "0", "--data.category"]
    results = ["--default_root_dir"]
    commands = {
        "ours": {
            "test": [
                "anoclip",
                "test",
                "--model",
                "AnoClip",
                *MODEL,
                *mvtec,
                "bottle",
                *results,
                "test",
                "--seed_everything",
                "3",
            ],
            "replay": ["anoclip", "test", "--config", "@test/**/config.yaml", "--data.category", "cable", *results, "replay"],
            "predict": [
                "anoclip",
                "predict",
                "--model",
                "AnoClip",
                *MODEL,
                "--data",
                str(data / "pictures"),
                *results,
                "predict",
            ],
            "export": [
                *("anoclip", "export", "--model", "AnoClip", *MODEL, "--model.class_name", "bottle"),
                *("--export_type", "torch", *results, "export"),
            ],
            "export without class": [
                *("anoclip", "export", "--model", "AnoClip", *MODEL, "--export_type", "torch", *results, "export2"),
            ],
            "no masks": [
                *("anoclip", "test", "--model", "AnoClip", *MODEL, "--data", "MVTecAD", "--data.root", str(data / "bare")),
                *("--data.category", "bottle", *results, "bare"),
            ],
            "empty folder": ["anoclip", "predict", "--model", "AnoClip", *MODEL, "--data", str(data / "empty"), *results, "e"],
            "backbone": ["anoclip", "test", "--model", "AnoClip", "--model.backbone", "ViT-B-16-plus240", *mvtec, "bottle"],
            "offline": ["anoclip", "test", "--model", "AnoClip", *mvtec, "bottle", *results, "offline"],
            "prompts": [
                "anoclip",
                "test",
                "--model",
                "AnoClip",
                *MODEL,
                "--model.prompts",
                "{templates: ['a photo']}",
                *mvtec,
                "bottle",
            ],
            "weights with code": [
                *("anoclip", "predict", "--model", "AnoClip", "--model.backbone", "ViT-B-16-plus-240"),
                *("--model.pretrained", str(data / "code.pt"), "--data", str(data / "pictures"), *results, "e"),
            ],
            "checkpoint with code": [
                *("anoclip", "predict", "--model", "AnoClip", *MODEL, "--model.class_name", "bottle"),
                *("--ckpt_path", str(data / "code.pt"), "--data", str(data / "pictures"), *results, "e"),
            ],
            "size": ["anoclip", "test", "--model", "AnoClip", *MODEL, "--model.image_size", "100", *mvtec, "bottle"],
        },
        "stock": {
            "stock": ["anomalib", "test", "--model", "anoclip_anomalib.AnoClip", *MODEL, *mvtec, "bottle", *results, "stock"],
        },
        "benchmark": {"benchmark": ["anoclip", "benchmark", "--config", str(data / "benchmark.yaml")]},
    }
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE / "offline"), str(HERE.parents[1])]),
        "COLUMNS": "200",
        "OMP_NUM_THREADS": "1",
    }
    processes = {}
    for name, lines in commands.items():
        (folder / name).mkdir()
        words = [sys.executable, str(HERE / "run_commands.py"), str(folder), json.dumps(lines)]
        processes[name] = subprocess.Popen(words, cwd=folder / name, env=environment, stderr=subprocess.PIPE, text=True)
    return Finished(folder, {name: process.communicate(timeout=500)[1] for name, process in processes.items()})


def test_anoclip_test_measures_a_category(finished):
    figures = finished.figures("test")
    assert {"image_AUROC", "pixel_AUROC", "raw_ImageAUROC", "raw_AUPRO"} <= figures.keys()
    (results,) = (finished.folder / "ours/test").rglob("weights.json")
    assert json.loads(results.read_text())["class_name"] == "bottle"
    assert len(list(results.parent.rglob("*.png"))) == 6  # a picture of every test image
    assert len((results.parent / "predictions.csv").read_text().splitlines()) == 7
    (checkpoint,) = results.parent.rglob("*.ckpt")
    assert checkpoint.stat().st_size < 1_000_000
    assert "Seed set to 3" in finished.output("test")


def test_the_stock_command_measures_the_same(finished):
    assert finished.figures("stock") == finished.figures("test")


def test_a_saved_configuration_is_run_again_on_another_category(finished):
    figures = finished.figures("replay")
    assert figures.keys() == finished.figures("test").keys()
    (results,) = (finished.folder / "ours/replay").rglob("weights.json")
    assert json.loads(results.read_text())["class_name"] == "cable"


def test_a_folder_is_predicted_around_a_truncated_image(finished, data):
    output = " ".join(finished.ok("predict").split())
    assert f"Cannot read image {data / 'pictures/1.png'}" in output
    assert "It is left out" in output
    assert "the prompts will say 'object'" in output
    (rows,) = (finished.folder / "ours/predict").rglob("predictions.csv")
    lines = rows.read_text().splitlines()
    assert len(lines) == 3
    assert all(any(str(data / f"pictures/{index}.png") in line for line in lines[1:]) for index in (0, 2))


def test_an_export_without_checkpoint_knows_its_class(finished):
    import torch

    finished.ok("export")
    (path,) = (finished.folder / "ours/export").rglob("model.pt")
    model = torch.load(path, weights_only=False)["model"]
    assert model.model.text_embeddings.norm(dim=1).tolist() == pytest.approx([1, 1], abs=1e-5)
    assert model.model.class_name == "bottle"


def test_the_benchmark_runs_every_category(finished):
    finished.ok("benchmark")
    (table,) = (finished.folder / "benchmark").rglob("*.csv")
    lines = table.read_text().splitlines()
    assert len(lines) == 3
    assert "image_AUROC" in lines[0]
    assert all(any(name in line for line in lines[1:]) for name in ("bottle", "cable"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("export without class", "The model knows no class yet: give class_name"),
        ("no masks", "ground_truth/spot has 0 masks"),
        ("empty folder", "No images in"),
        ("backbone", "Unknown backbone 'ViT-B-16-plus240'; closest names: .*ViT-B-16-plus-240"),
        ("offline", "Download https://github.com/mlfoundations/open_clip/releases/.*laion400m_e32.*put it at"),
        ("prompts", r"'a photo' without '\{\}'"),
        ("weights with code", r"code\.pt holds pickled Python objects besides tensors"),
        ("checkpoint with code", r"The checkpoint is damaged or holds code \((posix|nt)\.system\).* it is refused"),
        ("size", "Image size 100 x 100 is not a multiple of the patch size"),
    ],
)
def test_bad_input_is_one_clear_error(finished, name, said):
    output = " ".join(finished.output(name).split())
    assert finished.code(name) == 2, output
    assert re.search(f"error: .*{said}", output), output
    assert "Traceback" not in output
    assert "╭" not in output  # the frame of a rich traceback
    assert "Namespace(" not in output  # not jsonargparse's whole configuration


def test_nothing_is_written_elsewhere(finished, home):
    ours = finished.folder / "ours"
    assert {path.name for path in ours.iterdir()} <= {"test", "replay", "predict", "export", "bare", "e", "export2", "offline"}
    assert {path.name for path in (finished.folder / "stock").iterdir()} == {"stock"}
    written = {path.relative_to(home).parts[:2] for path in home.rglob("*") if path.is_file()}
    # Font lists are matplotlib's, which anomalib imports.
    assert {parts for parts in written if "matplotlib" not in parts} == {(".cache", "anoclip_anomalib")}
