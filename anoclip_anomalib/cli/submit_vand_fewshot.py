"""``anoclip submit vand-fewshot``: write the model.py that the VAND few-shot kit imports, and try it as the kit would."""

import argparse
from pathlib import Path

import yaml

from anoclip_anomalib.cli import submit as shared


def main(argv: list[str]) -> int:
    """Run the command.

    Args:
        argv: The words after ``anoclip submit vand-fewshot``.

    Returns:
        0; 1 if the model does not keep the interface; 2 for input that cannot be used.
    """
    parser = shared.parser("vand-fewshot", "Write or check model.py for the VAND 3 few-shot evaluation kit.", with_model=False)
    parser.add_argument("--out", default="model.py", metavar="FILE", help="in a clone of the kit: src/eval/submission/model.py")
    parser.add_argument("--validate", metavar="FILE", help="only try a model.py, whoever wrote it (this runs its code)")
    parser.add_argument("--reference-weight", type=float, default=0.5, help="share of the normal images (default: 0.5)")
    parser.add_argument("--backbone", help="AnoClip's backbone (default: AnoClip's own)")
    parser.add_argument("--pretrained", help="its weights")
    other = "another argument of AnoClip, its value in YAML"
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=other)
    arguments = parser.parse_args(argv)
    if arguments.validate is not None and not Path(arguments.validate).is_file():
        raise FileNotFoundError(f"There is no {arguments.validate}")
    settings = _settings(arguments) if arguments.validate is None else {}
    from anoclip_anomalib.submission.vand.fewshot import make_model_file, try_model_file

    if arguments.validate is None:
        path = Path(arguments.out)
        scores, provenance = make_model_file(path, settings)
        print(f"{path}: keeps the interface (scores of two random images: {scores})\n{provenance}")
        return 0
    scores, fault = try_model_file(arguments.validate)
    kept = f"{arguments.validate}: keeps the interface (scores of two random images: {scores})"
    print(f"error: {arguments.validate}: {fault}" if fault else kept)
    return 1 if fault else 0


def _settings(arguments: argparse.Namespace) -> dict:
    given = {name: getattr(arguments, name) for name in ("reference_weight", "backbone", "pretrained")}
    settings = {name: value for name, value in given.items() if value is not None}
    for pair in arguments.set:
        name, equals, value = pair.partition("=")
        if not (name.isidentifier() and equals):
            raise ValueError(f"--set '{pair}' is no NAME=VALUE")
        settings[name] = yaml.safe_load(value)
    return settings
