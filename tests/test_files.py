import os
import stat

import pytest

from anoclip_anomalib.files import atomic_write, csv_safe, is_photograph, plain, printable, read_yaml, remove_drafts, set_aside


def test_the_file_appears_whole_and_with_the_usual_permissions(tmp_path):
    path = tmp_path / "new" / "folder" / "row.json"
    with atomic_write(path) as temporary:
        assert temporary.suffix == ".json"
        assert temporary.parent == path.parent
        temporary.write_text("{}")
        assert not path.exists()
    assert path.read_text() == "{}"
    assert os.listdir(path.parent) == ["row.json"]
    (tmp_path / "plain").write_text("")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "row.json"
    path.write_text("old")

    def write() -> None:
        with atomic_write(str(path)) as temporary:
            temporary.write_text("ne")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["row.json"]


def test_a_long_name_is_no_problem(tmp_path):
    path = tmp_path / ("x" * 240 + ".json")
    with atomic_write(path) as temporary:
        temporary.write_text("1")
    assert path.read_text() == "1"


@pytest.mark.parametrize(
    "text", ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "-", "-1_0", "+٣"]
)
def test_formulas_become_text_in_a_csv(text):
    assert csv_safe(text) == f"'{text}"


@pytest.mark.parametrize("value", ["", "plain", "a=b", "-0.5", "+1e-05", "-.5", "1", 3, -0.5, None, True, "'=1", " x"])
def test_other_csv_cells_stay_as_they_are(value):
    assert csv_safe(value) is value


def test_what_is_printable_stays_and_the_rest_is_escaped():
    name = "部品 é\u202fPM [1].png"
    assert printable(name) == name
    assert printable(os.fsdecode(b"a\xff\x80.png")) == r"a\xff\x80.png"
    assert printable("a\n\x1b[31m\u2028\ud800") == r"a\n\x1b[31m\u2028\ud800"


def test_an_earlier_run_is_put_aside_whole_and_nothing_else(tmp_path):
    def run(content: str) -> None:
        set_aside(tmp_path, "rows*.csv", "images", "nothing")
        (tmp_path / "rows.csv").write_text(content)
        (tmp_path / "images").mkdir()
        (tmp_path / "images" / f"{content}.png").touch()

    (tmp_path / "config.yaml").touch()
    for content in ("one", "two", "three"):
        run(content)
    assert sorted(os.listdir(tmp_path)) == ["config.yaml", "earlier-1", "earlier-2", "images", "rows.csv"]
    for folder, content in (("earlier-1", "one"), ("earlier-2", "two"), (".", "three")):
        assert (tmp_path / folder / "rows.csv").read_text() == content
        assert os.listdir(tmp_path / folder / "images") == [f"{content}.png"]
    set_aside(tmp_path / "missing", "*")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such list: .* \\(names\\)"), ("a: [", "is no YAML"), ("- a", "is no list: it must hold a mapping \\(names\\)")],
)
def test_a_yaml_that_cannot_be_used_is_named(tmp_path, content, message):
    path = tmp_path / "list.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        read_yaml(path, "list", "names")


def test_a_yaml_is_read_as_data_only(tmp_path):
    path = tmp_path / "list.yaml"
    path.write_text("a: !!python/object/apply:os.getcwd []")
    with pytest.raises(ValueError, match="is no YAML"):
        read_yaml(path, "list", "names")


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    with atomic_write(tmp_path / "012.tiff") as temporary:
        draft = temporary.name
    kept = (".DS_Store", "012.tiff", "a-12345678.tiff", ".hidden.tiff", ".a-123456789.tiff", ".a-1234567.tiff")
    for name in (draft, *kept):
        (tmp_path / name).touch()
    remove_drafts(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(kept)


def test_photographs_are_known_by_name():
    assert all(map(is_photograph, ("a.jpg", "b.TIFF", "c.HEIC", "d.gif", ".e.png", "f.CR2")))
    assert not any(map(is_photograph, ("._a.jpg", "a.txt", "jpg", "a.mp4", "a.jpg.part")))


def test_what_json_cannot_hold_becomes_null_a_list_or_its_text(tmp_path):
    value = {1: (1, float("nan"), [float("-inf"), True]), "path": tmp_path, "none": None, "nested": {"set": {1}}}
    assert plain(value) == {"1": [1, None, [None, True]], "path": str(tmp_path), "none": None, "nested": {"set": "{1}"}}
