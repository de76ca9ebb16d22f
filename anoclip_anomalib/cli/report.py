"""`anoclip report`: HTML, Markdown, CSV and LaTeX from the results of `anoclip compare`."""

import argparse
import sys
from pathlib import Path

HELP = "Write the report of a comparison: one HTML file, Markdown, CSV, LaTeX."


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="anoclip report", description=HELP)
    parser.add_argument("results", help="results folder of `anoclip compare`, or a folder of several")
    output = "where to write (default: the results folder); of several, a folder for each in it"
    parser.add_argument("-o", "--output", help=output)
    parser.add_argument("--quoted", action="store_true", help="show figures that papers published, marked as quoted")
    parser.add_argument("--quoted-file", metavar="YAML", help="quoted figures from this file instead of ours")
    return parser


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code (2: bad input)."""
    args = build_parser().parse_args(argv)
    from anoclip_anomalib.comparison.report.build import build_report
    from anoclip_anomalib.comparison.run.folder import results_folders

    code = 0
    for folder in results_folders(args.results):
        output = Path(args.output) / folder.relative_to(args.results) if args.output else None
        try:
            written = build_report(folder, output, args.quoted or bool(args.quoted_file), args.quoted_file)
        except (ValueError, OSError) as error:
            print(str(error), file=sys.stderr)
            code = 2
        else:
            print(*(f"wrote {path}" for path in written), sep="\n")
    return code
