"""What ``anoclip inspect`` prints at the end: a small table, or a JSON document."""

import json
from itertools import islice
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from anoclip_anomalib.files import plain, printable
from anoclip_anomalib.inspection.decision import NO_VERDICTS
from anoclip_anomalib.inspection.results import Row, read_rows
from anoclip_anomalib.inspection.run_folder import RunFolder

SHOWN = 10
_VERDICTS = {"defect": "[red]defect[/red]", "good": "[green]good[/green]"}


def print_summary(folder: RunFolder, content: dict[str, Any]) -> None:
    """The most unusual photographs, how many of what there are, where everything is, and how to get verdicts.

    Args:
        folder: Of the run, whose rows are sorted by rank.
        content: Of its ``run.json``.
    """
    counts, decision = content["counts"], content["decision"]
    console = Console()
    wide = console if console.is_terminal else Console(width=10_000)
    top = [row for row in islice(read_rows(folder.results), SHOWN) if row["score"]]
    if top:
        some = f", the {len(top)} most unusual" if counts["inspected"] > len(top) else ""
        rank, score, unusual = (Column(name, justify="right") for name in ("rank", "score", "unusual (z)"))
        verdict = [Column("verdict")] if decision is not None else []
        columns = [rank, Column("photograph", overflow="fold"), score, unusual, *verdict]
        title, box = f"{counts['inspected']} photographs{some}", Table().box if wide is console else None
        table = Table(*columns, title=title, title_justify="left", box=box)
        for row in top:
            said = [_VERDICTS.get(row["verdict"], "")] if decision is not None else []
            table.add_row(row["rank"], escape(row["path"]), f"{float(row['score']):.4g}", row["z"], *said)
        wide.print(table)
    if decision is not None:
        rate = decision["expected_false_alarm_rate"]
        promised = "" if rate is None else f"; of good ones at most {rate:.1%} should be called defects"
        print(f"{counts['defect']} defects, {counts['good']} good: threshold {decision['image_threshold']:.4g}{promised}")
        print(f"Rule: {decision['rule']}")
    else:
        print(f"{NO_VERDICTS} Give photographs of good parts: --good FOLDER")
    if counts["unreadable"]:
        unread = f"[red]NOT INSPECTED: {counts['unreadable']} could not be read[/red]"
        console.print(f"{unread}, see the column fault of the results")
    for what, name in (("Page", "index.html"), ("Results", "results.csv"), ("Pictures", "pictures")):
        if (folder.path / name).exists():
            print(f"{what:<9}{printable(folder.path / name)}")
    print(f"{content['seconds']:.0f} s")


def print_json(folder: RunFolder, content: dict[str, Any]) -> None:
    """One document: what the run was, and its results by rank, in constant memory.

    Args:
        folder: Of the run.
        content: Of its ``run.json``.
    """
    facts = plain({"folder": str(folder.path), "page": str(folder.path / "index.html"), **content})
    print(json.dumps(facts, allow_nan=False).removesuffix("}"), end=', "results": [')
    for index, row in enumerate(read_rows(folder.results)):
        print("," if index else "", json.dumps(_typed(row), allow_nan=False), sep="\n", end="")
    print("\n]}", flush=True)


def _typed(row: Row) -> dict[str, Any]:
    """A row with numbers as numbers; what is empty becomes ``None``."""
    typed: dict[str, Any] = {key: value or None for key, value in row.items()}
    for key, kind in (("score", float), ("rank", int), ("z", float), ("threshold", float)):
        typed[key] = kind(row[key]) if row[key] else None
    typed["regions"] = json.loads(row["regions"] or "[]")
    return typed
