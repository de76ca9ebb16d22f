"""One style of docstrings: what ruff's rules leave open."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "anoclip_anomalib"
SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields):\n((?: {4}.*(?:\n|$)|\n)+)", re.MULTILINE)
ENTRY = re.compile(r"^ {4}\**\w[^:]*?: +(\S+)", re.MULTILINE)
# A word such as open_clip's, capture_id or a letter of the mathematics, and names that are never written with a capital.
CODE_NAME = re.compile(r"\w*_\w*('s)?|\w\W?|timm('s)?")


def files() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def docstrings() -> Iterator[tuple[str, str]]:
    """Place and text; those below assignments included."""
    for name, tree in files():
        for node in ast.walk(tree):
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
