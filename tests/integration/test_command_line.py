"""The real command lines on a small data set, in processes without a network, with their files looked at."""

import csv
import json
import os
import pickle
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
    for line in ("line1", "line2"):
        (pictures / line / "good").mkdir(parents=True)
        image(7)[0].save(pictures / line / "good" / "001.png")
    image(8)[0].save(os.fsdecode(os.fsencode(pictures) + b"/\xff.png"))
    (pictures / "link.png").symlink_to("nowhere")
    (pictures / "loop.png").symlink_to("loop.png")
    (root / "empty").mkdir()
    (root / "code.ckpt").write_bytes(pickle.dumps({"state_dict": Path("x")}))
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
    bottle = data / "mvtec/bottle"
    divided = [
        *(
            "anoclip",
            "test",
            "--model",
            "AnoClip",
            *MODEL,
            "--data",
            "Folder",
            "--data.name",
            "bottle",
            "--data.num_workers",
            "0",
        ),
        *("--data.root", str(bottle), "--data.normal_dir", "train/good", "--data.normal_test_dir", "test/good"),
        *("--data.abnormal_dir", "test/spot", *results),
    ]
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
            "one more": [
                *("anoclip", "predict", "--model", "AnoClip", *MODEL),
                *("--data", str(data / "pictures/line1"), *results, "predict"),
            ],
            "halves": [*divided, "halves"],
            "halves again": [*divided, "halves2"],
            "code": [
                *("anoclip", "predict", "--model", "AnoClip", *MODEL, "--data", str(data / "pictures/line1"), *results, "code"),
                *("--ckpt_path", str(data / "code.ckpt")),
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
            "size": ["anoclip", "test", "--model", "AnoClip", *MODEL, "--model.image_size", "100", *mvtec, "bottle"],
        },
        "stock": {
            "stock": ["anomalib", "test", "--model", "anoclip_anomalib.AnoClip", *MODEL, *mvtec, "bottle", *results, "stock"],
            **{
                command: [
                    *(
                        "anoclip",
                        command,
                        "--model",
                        "AnoClip",
                        "--model.backbone",
                        "demo",
                        *mvtec,
                        "bottle",
                        *results,
                        command,
                    ),
                    *("--trainer.callbacks", "TestTimeAdaptation", "--trainer.callbacks+"),
                    *("anoclip_anomalib.evaluation.RawEvaluation", "--trainer.callbacks.prefix", "callback_"),
                ]
                for command in ("train", "validate", "fit")
            },
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


@pytest.mark.parametrize("command", ["train", "validate", "fit"])
def test_the_other_commands_run_with_callbacks_and_record_the_bundled_weights_as_such(finished, command):
    figures = finished.figures(command)
    assert (
        ("raw_AUPRO" in figures) == ("callback_AUPRO" in figures) == (command == "train")
    )  # which tests, since nothing is to be learned
    (config,) = (finished.folder / "stock" / command).rglob("config.yaml")
    content = yaml.safe_load(config.read_text())
    assert (content["model"]["init_args"]["backbone"], content["model"]["init_args"]["pretrained"]) == ("demo", None)
    names = [callback["class_path"].rpartition(".")[2] for callback in content["trainer"]["callbacks"]]
    assert names == ["TestTimeAdaptation", "RawEvaluation"]


def test_a_saved_configuration_is_run_again_on_another_category(finished):
    figures = finished.figures("replay")
    assert figures.keys() == finished.figures("test").keys()
    (results,) = (finished.folder / "ours/replay").rglob("weights.json")
    assert json.loads(results.read_text())["class_name"] == "cable"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_file_of_a_folder_is_a_row_with_its_score_or_its_fault(finished, data):
    output = " ".join(finished.output("predict").split())
    assert finished.code("predict") == 3
    assert "NOT INSPECTED: 3 of 8 could not be read" in output
    assert "the prompts will say 'object'" in output
    (path,) = (finished.folder / "ours/predict").glob("AnoClip/latest/earlier-1/predictions.csv")
    found = {row["path"].removeprefix(f"{data}/pictures/"): row for row in rows(path)}
    assert found.keys() == {
        *("0.png", "2.png", r"\xff.png", "line1/good/001.png", "line2/good/001.png"),
        *("1.png", "link.png", "loop.png"),
    }
    for name in ("1.png", "link.png", "loop.png"):
        assert found[name]["score"] == found[name]["label"] == ""
        assert f"Cannot read image {data / 'pictures' / name}" in found[name]["fault"]
        assert found[name]["fault"] in output
    assert all(float(row["score"]) and row["label"] for row in found.values() if not row["fault"])


def test_pictures_keep_their_subfolders_and_those_of_another_run_are_put_aside(finished):
    results = finished.folder / "ours/predict/AnoClip/latest"
    finished.ok("one more")

    def pictures(folder: Path) -> set[str]:
        return {path.relative_to(folder / "images").as_posix() for path in (folder / "images").rglob("*.png")}

    assert pictures(results / "earlier-1") == {
        *("pictures/0.png", "pictures/2.png", "pictures/_xff.png"),
        *("pictures/line1/good/001.png", "pictures/line2/good/001.png"),
    }
    assert pictures(results) == {"line1/good/001.png"}
    assert len(rows(results / "predictions.csv")) == 1


def test_the_same_folder_is_divided_in_the_same_way_and_what_is_left_out_is_named(finished, data):
    assert str(finished.figures("halves")) == str(finished.figures("halves again"))  # as text: without masks some are NaN
    output = " ".join(finished.output("halves").split())
    (path,) = (finished.folder / "ours/halves").rglob("left_out.csv")
    left_out = rows(path)
    (path,) = (finished.folder / "ours/halves").rglob("predictions.csv")
    tested = rows(path)
    assert {row["path"] for row in (*left_out, *tested)} == {str(path) for path in (data / "mvtec/bottle/test").rglob("*.png")}
    reasons = {row["reason"] for row in left_out}
    assert reasons == {"held back for validation: val_split_mode=from_test, val_split_ratio=0.5, seed 0"}
    assert f"{len(left_out)} test image(s) {reasons.pop()}" in output
    assert len({*(row["path"] for row in tested)}) == len(tested) == 4


def test_an_export_without_checkpoint_knows_its_class(finished):
    import torch

    finished.ok("export")
    (path,) = (finished.folder / "ours/export").rglob("model.pt")
    assert f"Exported: {path.relative_to(finished.folder / 'ours')}\n" in finished.output("export")
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
        ("code", r"The checkpoint \S+code.ckpt is damaged or holds (code|something else)"),
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
    expected = {"test", "replay", "predict", "export", "bare", "e", "export2", "offline", "halves", "halves2", "code"}
    assert {path.name for path in ours.iterdir()} <= expected
    assert {path.name for path in (finished.folder / "stock").iterdir()} == {"stock", "train", "validate", "fit"}
    written = {path.relative_to(home).parts[:2] for path in home.rglob("*") if path.is_file()}
    # Font lists are matplotlib's, which anomalib imports.
    assert {parts for parts in written if "matplotlib" not in parts} == {(".cache", "anoclip_anomalib")}
