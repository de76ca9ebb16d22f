"""What a validator reports: every fault with the path it was found at."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

MAX_FAULTS = 1000
"""Faults of one rule that are listed; more of them are counted."""

MAX_SHOWN = 400
"""Characters of a path or message that are shown: both may come from a hostile file."""


@dataclass(frozen=True)
class Fault:
    """One broken rule.

    Attributes:
        rule: Short name of the rule, such as ``wrong-dtype``.
        path: The file, folder or archive member concerned.
        message: What is wrong and what the format asks for.
        is_error: False for what the leaderboard merely warns about.
    """

    rule: str
    path: str
    message: str
    is_error: bool = True

    def __str__(self) -> str:
        return f"{'error' if self.is_error else 'warning'}: {_shown(self.path)}: {_shown(self.message)} [{self.rule}]"


@dataclass
class Report:
    """Everything that one validation found.

    Attributes:
        path: What was validated.
        files: Number of files that were looked at.
        faults: In the order in which they were found, at most ``MAX_FAULTS`` of a rule.
        found: How many there are of each rule, listed or not, by (rule, whether it is an error).
    """

    path: str
    files: int = 0
    faults: list[Fault] = field(default_factory=list)
    found: Counter[tuple[str, bool]] = field(default_factory=Counter)

    @property
    def ok(self) -> bool:
        """Whether the submission can be uploaded."""
        return not any(is_error for _, is_error in self.found)

    def add(self, rule: str, path: str, message: str, *, is_error: bool = True) -> None:
        """Note one fault."""
        self.found[rule, is_error] += 1
        if self.found[rule, is_error] <= MAX_FAULTS:
            self.faults.append(Fault(rule, path, message, is_error))

    def lines(self) -> Iterable[str]:
        """The report as text: one line for each fault, then a summary."""
        yield from map(str, self.faults)
        for (rule, _), number in self.found.items():
            if number > MAX_FAULTS:
                yield f"... and {number - MAX_FAULTS} more [{rule}]"
        errors = sum(number for (_, is_error), number in self.found.items() if is_error)
        warnings = self.found.total() - errors
        verdict = "valid" if self.ok else f"NOT valid, {errors} error(s)"
        yield f"{_shown(self.path)}: {verdict}{f', {warnings} warning(s)' if warnings else ''}; {self.files} files checked"


def _shown(text: str) -> str:
    """Text on one line, with characters that a terminal would obey or refuse written as escapes."""
    text = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
