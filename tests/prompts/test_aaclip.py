import pytest

from anoclip_anomalib.prompts.aaclip import DESCRIPTIONS, described, is_described, sentences


def test_sentences_written_out():
    normal, abnormal = sentences("dark bottle")
    assert normal == [
        "dark bottle.",
        "a photo of dark bottle.",
        "a dark bottle.",
        "a photo of a dark bottle.",
        "the dark bottle.",
        "a photo of the dark bottle.",
    ]
    assert len(abnormal) == 10
    assert abnormal[:2] == ["a damaged dark bottle.", "a photo of a damaged dark bottle."]
    assert abnormal[-1] == "a photo of a dark bottle with damage."


def test_the_authors_own_full_stop_stays():
    (text,) = described("01")
    assert len(text.split()) == 23
    assert sentences(text)[0][0].endswith("radiating outward..")


def test_braces_in_a_description_are_text():
    assert sentences("{0} box")[0][0] == "{0} box."


def test_the_authors_descriptions_serve_unless_there_are_own_ones():
    assert described("bottle") == ["dark bottle"]
    assert described("bottle", {"bottle": ["green bottle", "flask"]}) == ["green bottle", "flask"]
    assert described("bottle", {"cable": "x"}) == ["dark bottle"]
    assert DESCRIPTIONS["pcb2"] == "integrated circuits board"


def test_a_class_that_nobody_described_uses_its_name_and_says_so(caplog):
    with caplog.at_level("INFO"):
        assert described("gear_box") == ["gear box"]
    assert "'gear_box'" in caplog.text
    caplog.clear()
    described("bottle")
    described("gear_box", {"gear_box": "a box of gears"})
    assert not caplog.text
    assert not is_described("gear_box")
    assert is_described("gear_box", {"gear_box": "x"})


@pytest.mark.parametrize(
    ("name", "own"), [("", None), ("  ", None), ("x", {"x": ""}), ("x", {"x": []}), ("x", {"x": ["a", " "]}), ("x", {"x": [3]})]
)
def test_empty_names_and_descriptions_are_refused(name, own):
    with pytest.raises(ValueError, match="not empty"):
        described(name, own)
