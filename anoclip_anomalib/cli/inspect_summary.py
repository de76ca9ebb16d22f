"""What ``anoclip inspect`` prints at the end: a small table, or a JSON document."""

import json
import sys
from itertools import islice
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from anoclip_anomalib.files import plain, printable
from anoclip_anomalib.inspection.results import Row, read_rows
from anoclip_anomalib.inspection.run_folder import RunFolder

SHOWN = 10
_VERDICTS = {"defect": "[red]defect[/red]", "good": "[green]good[/green]"}


def print_summary(folder: RunFolder, content: dict[str, Any]) -> None:
    """The most unusual photographs, how many of what there are, where everything is, and how to get verdicts.

    Args:
        folder: Of the run, whose rows are sorted by rank.
        content: Of its `run.json`.
    """
    counts, decision = content["counts"], content["decision"]
    console = Console()
    wide = console if console.is_terminal else Console(width=10_000)
    top = [row for row in islice(read_rows(folder.results), SHOWN) if row["score"]]
    if top:
        title = f"{counts['inspected']} photographs" + (
            f", the {len(top)} most unusual" if counts["inspected"] > len(top) else ""
        )
        table = Table(title=title, title_justify="left", box=None if wide is not console else Table().box)
        table.add_column("rank", justify="right")
        table.add_column("photograph", overflow="fold")
        table.add_column("score", justify="right")
        table.add_column("unusual (z)", justify="right")
        if decision is not None:
            table.add_column("verdict")
        for row in top:
            said = [_VERDICTS.get(row["verdict"], "")] if decision is not None else []
            table.add_row(row["rank"], escape(row["path"]), f"{float(row['score']):.4g}", row["z"], *said)
        wide.print(table)
    if decision is not None:
        rate = decision["expected_false_alarm_rate"]
        promised = "" if rate is None else f"; of good ones at most {rate:.1%} should be called defects"
        _say(f"{counts['defect']} defects, {counts['good']} good: threshold {decision['image_threshold']:.4g}{promised}")
        _say(f"Rule: {decision['rule']}")
    else:
        _say("No verdicts: nothing tells how high good ones score. Give photographs of good parts: --good FOLDER")
    if counts["unreadable"]:
        console.print(
            f"[red]NOT INSPECTED: {counts['unreadable']} could not be read[/red], see the column fault of the results"
        )
    for what, name in (("Page", "index.html"), ("Results", "results.csv"), ("Pictures", "pictures")):
        if (folder.path / name).exists():
            _say(f"{what:<9}{printable(folder.path / name)}")
    _say(f"{content['seconds']:.0f} s")


def print_json(folder: RunFolder, content: dict[str, Any]) -> None:
    """One document: what the run was, and its results by rank, in constant memory.

    Args:
        folder: Of the run.
        content: Of its `run.json`.
    """
    facts = plain({"folder": str(folder.path), "page": str(folder.path / "index.html"), **content})
    out = sys.stdout
    out.write(json.dumps(facts, allow_nan=False).removesuffix("}"))
    out.write(', "results": [')
    for index, row in enumerate(read_rows(folder.results)):
        out.write((",\n" if index else "\n") + json.dumps(_typed(row), allow_nan=False))
    out.write("\n]}\n")
    out.flush()


def _typed(row: Row) -> dict[str, Any]:
    """A row with numbers as numbers; what is empty becomes ``None``."""
    typed: dict[str, Any] = {key: value or None for key, value in row.items()}
    for key, kind in (("score", float), ("rank", int), ("z", float), ("threshold", float)):
        typed[key] = kind(row[key]) if row[key] else None
    typed["regions"] = json.loads(row["regions"] or "[]")
    return typed


def _say(text: str) -> None:
    print(text)
