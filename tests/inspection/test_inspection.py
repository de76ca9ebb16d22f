import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anoclip_anomalib.evaluation.resolution import resize_map
from anoclip_anomalib.inspection import inspection as module
from anoclip_anomalib.inspection.decision import Decision
from anoclip_anomalib.inspection.inspection import Inspection


def result(path: Path | None = None, score: float = 3.0) -> Inspection:
    anomaly_map = np.zeros((10, 20), np.float32)
    anomaly_map[2:5, 3:9] = 7
    return Inspection(
        path, score, anomaly_map, decision=Decision(2.0, 5.0, "rule"), photograph=np.zeros((50, 100, 3), np.uint8)
    )


def test_the_heatmap_is_the_map_at_the_photographs_size():
    assert np.array_equal(result().heatmap, resize_map(result().anomaly_map, (50, 100)))


def test_regions_are_those_of_the_heatmap_above_the_threshold():
    one = result()
    assert one.pixel_threshold == 5.0
    assert [region.area for region in one.regions] == [int((one.heatmap > 5.0).sum())]
    assert result(score=1.0).regions == ()
    assert result(score=1.0).pixel_threshold is None


def test_as_json():
    said = json.loads(json.dumps(result(Path("a/b.png")).as_dict(), allow_nan=False))
    assert said["path"] == "a/b.png"
    assert (said["score"], said["threshold"], said["is_defect"], said["fault"]) == (3.0, 2.0, True, None)
    assert said["regions"][0]["peak"] == 7.0
    fault = Inspection(Path("c.png"), float("nan"), None, fault="broken", decision=Decision(2.0, 5.0, "rule"))
    said = json.loads(json.dumps(fault.as_dict(), allow_nan=False))
    assert (said["score"], said["is_defect"], said["fault"], said["regions"]) == (None, None, "broken", [])


def test_what_has_a_fault_has_nothing_else():
    fault = Inspection(Path("c.png"), float("nan"), None, fault="broken file")
    with pytest.raises(ValueError, match="broken file"):
        _ = fault.heatmap
    with pytest.raises(OSError, match="broken file"):
        _ = fault.photograph
    assert "broken file" in repr(fault)
    assert "defect" in repr(result())


def test_pictures_are_saved_with_their_data_under_names_of_their_own(tmp_path):
    given = [Path("line1/001.jpg"), Path("line2/001.jpg"), Path("line2/001.png"), Path("line1/001.jpg"), None, None]
    paths = [result(path).save(tmp_path) for path in given]
    assert len(set(paths)) == 6
    assert paths[:2] == [tmp_path / "line1/001.png", tmp_path / "line2/001.png"]
    assert paths[3] == tmp_path / "line1/001-2.png"
    for path in paths:
        assert Image.open(path).width > 200
        assert json.loads(path.with_suffix(".json").read_text())["score"] == 3.0


@pytest.mark.parametrize(
    "name", ["../../x.png", "/etc/passwd.png", "..", 'a/"<script>.png', "a/=cmd.png", "a/x\ny.png", "-rf.png"]
)
def test_no_name_leaves_the_folder(tmp_path, name):
    path = result(Path(name)).save(tmp_path / "out")
    assert (tmp_path / "out").resolve() in path.resolve().parents
    assert sum(one.is_file() for one in tmp_path.rglob("*")) == 2
    assert path.is_file()


def test_a_save_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*args: object, **kwargs: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space"):
        result(Path("a.png")).save(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_name_that_another_process_takes_first_is_not_overwritten(tmp_path, monkeypatch):
    taken = tmp_path / "images/a.png"
    taken.parent.mkdir()
    taken.write_bytes(b"theirs")
    assert result(Path("a.png")).save(tmp_path) == tmp_path / "images/a-2.png"
    assert taken.read_bytes() == b"theirs"
    assert module._free_name(tmp_path, Path("a.png")) == tmp_path / "images/a-3.png"
