import pytest

from anoclip_anomalib.cli.parser import Parser


@pytest.fixture
def parser() -> Parser:
    parser = Parser(prog="x", allow_abbrev=False)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--mode", choices=["clean", "reference"])
    return parser


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--imagesize", "3"], "unrecognized arguments: --imagesize 3; did you mean --image-size?"),
        (["--image_size=3", "--mod=clean"], "did you mean --image-size, --mode?"),
        (["--mode", "claen"], "did you mean clean?"),
        (["--zzzzzzzz"], "unrecognized arguments: --zzzzzzzz\n"),
        (["--image-size", "x"], "invalid int value: 'x'\n"),
    ],
)
def test_errors_name_what_is_near(parser, capsys, words, said):
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(words)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_what_is_left_for_another_parser_looks_like_nothing_of_ours(parser, capsys):
    found, left = parser.parse_known_args(["--image-size", "3", "--model", "AnoClip", "--model.mode", "x"])
    assert (found.image_size, left) == (3, ["--model", "AnoClip", "--model.mode", "x"])
    with pytest.raises(SystemExit):
        parser.parse_known_args(["--image-sise", "3"])
    assert "did you mean --image-size?" in capsys.readouterr().err
