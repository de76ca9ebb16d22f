"""``anoclip submit vand-fewshot``: write the model.py that the VAND few-shot kit imports, and try it as the kit would."""

import argparse
from pathlib import Path

import yaml

from anoclip_anomalib.cli import submit_shared as shared

NAME = "vand-fewshot"


def main(argv: list[str]) -> int:
    """Run the command.

    Args:
        argv: The words after ``anoclip submit vand-fewshot``.

    Returns:
        0; 1 if the model does not keep the interface; 2 for input that cannot be used.
    """
    parser = shared.parser(NAME, "Write or check model.py for the VAND 3 few-shot evaluation kit.", with_model=False)
    parser.add_argument("--out", default="model.py", metavar="FILE", help="in a clone of the kit: src/eval/submission/model.py")
    parser.add_argument("--validate", metavar="FILE", help="only try a model.py, whoever wrote it (this runs its code)")
    parser.add_argument("--reference-weight", type=float, default=0.5, help="share of the normal images (default: 0.5)")
    parser.add_argument("--backbone", help="AnoClip's backbone (default: AnoClip's own)")
    parser.add_argument("--pretrained", help="its weights")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="another argument of AnoClip, its value in YAML"
    )
    arguments = parser.parse_args(argv)
    return shared.run(NAME, lambda: _write(arguments))


def _settings(arguments: argparse.Namespace) -> dict:
    settings: dict = {"reference_weight": arguments.reference_weight}
    for name in ("backbone", "pretrained"):
        if getattr(arguments, name) is not None:
            settings[name] = getattr(arguments, name)
    for pair in arguments.set:
        name, equals, value = pair.partition("=")
        if not (name.isidentifier() and equals):
            raise ValueError(f"--set '{pair}' is no NAME=VALUE")
        settings[name] = yaml.safe_load(value)
    return settings


def _write(arguments: argparse.Namespace) -> int:
    from anoclip_anomalib.submission.provenance import write_provenance
    from anoclip_anomalib.submission.vand_fewshot import Model, check_model_file, write_model_file

    if arguments.validate is not None:
        path = Path(arguments.validate)
        if not path.is_file():
            raise FileNotFoundError(f"there is no {path}")
        try:
            seen = check_model_file(path)
        except Exception as error:  # noqa: BLE001 (foreign code: whatever it raises is what is wrong with it)
            print(f"error: {path}: {type(error).__name__}: {error}")
            return 1
        print(f"{path}: keeps the interface (scores of two random images: {seen['scores']})")
        return 0
    settings = _settings(arguments)
    try:
        model = Model(**settings)
    except TypeError as error:
        raise ValueError(f"AnoClip does not take these arguments: {error}") from error
    path = write_model_file(arguments.out, settings)
    seen = check_model_file(path)
    print(f"{path}: keeps the interface (scores of two random images: {seen['scores']})")
    facts = {
        "leaderboard": "VAND 3.0 category 2 (few-shot, MVTec LOCO)",
        "settings": settings,
        "weights_digest": model.anoclip.weights_digest,
        "threshold_rule": "none: the kit measures F1-max",
    }
    print(write_provenance(path, facts, path))
    return 0
