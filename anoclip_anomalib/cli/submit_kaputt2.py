"""``anoclip submit kaputt2``: predict, write, validate; or validate alone."""

import argparse
from pathlib import Path

from anoclip_anomalib.cli import submit as shared
from anoclip_anomalib.progress import Progress
from anoclip_anomalib.submission.provenance import check_name


def main(argv: list[str]) -> int:
    """Run the command.

    Args:
        argv: The words after ``anoclip submit kaputt2``.

    Returns:
        0; 1 if the submission is not valid; 2 for input that cannot be used; 130 after an interruption.
    """
    parser = shared.parser("kaputt2", "Write and validate a submission for Kaputt 2, or only validate one.")
    parser.add_argument("--validate", metavar="ZIP", help="only check a zip, whoever wrote it")
    parser.add_argument("--data.root", dest="root", metavar="FOLDER", help="Kaputt 2's folder")
    ids = "query-test.parquet (default: the one in --data.root or its datasets/); for --validate also a CSV with capture_id"
    parser.add_argument("--ids", metavar="FILE", help=ids)
    parser.add_argument("--image-type", choices=["image", "crop"], default="crop", help="(default: %(default)s)")
    parser.add_argument("--name", help="the submission's name: of the zip")
    parser.add_argument("--out", default=".", metavar="FOLDER", help="where it goes (default: here)")
    parser.add_argument("--data.eval_batch_size", dest="batch_size", type=int, default=32, metavar="N")
    parser.add_argument("--data.num_workers", dest="num_workers", type=int, default=2, metavar="N")
    arguments, model_arguments = parser.parse_known_args(argv)
    return (_submit if arguments.validate is None else _validate)(arguments, model_arguments)


def _ids_file(arguments: argparse.Namespace) -> Path | None:
    if arguments.ids:
        if not Path(arguments.ids).is_file():
            raise FileNotFoundError(f"--ids {arguments.ids} does not exist")
        return Path(arguments.ids)
    if not arguments.root:
        return None
    for file in (Path(arguments.root) / "query-test.parquet", Path(arguments.root) / "datasets" / "query-test.parquet"):
        if file.is_file():
            return file
    raise FileNotFoundError(f"There is no query-test.parquet in {arguments.root} or {arguments.root}/datasets")


def _validate(arguments: argparse.Namespace, model_arguments: list[str]) -> int:
    from anoclip_anomalib.submission.kaputt2.validate import validate_zip
    from anoclip_anomalib.submission.kaputt2.write import read_capture_ids

    if model_arguments:
        raise ValueError(f"--validate knows no {' '.join(model_arguments)}")
    ids = _ids_file(arguments)
    return shared.print_report(validate_zip(arguments.validate, None if ids is None else read_capture_ids(ids)))


def _submit(arguments: argparse.Namespace, model_arguments: list[str]) -> int:
    if not arguments.root:
        raise ValueError("Give Kaputt 2's folder with --data.root")
    check_name(arguments.name or "")
    queries = _ids_file(arguments)
    if queries is None or queries.suffix == ".csv":
        raise ValueError("Predicting needs query-test.parquet, which names the images")
    from anoclip_anomalib.submission.kaputt2.make import make_submission
    from anoclip_anomalib.submission.model_config import ModelConfig

    name, out, root = arguments.name, Path(arguments.out), Path(arguments.root)
    config, loading = ModelConfig(model_arguments), {"batch_size": arguments.batch_size, "num_workers": arguments.num_workers}
    with Progress() as progress:
        report = make_submission(name, out, config, root, queries, arguments.image_type, progress, **loading)
    return shared.print_report(report)
