"""``anoclip train aaclip``: a method's adapters from a source of labelled images."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from anoclip_anomalib.aaclip.settings import IMAGE_STAGE, TEXT_STAGE, Recipe, StageName, StageSettings
from anoclip_anomalib.cli.parser import Parser
from anoclip_anomalib.data.sources import DataSpec, Source, read_source, read_yaml
from anoclip_anomalib.running.signals import run_command

HELP = "Train adapters for AaClip on labelled images of another data set; resumable."
METHODS = ("aaclip",)
_STAGE_HELP = {
    "epochs": "passes over the source",
    "batch_size": "images in a step of one device",
    "lr": "of Adam",
    "betas": "of Adam",
    "schedule": "of the learning rate",
    "milestones": "steps at which --*.schedule milestones halves the rate",
    "warmup": "steps over which the rate rises",
    "hold": "part of the steps that --*.schedule cosine waits before the rate falls",
    "average": "decay of a moving average of the weights, which is then kept; 0 for none",
    "sizes": "sides in pixels that batches are scaled to in turn",
    "loss": "segmentation loss; balanced is for small defects",
    "detection_scale": "factor of the products in the detection loss",
    "jitter": "largest change of brightness, contrast and saturation",
}


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = Parser(
        prog="anoclip train aaclip",
        description=HELP,
        epilog="Exit code: 0 done, 1 the training failed (the loss was not finite), 2 bad input, 130 or 143 interrupted; the "
        "same command goes on. A checkpoint of each epoch is kept in OUT.checkpoints.",
        allow_abbrev=False,
    )
    parser.add_argument("--source", required=True, metavar="YAML", help="what to train on, see configs/sources/")
    parser.add_argument("--root", metavar="FOLDER", help="where the source's data lies, instead of the root in the YAML")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the .safetensors to write")
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
    parser.add_argument("--taps", type=int, nargs="+", metavar="BLOCK", help="where patches are read (default: the quarters)")
    for stage, settings in (("text", TEXT_STAGE), ("image", IMAGE_STAGE)):
        group = parser.add_argument_group(f"{stage} stage")
        for field in fields(StageSettings):
            _add(group, f"--{stage}.{field.name.replace('_', '-')}", field, getattr(settings, field.name))
    group = parser.add_argument_group("where it runs")
    group.add_argument("--accelerator", default="auto", help="Lightning's (default: %(default)s)")
    group.add_argument("--devices", default="1", help="Lightning's; several train together (default: %(default)s)")
    group.add_argument("--precision", choices=("32", "16-mixed", "bf16-mixed"), default="32", help="(default: %(default)s)")
    group.add_argument("--accumulate", type=int, default=1, metavar="BATCHES", help="to a step (default: %(default)s)")
    group.add_argument("--checkpointing", action="store_true", help="less memory, more time: blocks are computed twice")
    group.add_argument("--num-workers", type=int, default=0, help="processes that read (default: %(default)s)")
    group.add_argument(
        "--cache-features", action="store_true",
        help="compute the first stage's frozen features once and keep them on disk (8 MB an image at 518 pixels); its images "
        "are then not varied",
    )  # fmt: skip
    return parser


def _add(group: Any, flag: str, field: Any, default: Any) -> None:
    kind = field.type
    options: dict[str, Any] = {"default": default, "dest": flag.removeprefix("--").replace("-", "_"), "metavar": "N"}
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    options["help"] = f"{_STAGE_HELP[field.name]} (default: {shown if shown != '' else 'none'})"
    if get_origin(kind) is Literal:
        options |= {"choices": get_args(kind), "metavar": None}
    elif get_origin(kind) is tuple:
        options |= {"type": get_args(kind)[0], "nargs": "*"}
    else:
        options["type"] = kind
    group.add_argument(flag, **options)


def main(argv: list[str]) -> int:
    """Run the command.

    Args:
        argv: The words after ``anoclip train``, the method first.

    Returns:
        The exit code.
    """
    if argv[0] not in METHODS:
        print(
            f"anoclip train: there is no method {argv[0]!r} to train; known: {', '.join(METHODS)} "
            "(anomalib's own training is called with --model NAME)",
            file=sys.stderr,
        )
        return 2
    args = build_parser().parse_args(argv[1:])
    try:
        recipe, source = _checked(args)
    except (ValueError, FileNotFoundError) as error:
        print(f"anoclip train: {error}", file=sys.stderr)
        return 2
    return run_command("anoclip train", lambda: _train(args, recipe, source))


def _checked(args: argparse.Namespace) -> tuple[Recipe, Source]:
    """Everything that can be checked without torch."""
    if args.out.suffix != ".safetensors":
        msg = f"--out must be a .safetensors, not {args.out}"
        raise ValueError(msg)
    if args.stage != "image" and args.text:
        msg = "--text is for --stage image; the text stage makes a text half of its own"
        raise ValueError(msg)
    for name in ("accumulate", "num_workers"):
        if getattr(args, name) < (1 if name == "accumulate" else 0):
            msg = f"--{name.replace('_', '-')} {getattr(args, name)} is too small"
            raise ValueError(msg)
    if args.root is not None and not Path(args.root).is_dir():
        msg = f"--root: no such folder: {args.root}"
        raise ValueError(msg)
    source = read_source(args.source, root=args.root)
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
    content = read_yaml(Path(path), "file of descriptions")
    for name, texts in content.items():
        if not isinstance(name, str) or not (isinstance(texts, str) or (isinstance(texts, list) and texts)):
            msg = f"{path}: {name!r} must be a class with a description or a list of them; got {texts!r}"
            raise ValueError(msg)
    return content


def _train(args: argparse.Namespace, recipe: Recipe, source: Source) -> int:
    from anoclip_anomalib.aaclip.train import Machine, train
    from anoclip_anomalib.clip import WeightsUnavailableError
    from anoclip_anomalib.running.quiet import log_to_stderr, quiet

    log_to_stderr()
    with quiet():
        machine = Machine(
            accelerator=args.accelerator,
            devices=int(args.devices) if args.devices.isdigit() else args.devices,
            precision=args.precision,
            accumulate=args.accumulate,
            checkpointing=args.checkpointing,
            num_workers=args.num_workers,
            cache_features=args.cache_features,
            progress=sys.stdout.isatty(),
        )
        stages: tuple[StageName, ...] = ("text", "image") if args.stage == "both" else (args.stage,)
        try:
            out = train(recipe, _data(source, recipe), args.out, stages=stages, text_from=args.text, machine=machine)
        except FloatingPointError as error:
            print(f"anoclip train: {error}", file=sys.stderr)
            return 1
        except (ValueError, OSError, RuntimeError, WeightsUnavailableError) as error:
            print(f"anoclip train: {error}", file=sys.stderr)
            return 2
    print(f"Adapters: {out}")
    return 0


def _data(source: Source, recipe: Recipe):  # noqa: ANN202 - imported late
    """The images of a source: files are looked up, drawn ones are prepared."""
    from anoclip_anomalib.aaclip.train import Data
    from anoclip_anomalib.comparison.suite import catalogue
    from anoclip_anomalib.comparison.suite.suite import ClassSpec
    from anoclip_anomalib.data.samples import labelled_samples

    def build(spec: DataSpec, category: str | None) -> Any:
        arguments = spec.init_args | ({"category": category} if category is not None else {})
        found = catalogue.find_class("data", spec.class_path)
        faults = catalogue.unknown_arguments(found, arguments)
        if faults:
            raise ValueError("; ".join(faults))
        return catalogue.instantiate("data", ClassSpec(catalogue.full_path(found), arguments))

    samples = []
    for spec in source.data:
        found = catalogue.find_class("data", spec.class_path)
        root = Path(spec.init_args["root"]) if "root" in spec.init_args else None
        if root is not None and not root.is_dir():
            msg = f"The source {source.name} needs its data in {root}, which does not exist; name its folder with --root"
            raise ValueError(msg)
        categories = spec.categories
        if root is not None and catalogue.takes(found, "category"):
            categories = _present(spec, root, catalogue.constant_categories(found) or catalogue.folder_categories(root))
        samples += labelled_samples(spec, build, categories)
    if source.generated is None:
        return Data(source=source, samples=samples)
    from anoclip_anomalib.data.drawn import drawn_parts

    largest = max([recipe.image_size, *recipe.image.sizes, *recipe.text.sizes])
    drawn, photos = drawn_parts(source.generated, largest, source.seed)
    return Data(source=source, samples=samples, drawn=drawn, photos=photos)


def _present(spec: DataSpec, root: Path, known: Sequence[str]) -> tuple[str, ...]:
    """The categories that are wanted and on disk: anomalib would download the whole data set for one that is missing."""
    wanted = spec.categories or known
    # VisA as anomalib prepares it lies in a folder of its own.
    present = [name for name in wanted if any((root / base / name).is_dir() for base in ("", "visa_pytorch"))]
    missing = [name for name in spec.categories if name not in present]
    if missing or not present:
        what = f"no {missing[0]!r}" if missing else "no category"
        msg = f"{root} has {what} of {spec.class_path}; name its folder with --root"
        raise ValueError(msg)
    return tuple(present)
