"""``anoclip convert METHOD``: the authors' files of learned weights to ours, and for AA-CLIP back."""

import argparse
import sys
from pathlib import Path
from typing import Any

from anoclip_anomalib.aaclip.settings import Recipe
from anoclip_anomalib.cli.early_checks import did_you_mean
from anoclip_anomalib.cli.parser import Parser
from anoclip_anomalib.promptlearning.methods import CONTEXT_TOKENS, DEEP_BLOCKS, DEEP_TOKENS
from anoclip_anomalib.promptlearning.methods import METHODS as PROMPT_METHODS

HELP = "Convert the authors' files of learned weights to ours, and back."
METHODS = ("aaclip", *PROMPT_METHODS)
_NO_CODE = "Files with pickled code are refused."


def build_parser(method: str = "aaclip") -> argparse.ArgumentParser:
    """The command's options for a method."""
    return _aaclip_parser() if method == "aaclip" else _prompt_parser(method)


def _aaclip_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="anoclip convert aaclip",
        description="text_adapter.pth and image_adapter_N.pth of one run to one .safetensors; with --to-authors the other way. "
        f"{_NO_CODE}",
        allow_abbrev=False,
    )
    parser.add_argument("--text", required=True, type=Path, metavar="FILE", help="text_adapter.pth")
    parser.add_argument("--image", required=True, type=Path, metavar="FILE", help="image_adapter_N.pth")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the .safetensors to write")
    parser.add_argument("--to-authors", type=Path, metavar="FILE", help="a .safetensors to write as --text and --image")
    _add_facts(parser, activation="gelu")
    return parser


def _prompt_parser(method: str) -> argparse.ArgumentParser:
    own = PROMPT_METHODS[method]
    parser = Parser(
        prog=f"anoclip convert {method}",
        description=f"A checkpoint of {own.title}'s authors to one .safetensors for PromptClip. {_NO_CODE} docs/methods.md "
        "says where they are published and which names mislead.",
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", required=True, type=Path, metavar="FILE", help="the authors' .pth")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the .safetensors to write")
    _add_facts(parser, activation=own.activation)
    if own.learned == "prompts":
        counts = {"context": CONTEXT_TOKENS, "depth": DEEP_BLOCKS, "deep-tokens": DEEP_TOKENS}
        for name, count in counts.items():
            parser.add_argument(f"--{name}", type=int, default=count, help="of the training (default: %(default)s)")
        parser.add_argument(
            "--unchecked", action="store_true", help="do not compare what the file holds of CLIP with CLIP, which must be here"
        )
    return parser


def _add_facts(parser: argparse.ArgumentParser, *, activation: str) -> None:
    own = Recipe()
    parser.add_argument("--source", default="not known", help="data set of the training, such as VisA, as tables shall say it")
    parser.add_argument("--images", type=int, default=0, help="how many there were")
    parser.add_argument("--seed", type=int, help="of the training")
    parser.add_argument("--backbone", default=own.backbone, help="(default: %(default)s)")
    parser.add_argument("--pretrained", default=own.pretrained, help="(default: %(default)s)")
    choices = ("as_trained", "gelu", "quick_gelu")
    parser.add_argument("--activation", default=activation, choices=choices, help="(default: %(default)s)")
    parser.add_argument("--image-size", type=int, default=own.image_size, help="in pixels (default: %(default)s)")


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
        near = did_you_mean(argv[0], METHODS) if argv else ""
        print(f"anoclip convert: name a method: {', '.join(METHODS)}{near}", file=sys.stderr)
        return 2
    method = argv[0]
    args = build_parser(method).parse_args(argv[1:])
    try:
        _check(args, (args.text, args.image) if method == "aaclip" else (args.checkpoint,))
        return _convert_aaclip(args) if method == "aaclip" else _convert_prompts(method, args)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"anoclip convert: {error}", file=sys.stderr)
        return 2


def _check(args: argparse.Namespace, read: tuple[Path, ...]) -> None:
    to_authors = getattr(args, "to_authors", None)
    if (args.out is None) == (to_authors is None):
        raise ValueError("give either --out (from the authors' files) or --to-authors FILE (to them)")
    if args.out is not None and args.out.suffix != ".safetensors":
        raise ValueError(f"--out must be a .safetensors, not {args.out}")
    for path in read if to_authors is None else (to_authors,):
        if not path.is_file() and str(path) != "demo":
            raise FileNotFoundError(f"No such file: {path}")


def _facts(method: str, args: argparse.Namespace) -> Any:
    from anoclip_anomalib.zeroshot.learned_weights import NOT_KNOWN, TrainingFacts

    return TrainingFacts(
        method=method,
        mode="reference",
        backbone=args.backbone,
        pretrained=args.pretrained,
        activation=args.activation,
        image_size=args.image_size,
        source=args.source,
        split="test" if args.source != NOT_KNOWN else NOT_KNOWN,
        images=args.images,
        seed=args.seed,
    )


def _convert_aaclip(args: argparse.Namespace) -> int:
    from anoclip_anomalib.aaclip.authors_files import convert_from_authors, convert_to_authors
    from anoclip_anomalib.running.quiet import log_to_stderr

    log_to_stderr()
    if args.to_authors is not None:
        convert_to_authors(args.to_authors, args.text, args.image)
        print(f"Authors' files: {args.text} and {args.image}")
        return 0
    print(f"Adapters: {convert_from_authors(args.text, args.image, args.out, _facts('aaclip', args))}")
    return 0


def _convert_prompts(method: str, args: argparse.Namespace) -> int:
    from anoclip_anomalib.clip import load_clip
    from anoclip_anomalib.promptlearning.authors_files import PromptSize, convert_from_authors
    from anoclip_anomalib.running.quiet import log_to_stderr

    log_to_stderr()
    own = PROMPT_METHODS[method]
    clip, size = None, None
    if own.learned == "prompts":
        size = PromptSize(args.context, args.depth, args.deep_tokens)
        clip = None if args.unchecked else load_clip(args.backbone, args.pretrained, activation=args.activation)
    out = convert_from_authors(own, args.checkpoint, args.out, _facts(method, args), clip=clip, size=size)
    print(f"Adapters: {out}")
    return 0
