"""What is told of an error."""

import pytest
from jsonargparse import ArgumentError, ArgumentParser

from anoclip_anomalib.checks import closest, did_you_mean, own_words, refuse


class Refusing:
    """Says what is wrong with its argument."""

    def __init__(self, size: int = 1) -> None:
        raise ValueError(f"size={size} is no multiple of 14; 28 would be")


def test_of_jsonargparses_many_lines_the_errors_own_words_are_told():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--one", type=Refusing | None)
    parsed = parser.parse_object({"one": {"class_path": f"{__name__}.Refusing", "init_args": {"size": 15}}})
    with pytest.raises(ValueError, match="Given value") as caught:
        parser.instantiate_classes(parsed)
    assert own_words(caught.value) == "size=15 is no multiple of 14; 28 would be"


def test_what_does_not_fit_a_type_keeps_its_reason_and_loses_the_configuration():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Refusing, "one")
    with pytest.raises(ArgumentError) as caught:
        parser.parse_object({"one": {"class_path": f"{__name__}.Refusing", "init_args": {"size": "wide"}}})
    said = own_words(caught.value)
    assert "Expected a <class 'int'>" in said
    assert "\n" not in said
    assert "class_path'" not in said


def test_other_errors_are_told_as_they_are():
    assert own_words(ValueError("a\n  b")) == "a\n  b"
    assert own_words(KeyError("x")) == "'x'"


def test_the_first_fault_is_told():
    refuse({"a": False})
    with pytest.raises(ValueError, match="^x: b$"):
        refuse({"a": False, "b": True, "c": True}, "x: ")


@pytest.mark.parametrize(
    ("name", "names", "near"),
    [
        ("anoclip", ["AnoClip", "AaClip"], "AnoClip"),
        ("ANOCLIP", ["AnoClip", "AaClip"], "AnoClip"),
        ("x", ["AnoClip"], None),
        ("bottel", ("bottle", "cable"), "bottle"),
        ("a", [], None),
    ],
)
def test_the_nearest_name(name, names, near):
    assert closest(name, names) == near


def test_a_hint_is_the_nearest_name_or_what_else_helps():
    assert did_you_mean("bottel", ["bottle"], "known: bottle") == "; did you mean bottle?"
    assert did_you_mean("x", ["bottle"], "known: bottle") == "; known: bottle"
    assert did_you_mean("x", ["bottle"]) == ""
