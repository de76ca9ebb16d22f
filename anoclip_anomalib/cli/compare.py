"""``anoclip compare``: measure models side by side, by one protocol, resumably."""

import argparse
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from anoclip_anomalib.cli.early_suite import check_suite
from anoclip_anomalib.cli.parser import Parser, refused
from anoclip_anomalib.comparison.suite.yaml_lines import SuiteError
from anoclip_anomalib.running.signals import run_command

HELP = "Measure models side by side on data sets, by one protocol; resumable."
ELSEWHERE = 3


def parse_shard(text: str) -> tuple[int, int]:
    """Read "i/n"."""
    try:
        index, count = (int(part) for part in text.split("/"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"a shard is written i/n, for instance 2/4, not {text}") from error
    if not 1 <= index <= count:
        raise argparse.ArgumentTypeError(f"a shard is i/n with 1 <= i <= n, not {text}")
    return index, count


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    codes = (
        "Exit code: 0 no selected job failed, 1 some failed, 2 bad input, 3 jobs are in other hands, 130 or 143 interrupted."
    )
    parser = Parser(prog="anoclip compare", description=HELP, epilog=codes)
    parser.add_argument("suite", help="YAML file: models, data sets, categories, seeds (see configs/suites/)")
    parser.add_argument("-o", "--output", help="results folder (default: results/comparison/<suite name>)")
    root = "folder of a data set of the suite (repeatable)"
    parser.add_argument("--root", action="append", default=[], metavar="DATA=FOLDER", help=root)
    only = "only jobs of a model, data set, category or seed=N; glob patterns; repeatable"
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help=only)
    parser.add_argument("--shard", type=parse_shard, metavar="I/N", help="only every N-th of the jobs, beginning with the I-th")
    parser.add_argument("--dry-run", action="store_true", help="check the suite and list its jobs; run nothing")
    parser.add_argument("--keep-failed", action="store_true", help="do not run failed jobs of an earlier run again")
    parser.add_argument("--threads", type=int, help="torch's threads for each job (ray: CPUs for each job, default 1)")
    parser.add_argument("--runner", choices=("local", "ray"), default="local", help="one after the other here, or on Ray")
    parser.add_argument("--address", help="ray: address of an existing cluster (default: start one here)")
    parser.add_argument("--workers", type=int, help="ray: CPUs of the cluster that is started here (default: all)")
    parser.add_argument("--no-report", action="store_true", help="do not write the report at the end")
    return parser


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code."""
    args = build_parser().parse_args(argv)
    for text in args.root:
        if "=" not in text:
            return refused(f"--root is written DATA=FOLDER, not {text}")
    roots = dict(text.split("=", 1) for text in args.root)
    if args.threads is not None and args.threads < 1:
        return refused(f"--threads must be at least 1, got {args.threads}")
    try:
        check_suite(args.suite, roots)  # before torch

        from anoclip_anomalib.comparison.run.folder import ResultsFolder
        from anoclip_anomalib.comparison.suite.load_suite import load_suite
        from anoclip_anomalib.comparison.suite.suite import jobs_of, select_jobs

        suite = load_suite(args.suite, roots)
        jobs = select_jobs(jobs_of(suite), args.only, args.shard)
        folder = ResultsFolder(args.output or Path("results") / "comparison" / suite.name)
        if args.dry_run:
            return _dry_run(folder, jobs)
        folder.open_for(suite)
    except SuiteError as error:
        return refused(f"{len(error.faults)} fault(s) in the suite:\n{error}")
    except ValueError as error:
        return refused(error)
    return run_command("anoclip compare", lambda: _compare(args, folder, jobs))


def _compare(args: argparse.Namespace, folder, jobs) -> int:  # noqa: ANN001
    try:
        return _run(args, folder, jobs)
    except OSError as error:
        return refused(f"stopped: {error}; finished rows are kept, the same command continues")
    except ImportError as error:
        return refused(error)


def _dry_run(folder, jobs) -> int:  # noqa: ANN001
    from anoclip_anomalib.comparison.run.folder import ResultsError

    missing = 0
    for job in jobs:
        try:
            row = folder.read_row(job.id)
            state = "to do" if row is None else row["status"]
        except ResultsError:
            state = "damaged, to do"
        missing += state not in ("done", "failed")
        print(f"{job.id}  {state:15s} {job.label}")
    print(f"{len(jobs)} jobs, {missing} to do, results in {folder.path}")
    return 0


def _run(args: argparse.Namespace, folder, jobs) -> int:  # noqa: ANN001
    from anoclip_anomalib.comparison.run.progress import ComparisonProgress
    from anoclip_anomalib.comparison.run.run_job import run_job
    from anoclip_anomalib.comparison.run.runner import Executor, Here, run_jobs

    with ComparisonProgress(len(jobs)) as progress, ExitStack() as stack:
        if args.runner == "ray":
            from anoclip_anomalib.comparison.run.ray_runner import OnRay

            ray = OnRay(args.address, args.threads or 1, args.workers, note=progress.note)
            executor: Executor = stack.enter_context(ray)
        else:
            executor = Here(args.threads, partial(run_job, progress=progress.display))
        outcome = run_jobs(folder, jobs, executor, progress, retry_failed=not args.keep_failed)
    rows, faults = folder.rows()
    wanted = {job.id for job in jobs}
    failed = [row for row in rows if row["id"] in wanted and row["status"] == "failed"]
    counts = f"{len(outcome.done)} done, {len(outcome.failed)} failed, {len(outcome.kept)} were there already"
    print(f"{counts}, {len(outcome.elsewhere)} in the hands of another process; results in {folder.path}")
    for row in failed:
        job = row["job"]
        print(f"failed: {job['model']} | {job['data']} / {job['category']} | seed {job['seed']}: {row['error']['message']}")
    for fault in faults:
        print(fault)
    if not args.no_report and rows:
        from anoclip_anomalib.comparison.report.build import build_report

        print(*(f"wrote {path}" for path in build_report(folder.path)), sep="\n")
    if outcome.elsewhere:
        print("the table is not complete: run the same command again when the other processes are done", file=sys.stderr)
    return 1 if failed or faults else ELSEWHERE if outcome.elsewhere else 0
