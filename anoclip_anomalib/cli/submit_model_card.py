"""``anoclip submit model-card``: a comparison's results as Hugging Face model card and evaluation results."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from anoclip_anomalib.cli import submit_shared as shared
from anoclip_anomalib.cli.early_checks import no_such_path

NAME = "model-card"


def main(argv: list[str]) -> int:
    """Run the command.

    Args:
        argv: The words after ``anoclip submit model-card``.

    Returns:
        0, or 2 for input that cannot be used.
    """
    parser = shared.parser(NAME, "Write a comparison's results for the Hugging Face Hub.", with_model=False)
    parser.add_argument("results", help="folder that `anoclip compare` wrote, or a folder with one such in it")
    parser.add_argument("--model", help="which of its models (needed if there are several)")
    parser.add_argument("--name", help="name of the model on the card (default: the model's)")
    parser.add_argument("--out", default="model_card", metavar="FOLDER", help="(default: %(default)s)")
    parser.add_argument(
        "--hub-dataset",
        action="append",
        default=[],
        metavar="NAME=ID",
        help="a data set's id on the Hub, namespace/name; evaluation results are written for data sets that have one",
    )
    parser.add_argument("--per-category", action="store_true", help="model-index with every category's figures")
    parser.add_argument("--source-url", help="where the results can be looked up")
    parser.add_argument("--license", default="apache-2.0", help="(default: %(default)s)")
    parser.add_argument("--task-type", default="anomaly-detection", help="(default: %(default)s)")
    parser.add_argument("--allow-failed", action="store_true", help="write the card although jobs failed; it says which")
    arguments = parser.parse_args(argv)
    return shared.run(NAME, lambda: _write(arguments))


def _hub_ids(pairs: Sequence[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, equals, hub_id = pair.partition("=")
        if not (name and equals and hub_id):
            raise ValueError(f"--hub-dataset '{pair}' is no NAME=ID")
        found[name] = hub_id
    return found


def _write(arguments: argparse.Namespace) -> int:
    if not Path(arguments.results).is_dir():
        raise FileNotFoundError(no_such_path(arguments.results, folder=True))
    from anoclip_anomalib.submission.model_card.make import CardRequest, write_model_card

    request = CardRequest(
        model=arguments.model,
        name=arguments.name,
        hub_ids=_hub_ids(arguments.hub_dataset),
        per_category=arguments.per_category,
        source_url=arguments.source_url,
        license=arguments.license,
        task_type=arguments.task_type,
        allow_failed=arguments.allow_failed,
    )
    written, remarks = write_model_card(arguments.results, Path(arguments.out), request)
    print("\n".join([*map(str, written), *remarks]))
    return 0
