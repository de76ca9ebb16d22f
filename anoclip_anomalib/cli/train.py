"""``anoclip train METHOD``: learned weights from a source of labelled images; here AA-CLIP's."""

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

from anoclip_anomalib.aaclip.settings import IMAGE_STAGE, TEXT_STAGE, ClassToken, Projections, Recipe, StageName, StageSettings
from anoclip_anomalib.checks import did_you_mean
from anoclip_anomalib.cli import train_prompts
from anoclip_anomalib.cli import train_shared as shared
from anoclip_anomalib.cli.parser import Parser, refused
from anoclip_anomalib.data.sources import Source
from anoclip_anomalib.files import read_yaml

HELP = "Train adapters for AaClip on labelled images of another data set; resumable."
METHODS = ("aaclip", "prompts")
_STAGES = {"text": TEXT_STAGE, "image": IMAGE_STAGE}
_STAGE_HELP = shared.SETTINGS_HELP | {
    "sizes": "sides in pixels that batches are scaled to in turn",
    "loss": "segmentation loss; balanced is for small defects",
    "pairs": "weight of what compares both images of a generated part, with loss balanced",
    "detection_scale": "factor of the products in the detection loss",
    "jitter": "largest change of brightness, contrast and saturation",
}


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = Parser(prog="anoclip train aaclip", description=HELP, epilog=shared.EXIT_CODES, allow_abbrev=False)
    shared.add_source(parser)
    add, own, default = parser.add_argument, Recipe(), "(default: %(default)s)"
    add("--stage", choices=("both", "text", "image"), default="both", help=default)
    add("--text", metavar="FILE", help="text half for --stage image: a file, or clip for plain CLIP's anchors")
    add("--descriptions", metavar="YAML", help="class: description, or a list of them; for the prompts")
    add("--mode", choices=("clean", "reference"), default=own.mode, help=default)
    shared.add_recipe(parser, own, activation="of CLIP's MLPs")
    add("--text-mixing", type=float, default=own.text_mixing, help=f"of the adapters {default}")
    add("--image-mixing", type=float, default=own.image_mixing, help=f"of the adapters {default}")
    add("--text-adapters", type=int, metavar="BLOCKS", help="adapted blocks (default: the first quarter)")
    add("--image-adapters", type=int, metavar="BLOCKS", help="adapted blocks (default: a quarter, at least 6)")
    begin = f"where those of the image half begin {default}"
    add("--projections", choices=get_args(Projections), default=own.projections, help=begin)
    share = f"of the class token in the detection vector {default}"
    add("--class-share", type=float, default=own.class_share, help=share)
    weight = "of the detection vector in the image score (default: 0.5, or what the balanced loss trains it to)"
    add("--image-weight", type=float, metavar="SHARE", help=weight)
    add("--class-token", choices=get_args(ClassToken), default=own.class_token, help=f"which one {default}")
    scales = "of the image size, at which images are read at test time (default: 1)"
    add("--scales", type=float, nargs="+", default=own.scales, metavar="SHARE", help=scales)
    add("--taps", type=int, nargs="+", metavar="BLOCK", help="where patches are read (default: the quarters)")
    for stage, settings in _STAGES.items():
        group = parser.add_argument_group(f"{stage} stage")
        for field in fields(StageSettings):
            flag = f"--{stage}.{field.name.replace('_', '-')}"
            shared.add_field(group, flag, field, getattr(settings, field.name), _STAGE_HELP[field.name])
    cached = (
        "compute the first stage's frozen features once and keep them on disk (8 MB an image at 518 pixels); its images are "
        "then not varied"
    )
    shared.add_machine(parser, cached)
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
        return refused(
            f"anoclip train: there is no method {argv[0]!r} to train; known: {', '.join(METHODS)}{near} "
            "(anomalib's own training is called with --model NAME)"
        )
    return shared.check_and_train(build_parser().parse_args(argv[1:]), _checked, _train)


def _checked(args: argparse.Namespace) -> tuple[Recipe, Source]:
    """Everything that can be checked without torch."""
    if args.stage != "image" and args.text:
        raise ValueError("--text is for --stage image; the text stage makes a text half of its own")
    source = shared.checked_source(args)
    stages = {name: replace(own, **shared.given(args, StageSettings, f"{name}.")) for name, own in _STAGES.items()}
    recipe = Recipe(**shared.given(args, Recipe) | stages | {"descriptions": _descriptions(args.descriptions)})
    recipe.check()
    return recipe, source


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
    return shared.run_training(
        args,
        lambda machine: train(
            recipe, shared.images_of(source, largest), args.out, stages=stages, text_from=args.text, machine=machine
        ),
    )
