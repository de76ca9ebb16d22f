"""What `anoclip predict` prints at its end."""

import csv
from types import SimpleNamespace

import pytest

from anoclip_anomalib.cli import anomalib_cli
from anoclip_anomalib.cli.anomalib_cli import print_predictions

COLUMNS = ("path", "score", "threshold", "label", "threshold_rule", "fault")


def printed(folder, capsys, *rows):
    with (folder / "predictions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    print_predictions(folder / "predictions.csv")
    return " ".join(capsys.readouterr().out.split())


def test_the_most_anomalous_come_first_with_their_verdicts(tmp_path, capsys):
    rows = [("a[b].png", "0.2", "0.5", "0", "fixed at 0.5", ""), ("c.png", "0.9", "0.5", "1", "fixed at 0.5", "")]
    said = printed(tmp_path, capsys, *rows)
    assert said.index("c.png") < said.index("a[b].png")
    assert said.index("defect") < said.index("normal")
    assert "fixed at 0.5" in said
    assert "No verdicts" not in said
    assert "Heatmaps" not in said


def test_without_a_threshold_there_are_ranks_and_what_would_give_verdicts(tmp_path, capsys):
    said = printed(tmp_path, capsys, ("a.png", "0.2", "", "", "none; no normal images", ""), ("b.png", "", "", "", "", "gone"))
    assert "no threshold" in said
    assert "No verdicts" in said
    assert "--good FOLDER" in said
    assert "NOT INSPECTED: 1 of 2 could not be read gone" in said


@pytest.mark.parametrize("first", [True, False])
def test_of_several_processes_one_tells_and_all_have_the_exit_code(monkeypatch, tmp_path, capsys, first):
    written = SimpleNamespace(path=tmp_path / "predictions.csv", faults={"b.png": "gone"})
    written.path.write_text(",".join(COLUMNS) + "\n")
    engine = SimpleNamespace(trainer=SimpleNamespace(is_global_zero=first))
    done = SimpleNamespace(subcommand="predict", exported=None, engine=engine, predictions=written)
    monkeypatch.setattr(anomalib_cli, "AnoclipCLI", lambda args: done)
    assert anomalib_cli.main(["predict"]) == 3
    assert ("All scores" in capsys.readouterr().out) is first


def test_a_package_that_is_missed_in_the_middle_of_an_export_is_one_line(monkeypatch, capsys):
    def missing(args):
        raise ModuleNotFoundError("No module named 'onnxscript'")

    monkeypatch.setattr(anomalib_cli, "AnoclipCLI", missing)
    assert anomalib_cli.main(["export"]) == 2
    said = capsys.readouterr().err
    assert "No module named 'onnxscript'; pip install 'anoclip_anomalib[export]'" in said
    with pytest.raises(ModuleNotFoundError):  # a fault of ours, or of the installation
        anomalib_cli.main(["test"])
