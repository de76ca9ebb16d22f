"""The benchmark's machinery, on the tiny CLIP: its figures are for real machines to measure."""

import json
import time
from functools import partial

import pytest
import torch

from benchmarks import speed


def test_a_ratio_is_the_median_of_pairs_and_a_missed_limit_is_seen():
    slow, fast = partial(time.sleep, 0.02), partial(time.sleep, 0.005)
    row = speed.compare("slow / fast", slow, fast, limit=1.0, pairs=5)
    assert 2 < row.ratio < 5
    assert not row.holds
    assert row.ours > 0.02 > row.theirs > 0.005
    assert speed.compare("fast / slow", fast, slow, limit=1.0, pairs=3).holds


@pytest.mark.parametrize("section", ["encoder", "text", "gpu"])
def test_the_sections_compare_the_same_thing(tiny_clip, section):
    with torch.inference_mode():
        rows = list(speed.SECTIONS[section](speed.Setting(tiny_clip(), quick=True)))
    assert len(rows) == {"encoder": 2, "text": 2, "gpu": int(torch.cuda.is_available())}[section]
    assert all(row.ratio > 0 for row in rows)


def test_the_exit_code_and_the_file_tell_a_missed_limit(monkeypatch, tmp_path, tiny_clip, capsys):
    rows = {"good": speed.Row("good", 1.0, 2.0, 0.5, 1.0, 3), "bad": speed.Row("bad", 3.0, 2.0, 1.5, 1.0, 3)}
    monkeypatch.setattr(speed, "SECTIONS", {name: lambda _, row=row: iter([row]) for name, row in rows.items()})
    monkeypatch.setattr(speed, "load_clip", lambda *_: tiny_clip())
    assert speed.main(["--only", "good"]) == 0
    assert speed.main(["--json", str(tmp_path / "rows.json")]) == 1
    captured = capsys.readouterr()
    assert "missed" in captured.out
    assert "Limit missed: bad" in captured.err
    content = json.loads((tmp_path / "rows.json").read_text())
    assert [row["holds"] for row in content["rows"]] == [True, False]
    assert {"cores", "load", "torch"} <= content["machine"].keys()
    with pytest.raises(SystemExit):
        speed.main(["--only", "fast"])
