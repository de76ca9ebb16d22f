import subprocess
import sys

import pytest

from anoclip_anomalib.cli import main as cli
from anoclip_anomalib.cli.anomalib_help import help_text
from anoclip_anomalib.cli.main import ANOMALIB_COMMANDS, main


@pytest.mark.parametrize("command", sorted(ANOMALIB_COMMANDS))
def test_every_command_has_help_of_its_own_without_torch(command):
    code = (
        f"import sys; from anoclip_anomalib.cli.main import main; main(['{command}', '--help']); print('torch' in sys.modules)"
    )
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[0].startswith(f"usage: anoclip {command} ")
    assert lines[-1] == "False"
    assert ANOMALIB_COMMANDS[command] in lines
    assert any("--help-all" in line for line in lines)


@pytest.mark.parametrize("command", ["test", "predict", "train", "fit", "validate", "export"])
def test_help_names_what_the_model_takes_with_type_and_default(command):
    text = " ".join(help_text(command, "", []).split())
    assert "--model.class_name str | None The product. None takes the datamodule's category" in text
    assert "--model.tiling {none,square}" in text
    assert "(default: 'ViT-B-16-plus-240')" in text
    assert "AaClip, AnoClip, CentreDistance" in text
    assert ("--ckpt_path FILE" in text) == (command != "benchmark")
    assert ("--export_type" in text) == (command == "export")


def test_help_is_about_the_chosen_model_and_data():
    text = " ".join(help_text("test", "", ["--model", "Padim", "--data=Folder"]).split())
    assert "Options of Padim" in text
    assert "--model.n_features int | None" in text
    assert "--data.normal_dir" in text
    assert "required" in text
    assert "--model.class_name" not in text
    assert "--data.category" not in text


def test_a_folder_is_what_predict_is_for():
    text = help_text("predict", "", [])
    assert text.startswith("usage: anoclip predict --model NAME --data FOLDER")
    assert "Exit code: 0 done, 2 bad input, 3 some files could not be read" in " ".join(text.split())


def test_lines_fit_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    long = [line for line in help_text("test", "", []).splitlines() if len(line) > 70]
    assert not [line for line in long if len(line.split()) > 2]


def test_all_of_anomalibs_help_is_still_to_be_had(monkeypatch):
    asked = []
    monkeypatch.setattr(cli, "import_module", lambda name: type("Module", (), {"main": lambda argv: asked.append(argv) or 0}))
    assert main(["test", "--model", "AnoClip", "--help-all"]) == 0
    assert asked == [["test", "--model", "AnoClip", "--help"]]
