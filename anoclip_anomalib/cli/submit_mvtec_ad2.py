"""``anoclip submit mvtec-ad2``: predict, write, validate and pack; or one of the steps alone."""

import argparse
import re
from pathlib import Path
from typing import Any

from anoclip_anomalib.cli import submit as shared
from anoclip_anomalib.progress import Progress
from anoclip_anomalib.submission.mvtec_ad2.layout import IMAGES_PER_SPLIT
from anoclip_anomalib.submission.provenance import check_name


def main(argv: list[str]) -> int:
    """Run the command.

    Args:
        argv: The words after ``anoclip submit mvtec-ad2``.

    Returns:
        0; 1 if the submission is not valid; 2 for input that cannot be used; 130 after an interruption.
    """
    arguments, model_arguments = _parser().parse_known_args(argv)
    action = _evaluate if arguments.evaluate_public else _runtime if arguments.runtime else _submit
    return (action if arguments.validate is None else _validate)(arguments, model_arguments)


def _parser() -> argparse.ArgumentParser:
    parser = shared.parser("mvtec-ad2", "Write, validate and pack a submission for MVTec AD 2, or one of these steps.")
    steps = parser.add_mutually_exclusive_group()
    steps.add_argument("--validate", metavar="PATH", help="only check a folder or .tar.gz, whoever wrote it")
    steps.add_argument("--evaluate-public", action="store_true", help="measure test_public with the leaderboard's metrics")
    steps.add_argument("--runtime", action="store_true", help="write the leaderboard's runtime and memory table")
    parser.add_argument("--name", help="the submission's name: of the folder and the archive")
    parser.add_argument("--out", default=".", metavar="FOLDER", help="where they go (default: here)")
    only = f"only these of {', '.join(IMAGES_PER_SPLIT)}; nothing is packed until all are there"
    parser.add_argument("--objects", nargs="+", choices=list(IMAGES_PER_SPLIT), metavar="OBJECT", help=only)
    writing = parser.add_argument_group("writing")
    rules = "of the PNGs, from good validation images: mean_std:K (default: mean_std:3), quantile:Q, fixed:VALUE, natural"
    writing.add_argument("--threshold", default="mean_std:3", metavar="RULE", help=rules)
    writing.add_argument("--fit", action="store_true", help="fit the model on train/good first (one-class models)")
    share = "of float16 values spread evenly over the scores; the rest follows the pixels (default: %(default)s)"
    writing.add_argument("--linear-share", type=float, default=0.5, metavar="SHARE", help=share)
    writing.add_argument("--tiff-compression", choices=["none", "zlib"], default="none")
    writing.add_argument("--gzip-level", type=int, default=6, choices=range(1, 10), metavar="1..9")
    writing.add_argument("--keep-raw", action="store_true", help="keep the raw float32 maps in NAME.work")
    checking = parser.add_argument_group("validating")
    checking.add_argument("--allow-missing-thresholded", action="store_true", help="maps without PNGs (no SegF1) are valid")
    checking.add_argument("--names-only", action="store_true", help="do not open the files")
    timing = parser.add_argument_group("runtime")
    timing.add_argument("--device", default=None, help="cpu or cuda (default: cuda if there is one)")
    timing.add_argument("--warmup", type=int, metavar="N", help="images before the clock counts (default: 1000, on a CPU 0)")
    timing.add_argument("--count", type=int, metavar="N", help="images measured (default: 1000)")
    sizes = "(default: 256x256 512x512 1024x1224)"
    timing.add_argument("--sizes", nargs="+", type=_size, metavar="HEIGHTxWIDTH", help=sizes)
    return parser


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch("([0-9]*[1-9][0-9]*)x([0-9]*[1-9][0-9]*)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"'{text}' is no HEIGHTxWIDTH")
    return int(found[1]), int(found[2])


def _counts(arguments: argparse.Namespace) -> dict[str, int]:
    return {name: count for name, count in IMAGES_PER_SPLIT.items() if name in (arguments.objects or IMAGES_PER_SPLIT)}


def _validate(arguments: argparse.Namespace, model_arguments: list[str]) -> int:
    from anoclip_anomalib.submission.mvtec_ad2.validate import validate

    counts = _counts(arguments)
    options: Any = {"contents": not arguments.names_only, "require_masks": not arguments.allow_missing_thresholded}
    if model_arguments:
        words = [part for word in model_arguments for part in word.split("=", 1)]
        if len(words) != 2 or words[0] != "--data.root":
            raise ValueError(f"--validate takes --data.root (to compare image sizes) and no {' '.join(model_arguments)}")
        if not Path(words[1]).is_dir():
            raise FileNotFoundError(f"--data.root {words[1]} is not a folder")
        from anoclip_anomalib.submission.mvtec_ad2.make import original_sizes

        options["image_size"] = original_sizes(Path(words[1]))
    with Progress() as progress:
        progress.start("validating", 4 * sum(counts.values()))
        report = validate(arguments.validate, counts=counts, progress=lambda _: progress.advance(1), **options)
    return shared.print_report(report)


def _settings(arguments: argparse.Namespace, model_arguments: list[str]):  # noqa: ANN202
    if not arguments.name:
        raise ValueError("Give the submission a --name")
    check_name(arguments.name)
    from anoclip_anomalib.submission.model_config import ModelConfig
    from anoclip_anomalib.submission.mvtec_ad2.predict import PredictSettings

    return PredictSettings.of(ModelConfig(model_arguments), arguments.fit)


def _submit(arguments: argparse.Namespace, model_arguments: list[str]) -> int:
    settings, rule = _settings(arguments, model_arguments), shared.threshold_rule(arguments.threshold)
    from anoclip_anomalib.submission.mvtec_ad2.make import Submission, make_submission

    compression = None if arguments.tiff_compression == "none" else arguments.tiff_compression
    packing = {"compression": compression, "compression_level": arguments.gzip_level, "keep_raw": arguments.keep_raw}
    out, counts = Path(arguments.out), _counts(arguments)
    submission = Submission(arguments.name, out, settings, rule, arguments.linear_share, counts, **packing)
    with Progress() as progress:
        report = make_submission(submission, progress, progress.say)
    return shared.print_report(report)


def _evaluate(arguments: argparse.Namespace, model_arguments: list[str]) -> int:
    settings, rule = _settings(arguments, model_arguments), shared.threshold_rule(arguments.threshold)
    from anoclip_anomalib.submission.mvtec_ad2.local_evaluation import METRICS, as_table, write_public_figures

    place, objects = Path(arguments.out) / arguments.name, list(_counts(arguments))
    with Progress() as progress:
        results, path = write_public_figures(settings, objects, place, rule, progress, arguments.keep_raw)
    table = as_table(results)
    titles = ("SegF1", "AU-PRO@0.05", "AUROC (max)", "AUROC (model)", "best SegF1*")
    print(f"{'object':<12}" + "".join(f"{title:>15}" for title in titles) + f"{'threshold':>12}")
    for row in (*table["objects"], {"object_name": "mean", **table["mean"]}):
        threshold = f"{row['threshold']:>12.6g}" if "threshold" in row else ""
        print(f"{row['object_name']:<12}" + "".join(f"{row[metric]:>15.4f}" for metric in METRICS) + threshold)
    print(f"threshold: {results[0].rule}; * at the best threshold, which labels are needed to know")
    print(f"written to {path}")
    return 0


def _runtime(arguments: argparse.Namespace, model_arguments: list[str]) -> int:
    from anoclip_anomalib.submission.model_config import ModelConfig
    from anoclip_anomalib.submission.mvtec_ad2.runtime import make_table

    config, out = ModelConfig(model_arguments), Path(arguments.out)
    asked = (arguments.device, arguments.sizes, arguments.warmup, arguments.count)
    with Progress() as progress:
        rows, path, (warmup, count) = make_table(config, out, progress, *asked)
    for row in rows:
        mean, std, least, most = (1000 * s for s in (row.runtime_mean, row.runtime_std, row.runtime_min, row.runtime_max))
        runtime = f"{mean:.1f} ms (std {std:.1f}, min {least:.1f}, max {most:.1f})"
        print(f"{row.image_height} x {row.image_width}: {runtime}, peak {row.peak_memory:.0f} MiB")
    print(f"{count} images after {warmup} of warm-up, one at a time; written to {path}")
    return 0
