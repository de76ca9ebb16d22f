"""What a validator reports: every fault with the path it was found at."""

from collections.abc import Iterable
from dataclasses import dataclass, field


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
        return f"{'error' if self.is_error else 'warning'}: {self.path}: {self.message} [{self.rule}]"


@dataclass
class Report:
    """Everything that one validation found.

    Attributes:
        path: What was validated.
        files: Number of files that were looked at.
        faults: In the order in which they were found.
    """

    path: str
    files: int = 0
    faults: list[Fault] = field(default_factory=list)

    @property
    def errors(self) -> list[Fault]:
        """The faults that make the submission invalid."""
        return [fault for fault in self.faults if fault.is_error]

    @property
    def ok(self) -> bool:
        """Whether the submission can be uploaded."""
        return not self.errors

    def add(self, rule: str, path: str, message: str, *, is_error: bool = True) -> None:
        """Note one fault."""
        self.faults.append(Fault(rule, path, message, is_error))

    def lines(self) -> Iterable[str]:
        """The report as text: one line for each fault, then a summary."""
        yield from map(str, self.faults)
        warnings = len(self.faults) - len(self.errors)
        verdict = "valid" if self.ok else f"NOT valid, {len(self.errors)} error(s)"
        yield f"{self.path}: {verdict}{f', {warnings} warning(s)' if warnings else ''}; {self.files} files checked"
