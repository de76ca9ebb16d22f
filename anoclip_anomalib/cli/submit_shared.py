"""What the ``anoclip submit`` commands share: progress on the terminal, thresholds in one word, errors in one line."""

import argparse
import logging
import sys
import warnings
from collections.abc import Callable
from typing import Any

from anoclip_anomalib.submission.faults import Report

MODEL_OPTIONS = """
Model, data and trainer are given with anomalib's own options, in a file or on the command line:
  --config FILE  --model NAME  --model.ARGUMENT VALUE  --data.root FOLDER  --data.eval_batch_size N  --data.num_workers N
  --trainer.accelerator gpu  --trainer.callbacks ...  --ckpt_path FILE  --seed_everything N
Any anomalib model can be given, by short name or class path.
"""


def parser(name: str, description: str, *, with_model: bool = True) -> argparse.ArgumentParser:
    """A parser of one command's own options; no abbreviations, since model options are parsed elsewhere."""
    return argparse.ArgumentParser(
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


class TerminalProgress:
    """A bar with an estimate of the time left, on stderr; plain lines where stderr is no terminal."""

    def __init__(self) -> None:
        self.bar: Any = None

    def start(self, text: str, total: int) -> None:
        """Begin a step of so many images or files."""
        from tqdm import tqdm

        self.close()
        if not sys.stderr.isatty():
            print(f"{text}: {total}", file=sys.stderr, flush=True)
        self.bar = tqdm(total=total, desc=text, unit="file", leave=False, disable=not sys.stderr.isatty())

    def advance(self, files: int) -> None:
        """So many more are done."""
        if self.bar is not None:
            self.bar.update(files)

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def say(self, text: str) -> None:
        """A line on stdout, without tearing the bar."""
        self.close()
        print(text, flush=True)


def print_report(report: Report) -> int:
    """Print a validator's report; the exit code is 0 for a valid submission, else 1."""
    for line in report.lines():
        print(line)
    return 0 if report.ok else 1


def quiet_libraries() -> None:
    """Leave the terminal to the progress display: one engine is started for each object."""
    for name in ("lightning", "lightning.pytorch", "lightning_fabric", "pytorch_lightning", "anomalib"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(lightning|torch|timm|anomalib)(\.|$)")


def run(command: str, action: Callable[[], int]) -> int:
    """Run a command; an error of the input is told in one line and gives exit code 2, an interruption 130."""
    try:
        return action()
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        logging.getLogger(__name__).debug("The error in full", exc_info=True)
        print(f"anoclip submit {command}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"anoclip submit {command}: interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 130
