"""``anoclip train METHOD``: learned weights from a source of labelled images; here AA-CLIP's."""

import argparse
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

from anoclip_anomalib.aaclip.settings import IMAGE_STAGE, TEXT_STAGE, Projections, Recipe, StageName, StageSettings
from anoclip_anomalib.cli import train_prompts
from anoclip_anomalib.cli.early_checks import did_you_mean
from anoclip_anomalib.cli.parser import Parser
from anoclip_anomalib.cli.train_shared import (
    EXIT_CODES,
    SETTINGS_HELP,
    add_field,
    add_machine,
    add_source,
    check_and_train,
    checked_source,
    images_of,
    run_training,
)
from anoclip_anomalib.data.sources import Source
from anoclip_anomalib.files import read_yaml

HELP = "Train adapters for AaClip on labelled images of another data set; resumable."
METHODS = ("aaclip", "prompts")
_STAGE_HELP = SETTINGS_HELP | {
    "sizes": "sides in pixels that batches are scaled to in turn",
    "loss": "segmentation loss; balanced is for small defects",
    "pairs": "weight of what compares both images of a generated part, with loss balanced",
    "detection_scale": "factor of the products in the detection loss",
    "jitter": "largest change of brightness, contrast and saturation",
}


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = Parser(
        prog="anoclip train aaclip",
        description=HELP,
        epilog=EXIT_CODES,
        allow_abbrev=False,
    )
    add_source(parser)
    parser.add_argument("--stage", choices=("both", "text", "image"), default="both", help="(default: %(default)s)")
    parser.add_argument("--text", metavar="FILE", help="text half for --stage image: a file, or clip for plain CLIP's anchors")
    parser.add_argument("--descriptions", metavar="YAML", help="class: description, or a list of them; for the prompts")
    own = Recipe()
    parser.add_argument("--mode", choices=("clean", "reference"), default=own.mode, help="(default: %(default)s)")
    parser.add_argument("--backbone", default=own.backbone, help="(default: %(default)s)")
    parser.add_argument("--pretrained", help=f"(default: {own.pretrained}; of the demo backbone its own)")
    parser.add_argument("--activation", choices=("as_trained", "gelu", "quick_gelu"), help="of CLIP's MLPs")
    parser.add_argument("--image-size", type=int, default=own.image_size, help="in pixels (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=own.seed, help="(default: %(default)s)")
    parser.add_argument("--text-mixing", type=float, default=own.text_mixing, help="of the adapters (default: %(default)s)")
    parser.add_argument("--image-mixing", type=float, default=own.image_mixing, help="of the adapters (default: %(default)s)")
    parser.add_argument("--text-adapters", type=int, metavar="BLOCKS", help="adapted blocks (default: the first quarter)")
    parser.add_argument("--image-adapters", type=int, metavar="BLOCKS", help="adapted blocks (default: a quarter, at least 6)")
    parser.add_argument(
        "--projections", choices=get_args(Projections), default=own.projections,
        help="where those of the image half begin (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--class-share",
        type=float,
        default=own.class_share,
        help="of the class token in the detection vector (default: %(default)s)",
    )
    parser.add_argument("--taps", type=int, nargs="+", metavar="BLOCK", help="where patches are read (default: the quarters)")
    for stage, settings in (("text", TEXT_STAGE), ("image", IMAGE_STAGE)):
        group = parser.add_argument_group(f"{stage} stage")
        for field in fields(StageSettings):
            add_field(
                group,
                f"--{stage}.{field.name.replace('_', '-')}",
                field,
                getattr(settings, field.name),
                _STAGE_HELP[field.name],
            )
    add_machine(
        parser,
        "compute the first stage's frozen features once and keep them on disk (8 MB an image at 518 pixels); its images are "
        "then not varied",
    )
    return parser


def main(argv: list[str]) -> int:
    """Run the command.

    Args:
        argv: The words after ``anoclip train``, the method first.

    Returns:
        The exit code.
    """
    if argv[0] == "prompts":
        return train_prompts.main(argv[1:])
    if argv[0] not in METHODS:
        near = did_you_mean(argv[0], METHODS)
        print(
            f"anoclip train: there is no method {argv[0]!r} to train; known: {', '.join(METHODS)}{near} "
            "(anomalib's own training is called with --model NAME)",
            file=sys.stderr,
        )
        return 2
    return check_and_train(build_parser().parse_args(argv[1:]), _checked, _train)


def _checked(args: argparse.Namespace) -> tuple[Recipe, Source]:
    """Everything that can be checked without torch."""
    if args.stage != "image" and args.text:
        raise ValueError("--text is for --stage image; the text stage makes a text half of its own")
    source = checked_source(args)
    demo = args.backbone == "demo"
    stages = {
        stage: replace(settings, **{field.name: _value(args, stage, field) for field in fields(StageSettings)})
        for stage, settings in (("text", TEXT_STAGE), ("image", IMAGE_STAGE))
    }
    recipe = Recipe(
        backbone=args.backbone,
        pretrained=args.pretrained or ("demo" if demo else Recipe().pretrained),
        activation=args.activation,
        image_size=args.image_size,
        mode=args.mode,
        text=stages["text"],
        image=stages["image"],
        seed=args.seed,
        text_mixing=args.text_mixing,
        image_mixing=args.image_mixing,
        text_adapters=args.text_adapters,
        image_adapters=args.image_adapters,
        projections=args.projections,
        class_share=args.class_share,
        taps=tuple(args.taps) if args.taps else None,
        descriptions=_descriptions(args.descriptions),
    )
    recipe.check()
    return recipe, source


def _value(args: argparse.Namespace, stage: str, field: Any) -> Any:
    value = getattr(args, f"{stage}.{field.name}")
    return tuple(value) if isinstance(value, list) else value


def _descriptions(path: str | None) -> dict[str, str | list[str]]:
    if path is None:
        return {}
    content = read_yaml(Path(path), "file of descriptions", "configs/ has examples")
    for name, texts in content.items():
        if not isinstance(name, str) or not (isinstance(texts, str) or (isinstance(texts, list) and texts)):
            raise ValueError(f"{path}: {name!r} must be a class with a description or a list of them; got {texts!r}")
    return content


def _train(args: argparse.Namespace, recipe: Recipe, source: Source) -> int:
    from anoclip_anomalib.aaclip.train import train

    stages: tuple[StageName, ...] = ("text", "image") if args.stage == "both" else (args.stage,)
    largest = max(side for stage in stages for side in getattr(recipe, stage).sizes or (recipe.image_size,))
    return run_training(
        args,
        lambda machine: train(
            recipe, images_of(source, largest), args.out, stages=stages, text_from=args.text, machine=machine
        ),
    )
