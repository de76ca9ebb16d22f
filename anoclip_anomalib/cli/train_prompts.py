"""``anoclip train prompts``: learned prompts or projections from a source of labelled images."""

import argparse
from dataclasses import fields, replace

from anoclip_anomalib.cli import train_shared as shared
from anoclip_anomalib.cli.parser import Parser
from anoclip_anomalib.data.sources import Source
from anoclip_anomalib.promptlearning.methods import METHODS
from anoclip_anomalib.promptlearning.settings import TRAINING, PromptRecipe
from anoclip_anomalib.zeroshot.training_settings import TrainingSettings

HELP = "Train prompts for PromptClip on labelled images of another data set; resumable."


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = Parser(prog="anoclip train prompts", description=HELP, epilog=shared.EXIT_CODES, allow_abbrev=False)
    parser.add_argument("--method", choices=tuple(METHODS), default="anomalyclip", help="(default: %(default)s)")
    shared.add_source(parser)
    own = PromptRecipe(method="anomalyclip", training=TRAINING["anomalyclip"])
    activation = "of CLIP's MLPs (default: gelu for adaclip and april-gan, as their authors have it, else as_trained)"
    shared.add_recipe(parser, own, activation)
    parser.add_argument("--taps", type=int, nargs="+", metavar="BLOCK", help="of adaclip and april-gan (default: the quarters)")
    parser.add_argument("--second-encoder", metavar="NAME", help="of crane-plus: timm's name (default: DINOv2 as the authors)")
    parser.add_argument("--second-pretrained", metavar="FILE", help="its weights (default: timm's)")
    group = parser.add_argument_group("steps (defaults are the authors', for --method anomalyclip)")
    for field in fields(TrainingSettings):
        flag, default = f"--{field.name.replace('_', '-')}", getattr(own.training, field.name)
        shared.add_field(group, flag, field, default, shared.SETTINGS_HELP[field.name])
    parser.set_defaults(**{field.name: None for field in fields(TrainingSettings)})
    group = parser.add_argument_group("knowledge prompts")
    known = "regularise learned prompts by what is commonly wrong with the source's products (a file, or what comes along)"
    group.add_argument("--knowledge", nargs="?", const=True, default=False, metavar="YAML", help=known)
    group.add_argument("--knowledge-weight", type=float, default=own.knowledge_weight, help="(default: %(default)s)")
    group.add_argument("--knowledge-margin", type=float, default=own.knowledge_margin, help="(default: %(default)s)")
    cached = (
        "compute what the frozen tower says once, on disk (2 MB an image at 518 pixels, 11 MB for april-gan); default: unless "
        "images are drawn anew in each epoch or, with adaclip, the tower is trained"
    )
    shared.add_machine(parser, cached, default=None)
    return parser


def main(argv: list[str]) -> int:
    """Run the command.

    Args:
        argv: The words after ``anoclip train prompts``.

    Returns:
        The exit code.
    """
    return shared.check_and_train(build_parser().parse_args(argv), _checked, _train)


def _checked(args: argparse.Namespace) -> tuple[PromptRecipe, Source]:
    """Everything that can be checked without torch."""
    source = shared.checked_source(args)
    steps = {name: value for name, value in shared.given(args, TrainingSettings).items() if value is not None}
    recipe = PromptRecipe(**shared.given(args, PromptRecipe), training=replace(TRAINING[args.method], **steps))
    recipe.check()
    if args.cache_features is None:
        args.cache_features = recipe.choice.text_is_static and source.generated is None
    return recipe, source


def _train(args: argparse.Namespace, recipe: PromptRecipe, source: Source) -> int:
    from anoclip_anomalib.promptlearning.train import train

    return shared.run_training(
        args, lambda machine: train(recipe, shared.images_of(source, recipe.image_size), args.out, machine=machine)
    )
