"""``anoclip submit``: write, check and pack leaderboard submissions."""

import sys
from importlib import import_module

from anoclip_anomalib.cli.early_checks import did_you_mean

HELP = "Write, check and pack a leaderboard submission."

FORMATS = {
    "mvtec-ad2": "MVTec AD 2 (benchmark.mvtec.com, VAND 3 and 4): predict, write, validate, pack.",
    "kaputt2": "Kaputt 2 (Codabench, VAND 4): zip with image scores.",
    "model-card": "Hugging Face model card: results from a comparison as YAML.",
    "vand-fewshot": "VAND 3 few-shot kit: a model.py that the kit imports.",
}


def main(argv: list[str]) -> int:
    """Run ``anoclip submit FORMAT ...``.

    Args:
        argv: The words after ``anoclip submit``.

    Returns:
        0 when all went well, 1 when a submission is not valid, 2 for input that cannot be used.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print("\n".join([HELP, "", "usage: anoclip submit FORMAT [options]        anoclip submit FORMAT --help", ""]))
        print("\n".join(f"  {name:<13} {text}" for name, text in FORMATS.items()))
        return 0
    if argv[0] not in FORMATS:
        near = did_you_mean(argv[0], FORMATS)
        print(f"anoclip submit: error: unknown format '{argv[0]}'; known: {', '.join(FORMATS)}{near}", file=sys.stderr)
        return 2
    return import_module(f"anoclip_anomalib.cli.submit_{argv[0].replace('-', '_')}").main(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
