"""``anoclip convert aaclip``: the authors' files of adapters to ours, and back."""

import argparse
import sys
from pathlib import Path

from anoclip_anomalib.aaclip.settings import Recipe
from anoclip_anomalib.cli.parser import Parser

HELP = "Convert the authors' files of learned weights to ours, and back."
METHODS = ("aaclip",)


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = Parser(
        prog="anoclip convert aaclip",
        description="text_adapter.pth and image_adapter_N.pth of one run to one .safetensors; with --to-authors the other way. "
        "Files with pickled code are refused.",
        allow_abbrev=False,
    )
    own = Recipe()
    parser.add_argument("--text", required=True, type=Path, metavar="FILE", help="text_adapter.pth")
    parser.add_argument("--image", required=True, type=Path, metavar="FILE", help="image_adapter_N.pth")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the .safetensors to write")
    parser.add_argument("--to-authors", type=Path, metavar="FILE", help="a .safetensors to write as --text and --image")
    parser.add_argument("--source", default="not known", help="data set of the training, such as VisA, as tables shall say it")
    parser.add_argument("--images", type=int, default=0, help="how many there were")
    parser.add_argument("--seed", type=int, help="of the training")
    parser.add_argument("--backbone", default=own.backbone, help="(default: %(default)s)")
    parser.add_argument("--pretrained", default=own.pretrained, help="(default: %(default)s)")
    parser.add_argument("--activation", default="gelu", choices=("as_trained", "gelu", "quick_gelu"), help="(default: gelu)")
    parser.add_argument("--image-size", type=int, default=own.image_size, help="in pixels (default: %(default)s)")
    return parser


def main(argv: list[str]) -> int:
    """Run the command.

    Args:
        argv: The words after ``anoclip convert``, the method first.

    Returns:
        0, or 2 for input that cannot be used.
    """
    if not argv or argv[0] not in METHODS:
        if argv and argv[0] in ("-h", "--help"):
            print(f"usage: anoclip convert METHOD [options]\n\n{HELP}\n\nMethods: {', '.join(METHODS)}")
            return 0
        print(f"anoclip convert: name a method: {', '.join(METHODS)}", file=sys.stderr)
        return 2
    args = build_parser().parse_args(argv[1:])
    try:
        _check(args)
        return _convert(args)
    except (ValueError, OSError) as error:
        print(f"anoclip convert: {error}", file=sys.stderr)
        return 2


def _check(args: argparse.Namespace) -> None:
    if (args.out is None) == (args.to_authors is None):
        msg = "give either --out (from the authors' files) or --to-authors FILE (to them)"
        raise ValueError(msg)
    if args.out is not None and args.out.suffix != ".safetensors":
        msg = f"--out must be a .safetensors, not {args.out}"
        raise ValueError(msg)
    read = (args.text, args.image) if args.out is not None else (args.to_authors,)
    for path in read:
        if not path.is_file() and str(path) != "demo":
            msg = f"No such file: {path}"
            raise FileNotFoundError(msg)


def _convert(args: argparse.Namespace) -> int:
    from anoclip_anomalib.aaclip.authors_files import convert_from_authors, convert_to_authors
    from anoclip_anomalib.running.quiet import log_to_stderr
    from anoclip_anomalib.zeroshot.learned_weights import TrainingFacts

    log_to_stderr()
    if args.to_authors is not None:
        convert_to_authors(args.to_authors, args.text, args.image)
        print(f"Authors' files: {args.text} and {args.image}")
        return 0
    facts = TrainingFacts(
        method="aaclip",
        mode="reference",
        backbone=args.backbone,
        pretrained=args.pretrained,
        activation=args.activation,
        image_size=args.image_size,
        source=args.source,
        split="test" if args.source != "not known" else "not known",
        images=args.images,
        seed=args.seed,
    )
    print(f"Adapters: {convert_from_authors(args.text, args.image, args.out, facts)}")
    return 0
