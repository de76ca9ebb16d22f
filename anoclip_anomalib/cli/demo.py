"""``anoclip demo``: generated data, AnoCLIP beside the plain query-key baseline, a gallery."""

import argparse
import signal
import sys
import time
import warnings
from pathlib import Path

HELP = "Generate a small data set and run AnoCLIP on it, offline, with the bundled encoder."


def main(argv: list[str]) -> int:
    """Run the demonstration.

    Args:
        argv: The words after ``anoclip demo``.

    Returns:
        0; 2 if an argument cannot be used; 143 if the run was ended by SIGTERM.
    """
    parser = argparse.ArgumentParser(prog="anoclip demo", description=HELP)
    parser.add_argument("--out", type=Path, default=Path("results/demo"), help="results root (default: %(default)s)")
    parser.add_argument("--categories", nargs="+", metavar="NAME", help="some of the generated categories (default: all)")
    parser.add_argument("--image-size", type=int, default=192, help="side that images are resized to (default: %(default)s)")
    parser.add_argument("--test-good", type=int, default=16, help="good test images in a category (default: %(default)s)")
    parser.add_argument("--test-bad", type=int, default=8, help="test images of each defect kind (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the generated data (default: %(default)s)")
    parser.add_argument("--open", action="store_true", help="show the gallery in the browser at the end")
    args = parser.parse_args(argv)

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    started = time.monotonic()
    console = Console()
    columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("loading", total=None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other packages' deprecations, on import
            from lightning.pytorch.utilities.exceptions import SIGTERMException

            from anoclip_anomalib.demo.dataset import CATEGORIES
            from anoclip_anomalib.demo.run import run_demo

        try:
            result = run_demo(
                args.out,
                categories=args.categories or CATEGORIES,
                image_size=args.image_size,
                test_good=args.test_good,
                test_bad=args.test_bad,
                seed=args.seed,
                progress=lambda done, total, what: bar.update(task, completed=done, total=total, description=what),
            )
            bar.update(task, description="done")
        except (ValueError, OSError) as error:
            bar.stop()
            print(f"anoclip demo: {error}", file=sys.stderr)
            return 2
        except SIGTERMException:
            # Lightning turns the signal into a SystemExit without a code, which would pass for success.
            bar.stop()
            print("anoclip demo: ended by SIGTERM before it was finished", file=sys.stderr)
            return 128 + signal.SIGTERM
    _print_result(console, result, time.monotonic() - started)
    if args.open:
        import webbrowser

        webbrowser.open(result.gallery.resolve().as_uri())
    return 0


def _print_result(console, result, seconds: float) -> None:  # noqa: ANN001 - rich is imported late
    from rich.table import Table

    from anoclip_anomalib.bundled.weights_file import NOTICE
    from anoclip_anomalib.demo.run import METRICS

    table = Table(title="Percent, from raw scores", title_justify="left")
    for name in ("category", "variant"):
        table.add_column(name, no_wrap=True)
    for name in METRICS:
        table.add_column(name, justify="right")
    previous = None
    for row in result.rows:
        if previous not in (None, row.category):
            table.add_section()
        label = row.category if row.category != previous else ""
        table.add_row(label, row.variant, *(f"{100 * row.values[name]:.1f}" for name in METRICS))
        previous = row.category
    console.print(table)
    console.print(f"[bold yellow]{NOTICE}[/]")
    for what, path in (("Gallery", result.gallery), ("Figures", result.metrics), ("Data set", result.data)):
        console.print(f"{what:<9}{path}", soft_wrap=True)
    console.print(f"{seconds:.0f} s")
