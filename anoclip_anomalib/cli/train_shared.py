"""What the commands that train share: where it runs, what it trains on, and which errors are whose."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from anoclip_anomalib.cli.parser import refused
from anoclip_anomalib.data.sources import DataSpec, Source, read_source
from anoclip_anomalib.running.signals import run_command
from anoclip_anomalib.zeroshot.training_settings import TrainingRecipe

if TYPE_CHECKING:
    from anoclip_anomalib.zeroshot.train import Data, Machine

EXIT_CODES = (
    "Exit code: 0 done, 1 the training failed (the loss was not finite), 2 bad input, 130 or 143 interrupted; the same command "
    "goes on. A checkpoint of each epoch is kept in OUT.checkpoints."
)
SETTINGS_HELP = {
    "epochs": "passes over the source",
    "batch_size": "images in a step of one device",
    "lr": "of Adam",
    "betas": "of Adam",
    "schedule": "of the learning rate",
    "milestones": "steps at which the schedule of that name halves the rate",
    "warmup": "steps over which the rate rises",
    "hold": "part of the steps that schedule cosine waits before the rate falls",
    "average": "decay of a moving average of the weights, which is then kept; 0 for none",
    "normal_aware": "weight of a loss by which every normal text of a batch is right for every normal image; 0 for none",
}
"""Of the fields of :class:`anoclip_anomalib.zeroshot.training_settings.TrainingSettings`."""


def add_source(parser: argparse.ArgumentParser) -> None:
    """What to train on, and the file to write."""
    parser.add_argument("--source", required=True, metavar="YAML", help="what to train on, see configs/sources/")
    parser.add_argument("--root", metavar="FOLDER", help="where the source's data lies, instead of the root in the YAML")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the .safetensors to write")


def add_recipe(parser: argparse.ArgumentParser, recipe: TrainingRecipe, activation: str) -> None:
    """The fields that every recipe has.

    Args:
        parser: The command's.
        recipe: With the defaults.
        activation: What is said of it.
    """
    add, default = parser.add_argument, "(default: %(default)s)"
    add("--backbone", default=recipe.backbone, help=default)
    add("--pretrained", default=recipe.pretrained, help="(default: %(default)s; of the demo backbone its own)")
    add("--activation", choices=("as_trained", "gelu", "quick_gelu"), help=activation)
    add("--image-size", type=int, default=recipe.image_size, help=f"in pixels {default}")
    add("--seed", type=int, default=recipe.seed, help=default)


def add_machine(parser: argparse.ArgumentParser, cached: str, *, default: bool | None = False) -> None:
    """Where it runs.

    Args:
        parser: The command's.
        cached: What ``--cache-features`` does.
        default: Of it; ``None`` for what the command decides.
    """
    group = parser.add_argument_group("where it runs")
    group.add_argument("--accelerator", default="auto", help="Lightning's (default: %(default)s)")
    group.add_argument("--devices", default="1", help="Lightning's; several train together (default: %(default)s)")
    group.add_argument("--precision", choices=("32", "16-mixed", "bf16-mixed"), default="32", help="(default: %(default)s)")
    group.add_argument("--accumulate", type=int, default=1, metavar="BATCHES", help="to a step (default: %(default)s)")
    group.add_argument("--checkpointing", action="store_true", help="less memory, more time: blocks are computed twice")
    group.add_argument("--num-workers", type=int, default=0, help="processes that read (default: %(default)s)")
    group.add_argument("--cache-features", action=argparse.BooleanOptionalAction, default=default, help=cached)


def add_field(group: Any, flag: str, field: Any, default: Any, text: str) -> None:
    """A field of settings as an option, its default in the help."""
    kind, inner = get_origin(field.type), get_args(field.type)
    options: dict[str, Any] = {"type": field.type, "metavar": "N"}
    if kind is Literal:
        options = {"choices": inner}
    elif kind is tuple:
        options |= {"type": inner[0], "nargs": "*"}
    shown = " ".join(map(str, default)) if kind is tuple else default
    text = f"{text} (default: {shown if shown != '' else 'none'})"
    group.add_argument(flag, default=default, dest=flag.removeprefix("--").replace("-", "_"), help=text, **options)


def checked_source(args: argparse.Namespace) -> Source:
    """The source, after what can be checked without torch.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: For the first argument that cannot be used.
    """
    if args.out.suffix != ".safetensors":
        raise ValueError(f"--out must be a .safetensors, not {args.out}")
    for name in ("accumulate", "num_workers"):
        if getattr(args, name) < (1 if name == "accumulate" else 0):
            raise ValueError(f"--{name.replace('_', '-')} {getattr(args, name)} is too small")
    if args.root is not None and not Path(args.root).is_dir():
        raise ValueError(f"--root: no such folder: {args.root}")
    return read_source(args.source, root=args.root)


def given(args: argparse.Namespace, kind: type, prefix: str = "") -> dict[str, Any]:
    """What was given for the fields of a dataclass, lists as tuples.

    Args:
        args: As they were parsed.
        kind: The dataclass.
        prefix: Before the fields' names in the options.
    """
    values = {field.name: getattr(args, prefix + field.name) for field in fields(kind) if hasattr(args, prefix + field.name)}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def check_and_train(
    args: argparse.Namespace,
    check: Callable[[argparse.Namespace], tuple[Any, Source]],
    train: Callable[[argparse.Namespace, Any, Source], int],
) -> int:
    """Check without torch, one line for what is wrong, then train.

    Args:
        args: As they were given.
        check: Arguments -> recipe and source.
        train: Trains, and returns the exit code.

    Returns:
        The exit code.
    """
    try:
        recipe, source = check(args)
    except (ValueError, FileNotFoundError) as error:
        return refused(f"anoclip train: {error}")
    return run_command("anoclip train", lambda: train(args, recipe, source))


def run_training(args: argparse.Namespace, call: Callable[["Machine"], Path]) -> int:
    """Train quietly, one line for what went wrong.

    Args:
        args: With the options of :func:`add_machine`.
        call: Trains on a machine and returns the file.

    Returns:
        The exit code.
    """
    from anoclip_anomalib.running.quiet import log_to_stderr, quiet
    from anoclip_anomalib.zeroshot.train import Machine, writes_results

    log_to_stderr()
    with quiet():
        given = {field.name: getattr(args, field.name) for field in fields(Machine) if field.name != "progress"}
        given["devices"] = int(args.devices) if args.devices.isdigit() else args.devices
        try:
            out = call(Machine(**given, progress=sys.stderr.isatty()))
        except (FloatingPointError, ValueError, OSError, RuntimeError) as error:
            print(f"anoclip train: {error}", file=sys.stderr)
            return 1 if isinstance(error, FloatingPointError) else 2
    if writes_results():  # of several processes one says so
        print(f"Adapters: {out}")
    return 0


def images_of(source: Source, largest: int) -> "Data":
    """The images of a source: files are looked up, drawn ones are prepared up to a size."""
    from anoclip_anomalib.comparison.suite import catalogue
    from anoclip_anomalib.comparison.suite.suite import ClassSpec
    from anoclip_anomalib.data.samples import labelled_samples
    from anoclip_anomalib.zeroshot.train import Data

    def build(spec: DataSpec, category: str | None) -> Any:
        arguments = spec.init_args | ({"category": category} if category is not None else {})
        found = catalogue.find_class("data", spec.class_path)
        faults = catalogue.unknown_arguments(found, arguments)
        if faults:
            raise ValueError("; ".join(faults.values()))
        return catalogue.instantiate("data", ClassSpec(catalogue.full_path(found), arguments))

    samples = []
    for spec in source.data:
        found = catalogue.find_class("data", spec.class_path)
        root = Path(spec.init_args["root"]) if "root" in spec.init_args else None
        if root is not None and not root.is_dir():
            missing = f"needs its data in {root}, which does not exist"
            raise ValueError(f"The source {source.name} {missing}; name its folder with --root")
        categories = spec.categories
        if root is not None and catalogue.takes(found, "category"):
            categories = _present(spec, root, catalogue.constant_categories(found) or catalogue.folder_categories(root))
        samples += labelled_samples(spec, build, categories)
    if source.generated is None:
        return Data(source=source, samples=samples)
    from anoclip_anomalib.data.drawn import drawn_parts

    drawn, photos = drawn_parts(source.generated, largest, source.seed)
    return Data(source=source, samples=samples, drawn=drawn, photos=photos)


def _present(spec: DataSpec, root: Path, known: Sequence[str]) -> tuple[str, ...]:
    """The categories that are wanted and on disk: anomalib would download the whole data set for one that is missing."""
    # VisA as anomalib prepares it lies in a folder of its own.
    present = [one for one in spec.categories or known if any((root / base / one).is_dir() for base in ("", "visa_pytorch"))]
    missing = [repr(name) for name in spec.categories if name not in present]
    if missing or not present:
        what = missing[0] if missing else "category"
        raise ValueError(f"{root} has no {what} of {spec.class_path}; name its folder with --root")
    return tuple(present)
