"""argparse with the nearest name in its errors."""

import argparse
import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from anoclip_anomalib.cli.early_checks import own_options


def refused(what: object) -> int:
    """Say in a line what cannot be used, or why; returns the exit code for it."""
    print(what, file=sys.stderr)
    return 2


def memory_advice(error: BaseException) -> str:
    """What helps where memory has run out, of the machine or of its GPU; empty for another error."""
    full = isinstance(error, MemoryError) or re.search(r"out of memory|not enough memory|n't allocate memory", str(error))
    return "; smaller batches or smaller images take less" if full else ""


class Parser(argparse.ArgumentParser):
    """Says which option, choice or command may be meant by one that there is not."""

    def error(self, message: str) -> NoReturn:
        """End with exit code 2, as argparse does."""
        choice = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        unknown = re.search(r"unrecognized arguments: (.*)", message)
        words, names = [], list(self._option_string_actions)
        if choice:
            words, names = [choice[1]], [name.strip("' ") for name in choice[2].split(",")]
        elif unknown:
            words = [word.partition("=")[0] for word in unknown[1].split() if word.startswith("-")]
        near = [found[0] for word in words if (found := get_close_matches(word, names, n=1))]
        super().error(f"{message}; did you mean {', '.join(near)}?" if near else message)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse."""
        found, left = super().parse_known_args(args, namespace)
        if left:
            self.error(f"unrecognized arguments: {' '.join(left)}")
        return found

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse; an option left for anomalib's parser that is none of its own and looks like one of ours is an error."""
        found, left = super().parse_known_args(args, namespace)
        for word in left:
            name = word.partition("=")[0]
            ours = get_close_matches(name, self._option_string_actions, n=1, cutoff=0.8)
            if ours and name.startswith("--") and name[2:].partition(".")[0] not in own_options("fit"):
                self.error(f"unrecognized arguments: {name}")
        return found, left
