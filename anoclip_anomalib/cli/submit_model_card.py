"""``anoclip submit model-card``: a comparison's results as Hugging Face model card and evaluation results."""

import re
from pathlib import Path

from anoclip_anomalib.cli import submit as shared
from anoclip_anomalib.cli.early_checks import no_such_path


def main(argv: list[str]) -> int:
    """Run the command.

    Args:
        argv: The words after ``anoclip submit model-card``.

    Returns:
        0, or 2 for input that cannot be used.
    """
    parser = shared.parser("model-card", "Write a comparison's results for the Hugging Face Hub.", with_model=False)
    parser.add_argument("results", help="folder that `anoclip compare` wrote, or a folder with one such in it")
    parser.add_argument("--model", help="which of its models (needed if there are several)")
    parser.add_argument("--name", help="name of the model on the card (default: the model's)")
    parser.add_argument("--out", default="model_card", metavar="FOLDER", help="(default: %(default)s)")
    hub = "a data set's id on the Hub, namespace/name; evaluation results are written for data sets that have one"
    parser.add_argument("--hub-dataset", dest="hub_ids", action="append", default=[], metavar="NAME=ID", help=hub)
    parser.add_argument("--per-category", action="store_true", help="model-index with every category's figures")
    parser.add_argument("--source-url", help="where the results can be looked up")
    parser.add_argument("--license", default="apache-2.0", help="(default: %(default)s)")
    parser.add_argument("--task-type", default="anomaly-detection", help="(default: %(default)s)")
    parser.add_argument("--allow-failed", action="store_true", help="write the card although jobs failed; it says which")
    arguments = parser.parse_args(argv)
    if not Path(arguments.results).is_dir():
        raise FileNotFoundError(no_such_path(arguments.results, folder=True))
    for pair in arguments.hub_ids:
        if not re.fullmatch("[^=]+=.+", pair):
            raise ValueError(f"--hub-dataset '{pair}' is no NAME=ID")
    from anoclip_anomalib.submission.model_card.make import write_model_card

    hub_ids = dict(pair.split("=", 1) for pair in arguments.hub_ids)
    written, remarks = write_model_card(**{**vars(arguments), "hub_ids": hub_ids})
    print(*written, *remarks, sep="\n")
    return 0
