"""One style of docstrings and of errors: what ruff's rules leave open."""

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "anoclip_anomalib"
SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields):\n((?: {4}.*(?:\n|$)|\n)+)", re.MULTILINE)
ENTRY = re.compile(r"^ {4}\**\w[^:]*?: +(\S+)", re.MULTILINE)
# A word such as open_clip's, capture_id or a letter of the mathematics, and names that are never written with a capital.
CODE_NAME = re.compile(r"\w*_\w*('s)?|\w\W?|timm('s)?")


@cache
def files() -> tuple[tuple[str, list[ast.AST]], ...]:
    """Every file of the package and what is in it."""
    return tuple(
        (path.relative_to(PACKAGE).as_posix(), [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))])
        for path in sorted(PACKAGE.rglob("*.py"))
    )


def docstrings() -> Iterator[tuple[str, str]]:
    """Place and text; those below assignments included."""
    for name, nodes in files():
        for node in nodes:
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
                yield f"{name}:{node.lineno}", inspect.cleandoc(node.value.value)


def first_words(text: str) -> Iterator[str]:
    """Of every entry of a docstring's sections; what is returned has no name."""
    for title, section in SECTION.findall(text):
        yield from ENTRY.findall(section) if title in ("Args", "Attributes", "Raises") else section.split(maxsplit=1)[:1]


def test_entries_of_docstrings_begin_with_a_capital_or_a_code_name():
    words = [(place, word) for place, text in docstrings() for word in first_words(text)]
    assert len(words) > 1000
    assert not [(place, word) for place, word in words if word[0].islower() and not CODE_NAME.fullmatch(word)]


def test_code_in_docstrings_stands_in_double_backticks():
    """A Sphinx role such as :class:`Name` has single ones."""
    single = re.compile(r"``[^`]+``|:[\w:]+:`[^`]+`|(`)")
    assert not [place for place, text in docstrings() if any(single.findall(text))]


# What these say is half a sentence of its own: it goes on after an option, a line of a file, a file's or a metric's name.
CONTINUED = {"InputError", "ArgumentTypeError", "UnknownClassError", "UndefinedMetricError"}
CONTINUED |= {"_WrongFileError", "_EndOfCheckError", "ReadError", "AttributeError"}  # the last: Python's own words
# A name or value as the user wrote it: depths=..., --good, hf-hub:, forward(), capture_id, or names of packages.
NAME = re.compile(r"\S*[=({:\[]\S*|\w*_\w*|timm")


def raised() -> Iterator[tuple[str, str]]:
    """Place and message of every error whose message is written where it is raised; {} stands for what is filled in."""
    for name, nodes in files():
        for node in nodes:
            if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args):
                continue
            message = node.exc.args[0]
            parts = message.values if isinstance(message, ast.JoinedStr) else [message]
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in parts)
            if ast.unparse(node.exc.func).split(".")[-1] not in CONTINUED:
                yield f"{name}:{node.lineno}", text


def test_errors_begin_with_a_capital_or_a_name_and_end_without_a_full_stop():
    messages = list(raised())
    assert len(messages) > 200
    assert not [(place, text) for place, text in messages if text[:1].islower() and not NAME.fullmatch(text.split()[0])]
    assert not [(place, text) for place, text in messages if re.search(r"[^.]\.$", text)]


def test_the_nearest_name_is_hinted_in_the_same_words():
    """; did you mean X?"""
    texts = [(name, node.value) for name, nodes in files() for node in nodes if isinstance(node, ast.Constant)]
    assert not [(name, text) for name, text in texts if isinstance(text, str) and re.search(r"\bmeant\b.*\?$", text)]
