"""``anoclip convert METHOD``: the authors' files of learned weights to ours, and for AA-CLIP back."""

import argparse
from pathlib import Path
from typing import Any

from anoclip_anomalib.aaclip.settings import Recipe
from anoclip_anomalib.checks import did_you_mean
from anoclip_anomalib.cli.parser import Parser, refused
from anoclip_anomalib.promptlearning.methods import CONTEXT_TOKENS, DEEP_BLOCKS, DEEP_TOKENS
from anoclip_anomalib.promptlearning.methods import METHODS as PROMPT_METHODS
from anoclip_anomalib.running.quiet import log_to_stderr

HELP = "Convert the authors' files of learned weights to ours, and AA-CLIP's back."
METHODS = ("aaclip", *PROMPT_METHODS)
_NO_CODE = "Files with pickled code are refused."


def build_parser(method: str = "aaclip") -> argparse.ArgumentParser:
    """The command's options for a method."""
    own, recipe = PROMPT_METHODS.get(method), Recipe()
    if own is None:
        what = "text_adapter.pth and image_adapter_N.pth of one run to one .safetensors; with --to-authors the other way. "
        description = f"{what}{_NO_CODE}"
    else:
        description = (
            f"A checkpoint of {own.title}'s authors to one .safetensors for PromptClip. {_NO_CODE} docs/methods.md "
            "says where they are published and which names mislead."
        )
    parser = Parser(prog=f"anoclip convert {method}", description=description, allow_abbrev=False)
    add = parser.add_argument
    file: dict[str, Any] = {"type": Path, "metavar": "FILE"}
    if own is None:
        add("--text", required=True, help="text_adapter.pth", **file)
        add("--image", required=True, help="image_adapter_N.pth", **file)
    else:
        add("--checkpoint", required=True, help="the authors' .pth", **file)
    add("--out", required=own is not None, help="the .safetensors to write", **file)
    if own is None:
        add("--to-authors", help="a .safetensors to write as --text and --image", **file)
    add("--source", default="not known", help="data set of the training, such as VisA, as tables shall say it")
    add("--images", type=int, default=0, help="how many there were")
    add("--seed", type=int, help="of the training")
    add("--backbone", default=recipe.backbone, help="(default: %(default)s)")
    add("--pretrained", default=recipe.pretrained, help="(default: %(default)s)")
    choices = ("as_trained", "gelu", "quick_gelu")
    add("--activation", default=own.activation if own else "gelu", choices=choices, help="(default: %(default)s)")
    add("--image-size", type=int, default=recipe.image_size, help="in pixels (default: %(default)s)")
    if own is not None and own.learned == "prompts":
        for name, count in (("context", CONTEXT_TOKENS), ("depth", DEEP_BLOCKS), ("deep-tokens", DEEP_TOKENS)):
            add(f"--{name}", type=int, default=count, help="of the training (default: %(default)s)")
        unchecked = "do not compare what the file holds of CLIP with CLIP, which must be here"
        add("--unchecked", action="store_true", help=unchecked)
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
        near = did_you_mean(argv[0], METHODS) if argv else ""
        return refused(f"anoclip convert: name a method: {', '.join(METHODS)}{near}")
    method = argv[0]
    if method != "aaclip" and any(word.partition("=")[0] == "--to-authors" for word in argv):
        return refused(f"anoclip convert: --to-authors is for aaclip alone; there is no way back to the files of {method}")
    args = build_parser(method).parse_args(argv[1:])
    try:
        _check(args)
        print(_convert_aaclip(args) if method == "aaclip" else _convert_prompts(method, args))
    except (ValueError, OSError, RuntimeError) as error:
        return refused(f"anoclip convert: {error}")
    return 0


def _check(args: argparse.Namespace) -> None:
    given = vars(args)
    to_authors = given.get("to_authors")
    if (args.out is None) == (to_authors is None):
        raise ValueError("Give either --out (from the authors' files) or --to-authors FILE (to them)")
    if args.out is not None and args.out.suffix != ".safetensors":
        raise ValueError(f"--out must be a .safetensors, not {args.out}")
    for path in [to_authors] if to_authors else [given[name] for name in ("text", "image", "checkpoint") if name in given]:
        if not path.is_file() and str(path) != "demo":
            raise FileNotFoundError(f"No such file: {path}")


def _facts(method: str, args: argparse.Namespace) -> Any:
    from anoclip_anomalib.zeroshot.learned_weights import NOT_KNOWN, TrainingFacts

    told = ("backbone", "pretrained", "activation", "image_size", "source", "images", "seed")
    split = "test" if args.source != NOT_KNOWN else NOT_KNOWN
    return TrainingFacts(method=method, mode="reference", split=split, **{name: getattr(args, name) for name in told})


def _convert_aaclip(args: argparse.Namespace) -> str:
    from anoclip_anomalib.aaclip.authors_files import convert_from_authors, convert_to_authors

    log_to_stderr()
    if args.to_authors is not None:
        convert_to_authors(args.to_authors, args.text, args.image)
        return f"Authors' files: {args.text} and {args.image}"
    return f"Adapters: {convert_from_authors(args.text, args.image, args.out, _facts('aaclip', args))}"


def _convert_prompts(method: str, args: argparse.Namespace) -> str:
    from anoclip_anomalib.clip import load_clip
    from anoclip_anomalib.promptlearning.authors_files import PromptSize, convert_from_authors

    log_to_stderr()
    own, clip, size = PROMPT_METHODS[method], None, None
    if own.learned == "prompts":
        size = PromptSize(args.context, args.depth, args.deep_tokens)
        clip = None if args.unchecked else load_clip(args.backbone, args.pretrained, activation=args.activation)
    return f"Adapters: {convert_from_authors(own, args.checkpoint, args.out, _facts(method, args), clip=clip, size=size)}"
