"""``anoclip report``: HTML, Markdown, CSV and LaTeX from the results of ``anoclip compare``."""

import argparse
from pathlib import Path

from anoclip_anomalib.cli.early_checks import no_such_path
from anoclip_anomalib.cli.parser import Parser, refused

HELP = "Write the report of a comparison: one HTML file, Markdown, CSV, LaTeX."


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = Parser(prog="anoclip report", description=HELP)
    parser.add_argument("results", help="results folder of `anoclip compare`, or a folder of several")
    output = "where to write (default: the results folder); of several, a folder for each in it"
    parser.add_argument("-o", "--output", help=output)
    parser.add_argument("--quoted", action="store_true", help="show figures that papers published, marked as quoted")
    parser.add_argument("--quoted-file", metavar="YAML", help="quoted figures from this file instead of ours")
    return parser


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code (2: bad input)."""
    args = build_parser().parse_args(argv)
    for path, is_folder in ((args.results, True), (args.quoted_file, False)):
        if path is not None and not (Path(path).is_dir() if is_folder else Path(path).is_file()):
            return refused(f"anoclip report: error: {no_such_path(path, folder=is_folder)}")
    from anoclip_anomalib.comparison.report.build import build_report
    from anoclip_anomalib.comparison.run.folder import results_folders

    code = 0
    for folder in results_folders(args.results):
        output = Path(args.output) / folder.relative_to(args.results) if args.output else None
        try:
            written = build_report(folder, output, args.quoted or bool(args.quoted_file), args.quoted_file)
        except (ValueError, OSError) as error:
            code = refused(error)
        else:
            print(*(f"wrote {path}" for path in written), sep="\n")
    return code
