"""``anoclip demo``: generated data, AnoCLIP beside the plain query-key baseline and AA-CLIP, a gallery."""

import argparse
import json
import sys
import time
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

from anoclip_anomalib.cli.parser import Parser, refused
from anoclip_anomalib.running.quiet import quiet
from anoclip_anomalib.running.signals import run_command

HELP = "Generate a small data set and run AnoCLIP on it, offline, with the bundled encoder."

METRICS = {
    "image AUROC": "image_AUROC",
    "image F1-max": "image_F1Max",
    "image AP": "image_AP",
    "pixel AUROC": "pixel_AUROC",
    "pixel AP": "pixel_AP",
    "AUPRO": "AUPRO",
}
"""Column -> metric of a row, all from raw scores at the model's resolution."""
_VALUE = {"class_path": "AnoClip", "init_args": {"backbone": "demo", "local_attention": "value"}}
VARIANTS: dict[str, dict[str, Any]] = {
    "value": _VALUE,
    "query-key": {"class_path": "AnoClip", "init_args": {"backbone": "demo", "local_attention": "query-key"}},
    "AnoCLIP+": _VALUE | {"callbacks": ["TestTimeAdaptation"]},
    "AA-CLIP": {"class_path": "AaClip", "init_args": {"adapters": "demo"}},
}
"""Name in the table -> model; AnoCLIP+ adapts to each image besides, AA-CLIP has the bundled adapters."""
DATA = "generated parts"


def main(argv: list[str]) -> int:
    """Run the demonstration.

    Args:
        argv: The words after ``anoclip demo``.

    Returns:
        0; 1 if a job failed; 2 if an argument cannot be used; 130 or 143 if the run was ended by Ctrl-C or SIGTERM.
    """
    parser = Parser(prog="anoclip demo", description=HELP)
    parser.add_argument("--out", type=Path, default=Path("results/demo"), help="results root (default: %(default)s)")
    parser.add_argument("--categories", nargs="+", metavar="NAME", help="some of the generated categories (default: all)")
    parser.add_argument("--image-size", type=int, default=192, help="side that images are resized to (default: %(default)s)")
    parser.add_argument("--test-good", type=int, default=16, help="good test images in a category (default: %(default)s)")
    parser.add_argument("--test-bad", type=int, default=8, help="test images of each defect kind (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the generated data (default: %(default)s)")
    parser.add_argument("--open", action="store_true", help="show the gallery in the browser at the end")
    args = parser.parse_args(argv)
    return run_command("anoclip demo", lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    started = time.monotonic()
    try:
        with quiet():
            suite = write_suite(args)
            failed = _compare(suite, args)
    except (ValueError, OSError) as error:
        return refused(f"anoclip demo: {error}")
    for row in failed:
        print(f"failed: {row['job']['model']}, {row['job']['category']}: {row['error']['message']}", file=sys.stderr)
    if failed:
        return 1
    from anoclip_anomalib.bundled.weights_file import NOTICE
    from anoclip_anomalib.comparison.report.gallery import gallery_of, write_gallery

    command = f"anoclip demo, data seed {args.seed}, {args.test_good} good images and {args.test_bad} of each defect"
    gallery = gallery_of(args.out / "comparison", "AnoCLIP on generated data", NOTICE, METRICS, facts={"command": command})
    page = write_gallery(gallery, args.out / "gallery.html")
    _write_csv(gallery.rows, args.out / "metrics.csv")
    _print_table(gallery.rows)
    print(NOTICE)
    written = {"Gallery": page, "Figures": args.out / "metrics.csv", "Suite": suite, "Data set": args.out / "data"}
    print(*(f"{what:<9}{path}" for what, path in written.items()), sep="\n")
    print(f"{time.monotonic() - started:.0f} s")
    if args.open:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())
    return 0


def write_suite(args: argparse.Namespace) -> Path:
    """Write the demonstration as a suite of ``anoclip compare``; it can be run, and changed, by hand.

    Returns:
        The file.

    Raises:
        ValueError: An argument is not usable.
    """
    import yaml

    from anoclip_anomalib.demo.dataset import CATEGORIES, check_recipe
    from anoclip_anomalib.files import atomic_write

    categories = list(dict.fromkeys(args.categories or CATEGORIES))
    check_recipe(categories, 256, {"test_good": args.test_good, "test_bad": args.test_bad}, args.seed)
    config = json.loads(files("anoclip_anomalib").joinpath("bundled/weights/demo_clip.json").read_text(encoding="utf-8"))
    patch = config["vision_cfg"]["patch_size"]
    if args.image_size < patch or args.image_size % patch:
        raise ValueError(f"--image-size {args.image_size} is no multiple of the encoder's patch size {patch}")
    out = args.out.resolve()
    shared = {"image_size": args.image_size, "text_cache_dir": str(out / "text_cache")}
    models = [{"name": name, **model, "init_args": shared | model["init_args"]} for name, model in VARIANTS.items()]
    drawn = {"root": str(out / "data"), "test_good": args.test_good, "test_bad": args.test_bad, "drawing_seed": args.seed}
    data = {"name": DATA, "class_path": "GeneratedParts", "init_args": drawn | {"eval_batch_size": 16, "num_workers": 0}}
    data["categories"] = categories
    suite = {"name": "demo", "models": models, "data": [data], "protocol": {"timed_images": 0}}
    with atomic_write(args.out / "suite.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(suite, sort_keys=False), encoding="utf-8")
    return args.out / "suite.yaml"


def _compare(path: Path, args: argparse.Namespace) -> list[Any]:
    """Draw what is missing and run the suite; the rows of failed jobs."""
    from anoclip_anomalib.comparison.run.folder import ResultsFolder
    from anoclip_anomalib.comparison.run.progress import ComparisonProgress
    from anoclip_anomalib.comparison.run.run_job import build_data, run_job
    from anoclip_anomalib.comparison.run.runner import Here, run_jobs
    from anoclip_anomalib.comparison.suite.load_suite import load_suite
    from anoclip_anomalib.comparison.suite.suite import jobs_of

    suite = load_suite(path)
    jobs = jobs_of(suite)
    folder = ResultsFolder(args.out / "comparison")
    with ComparisonProgress(len(jobs)) as progress:
        first = {job.category: job for job in jobs}
        progress.display.start("drawing categories", len(first))
        for job in first.values():  # here, where data that were drawn otherwise are told at once
            build_data(job)
            progress.display.advance()
        folder.open_for(suite)
        outcome = run_jobs(folder, jobs, Here(run=lambda job, threads: run_job(job, threads, progress.display)), progress)
    if outcome.kept:
        print(f"{len(outcome.kept)} results were there already; delete {folder.path} to measure anew", file=sys.stderr)
    return [row for row in folder.rows()[0] if row["status"] == "failed"]


def _write_csv(rows: Any, path: Path) -> None:
    """Figures in float32, as anomalib logs metrics."""
    import numpy as np
    import pandas as pd

    from anoclip_anomalib.files import atomic_write

    cells = [[row.category, row.variant, *(f"{np.float32(row.values[name]):.6f}" for name in METRICS)] for row in rows]
    with atomic_write(path) as temporary:
        pd.DataFrame(cells, columns=["category", "variant", *METRICS]).to_csv(temporary, index=False, lineterminator="\r\n")


def _print_table(rows: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Percent, from raw scores", title_justify="left")
    for name in ("category", "variant", *METRICS):
        table.add_column(name, **({"justify": "right"} if name in METRICS else {"no_wrap": True}))
    for category, group in groupby(rows, key=lambda row: row.category):
        for index, row in enumerate(group):
            figures = (f"{100 * row.values[name]:.1f}" for name in METRICS)
            table.add_row("" if index else category, row.variant, *figures)
        table.add_section()
    Console().print(table)
