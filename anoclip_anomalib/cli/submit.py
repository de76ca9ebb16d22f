"""``anoclip submit``: write, check and pack leaderboard submissions; and what its commands share."""

import argparse
import logging
import sys
from importlib import import_module
from typing import Any

from anoclip_anomalib.checks import did_you_mean, own_words
from anoclip_anomalib.cli.parser import Parser, refused
from anoclip_anomalib.running.quiet import quiet
from anoclip_anomalib.running.signals import run_command
from anoclip_anomalib.submission.faults import Report

HELP = "Write, check and pack a leaderboard submission."

FORMATS = {
    "mvtec-ad2": "MVTec AD 2 (benchmark.mvtec.com, VAND 3 and 4): predict, write, validate, pack.",
    "kaputt2": "Kaputt 2 (Codabench, VAND 4): zip with image scores.",
    "model-card": "Hugging Face model card: results from a comparison as YAML.",
    "vand-fewshot": "VAND 3 few-shot kit: a model.py that the kit imports.",
}

MODEL_OPTIONS = """
Model, data and trainer are given with anomalib's own options, in a file or on the command line:
  --config FILE  --model NAME  --model.ARGUMENT VALUE  --data.root FOLDER  --data.eval_batch_size N  --data.num_workers N
  --trainer.accelerator gpu  --trainer.callbacks ...  --ckpt_path FILE  --seed_everything N
Any anomalib model can be given, by short name or class path.
"""


def main(argv: list[str]) -> int:
    """Run ``anoclip submit FORMAT ...``.

    Args:
        argv: The words after ``anoclip submit``.

    Returns:
        0 when all went well, 1 when a submission is not valid, 2 for input that cannot be used, told in one line, 130 or 143
        after an interruption.
    """
    if not argv or argv[0] in ("-h", "--help"):
        formats = (f"  {name:<13} {text}" for name, text in FORMATS.items())
        print(HELP, "", "usage: anoclip submit FORMAT [options]        anoclip submit FORMAT --help", "", *formats, sep="\n")
        return 0
    if argv[0] not in FORMATS:
        near = did_you_mean(argv[0], FORMATS)
        return refused(f"anoclip submit: error: unknown format '{argv[0]}'; known: {', '.join(FORMATS)}{near}")
    module = import_module(f"anoclip_anomalib.cli.submit_{argv[0].replace('-', '_')}")

    def run() -> int:
        try:
            with quiet():
                return module.main(argv[1:])
        except (ValueError, OSError, ImportError, RuntimeError) as error:
            logging.getLogger(__name__).debug("The error in full", exc_info=True)
            return refused(f"anoclip submit {argv[0]}: error: {own_words(error)}")

    return run_command(f"anoclip submit {argv[0]}", run)


def parser(name: str, description: str, *, with_model: bool = True) -> argparse.ArgumentParser:
    """A parser of one command's own options; no abbreviations, since model options are parsed elsewhere."""
    raw, epilog = argparse.RawDescriptionHelpFormatter, MODEL_OPTIONS if with_model else None
    prog = f"anoclip submit {name}"
    return Parser(prog=prog, description=description, epilog=epilog, formatter_class=raw, allow_abbrev=False)


def threshold_rule(text: str) -> Any:
    """``mean_std:3``, ``quantile:0.995``, ``fixed:0.5`` or ``natural`` as a ``ThresholdRule``.

    Raises:
        ValueError: For anything else.
    """
    from anoclip_anomalib.evaluation.thresholds import ThresholdRule

    kind, _, number = text.partition(":")
    names = {"mean_std": "k", "quantile": "q", "fixed": "value", "natural": ""}
    if kind not in names:
        raise ValueError(f"--threshold {text} is none of mean_std:K, quantile:Q, fixed:VALUE, natural")
    try:
        return ThresholdRule(kind, **({names[kind]: float(number)} if number and names[kind] else {}))
    except ValueError as error:
        raise ValueError(f"--threshold {text}: {error}") from error


def print_report(report: Report) -> int:
    """Print a validator's report; the exit code is 0 for a valid submission, else 1."""
    print(*report.lines(), sep="\n")
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
