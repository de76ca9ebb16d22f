"""What the ``anoclip submit`` commands share: thresholds in one word, errors in one line."""

import argparse
import logging
import sys
from collections.abc import Callable
from typing import Any

from anoclip_anomalib.cli.parser import Parser
from anoclip_anomalib.running.quiet import quiet
from anoclip_anomalib.running.signals import run_command
from anoclip_anomalib.submission.faults import Report

MODEL_OPTIONS = """
Model, data and trainer are given with anomalib's own options, in a file or on the command line:
  --config FILE  --model NAME  --model.ARGUMENT VALUE  --data.root FOLDER  --data.eval_batch_size N  --data.num_workers N
  --trainer.accelerator gpu  --trainer.callbacks ...  --ckpt_path FILE  --seed_everything N
Any anomalib model can be given, by short name or class path.
"""


def parser(name: str, description: str, *, with_model: bool = True) -> argparse.ArgumentParser:
    """A parser of one command's own options; no abbreviations, since model options are parsed elsewhere."""
    return Parser(
        prog=f"anoclip submit {name}",
        description=description,
        epilog=MODEL_OPTIONS if with_model else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def threshold_rule(text: str) -> Any:
    """``mean_std:3``, ``quantile:0.995``, ``fixed:0.5`` or ``natural`` as a ``ThresholdRule``.

    Raises:
        ValueError: For anything else.
    """
    from anoclip_anomalib.evaluation.thresholds import ThresholdRule

    kind, _, number = text.partition(":")
    names = {"mean_std": "k", "quantile": "q", "fixed": "value"}
    if kind not in {*names, "natural"}:
        raise ValueError(f"--threshold {text} is none of mean_std:K, quantile:Q, fixed:VALUE, natural")
    try:
        return ThresholdRule(kind, **({names[kind]: float(number)} if number and kind in names else {}))
    except ValueError as error:
        raise ValueError(f"--threshold {text}: {error}") from error


def print_report(report: Report) -> int:
    """Print a validator's report; the exit code is 0 for a valid submission, else 1."""
    for line in report.lines():
        print(line)
    return 0 if report.ok else 1


def run(command: str, action: Callable[[], int]) -> int:
    """Run a command; an error of the input is told in one line and gives exit code 2, an interruption 130."""
    return run_command(f"anoclip submit {command}", lambda: _run(command, action))


def _run(command: str, action: Callable[[], int]) -> int:
    try:
        with quiet():
            return action()
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        logging.getLogger(__name__).debug("The error in full", exc_info=True)
        print(f"anoclip submit {command}: error: {error}", file=sys.stderr)
        return 2
