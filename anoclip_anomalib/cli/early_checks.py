"""Names, folders and files of a command line, looked at before anything that takes seconds is imported.

Only what is certainly wrong is told; the rest is left to those who know it: anomalib's parser, the suite's reader, the model.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from anoclip_anomalib.checks import closest, did_you_mean
from anoclip_anomalib.cli.known_names import Kind, Known, arguments_of, backbones, known, listed

WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.xz", ".txz")
# Where the arguments of a command's own method are, and those that its options do not include.
_TRAINER, _ENGINE = ("lightning.pytorch.trainer.trainer", "Trainer"), ("anomalib.engine.engine", "Engine")
_METHODS = dict.fromkeys(("test", "validate", "fit"), _TRAINER) | dict.fromkeys(("train", "predict", "export"), _ENGINE)
_NOT_OPTIONS = ("datamodule", "dataset", "data_path", "weights_only")
_SHARED = ("help", "config", "print_config", "seed_everything", "trainer", "model", "data", "logging", "default_root_dir")
_OF_TRAINING = ("optimizer", "lr_scheduler")
_EXPORT_NEEDS: dict[str, tuple[str, ...]] = {"torch": (), "onnx": ("onnx",), "openvino": ("onnx", "openvino")}
INSTALL_EXPORT = "pip install 'anoclip_anomalib[export]' brings what exports need"


class InputError(ValueError):
    """What was given cannot be used; the message says what would be."""


def check_command(command: str, words: Sequence[str]) -> None:
    """Check the words of one of anomalib's commands.

    Args:
        command: ``test``, ``predict``, ...
        words: What follows it.

    Raises:
        InputError: For a name, folder or file that does not exist, and a package that an export needs and is not there.
    """
    options = _options(words)
    if command in _METHODS:
        for name, _ in options:
            _check_option(command, name)
        given = {name.partition(".")[0] for name, _ in options}
        if "help" in given or any(name.endswith(".help") for name, _ in options):
            return
        for need, example in (("model", "AnoClip"), ("data", "FOLDER"))[: 2 if command == "predict" else 1]:
            if need not in given and not given & {"config", "print_config"}:
                raise InputError(f"--{need} is missing, for instance --{need} {example}")
    wanted = str(dict(options).get("export_type", "torch")) if command == "export" else "torch"
    if wanted not in _EXPORT_NEEDS:
        raise InputError(f"--export_type {wanted} is unknown: {', '.join(_EXPORT_NEEDS)}{did_you_mean(wanted, _EXPORT_NEEDS)}")
    for package in _EXPORT_NEEDS[wanted]:
        if find_spec(package) is None:
            raise InputError(f"the package {package} is not installed; {INSTALL_EXPORT}")
    check_model_and_data(options, command)


def check_model_and_data(options: Iterable[tuple[str, Any]], command: str = "") -> None:
    """Check options of anomalib's that name a model, data, or files of theirs; others are passed over.

    Args:
        options: Names, such as ``model.backbone``, with their values.
        command: Where a folder may stand in place of a data set: ``predict``.

    Raises:
        InputError: For a name, folder or file that does not exist.
    """
    given = [pair for name, value in options for pair in _expanded(name, value)]
    for name, value in given:
        if name == "ckpt_path" and isinstance(value, str) and value.endswith(WEIGHTS):
            check_file(f"--{name}", value)
    for kind in ("model", "data"):
        prefix = re.compile(rf"{kind}\.(init_args\.)?")
        own = {prefix.sub("", name, count=1): value for name, value in given if prefix.match(name)}
        chosen = [value for name, value in given if name == kind] + [own.pop("class_path", None)]
        named = next((value for value in reversed(chosen) if isinstance(value, str)), None)
        found = find_class(kind, named, or_folder=kind == "data" and command == "predict") if named else None
        if found:
            for name, value in own.items():
                check_argument(kind, found, name.rstrip("+").partition(".")[0], value)
            if kind == "data":
                _check_data(found, own)


def check_own(words: Sequence[str]) -> None:
    """Check the options that our own commands share with anomalib's, or name an encoder.

    Args:
        words: What follows ``anoclip``.

    Raises:
        InputError: For a name, folder or file that does not exist.
    """
    options = [(name, value) for name, value in _options(words) if value is not None]
    for name, value in options:
        if name == "backbone":
            _check_backbone(str(value))
    if "model-card" not in words:  # where --model is one of a comparison's
        check_model_and_data(options)


def own_options(command: str) -> tuple[str, ...]:
    """The first parts of the options that one of anomalib's commands takes."""
    own = [one for one in arguments_of(*_METHODS[command], command) if one not in _NOT_OPTIONS and "dataloaders" not in one]
    return (*_SHARED, *own, *(("ov_kwargs",) if command == "export" else () if command == "predict" else _OF_TRAINING))


def no_such_path(path: str | Path, *, folder: bool = False) -> str:
    """That a file or folder does not exist, and which one beside it is meant perhaps."""
    path = above = Path(path)
    while not above.parent.exists() and above.parent != above:
        above = above.parent
    beside = [one.name for one in above.parent.iterdir() if one.is_dir() or not folder] if above.parent.is_dir() else []
    near = closest(above.name, beside)
    kind = "folder" if folder else "file"
    return f"there is no {kind} {path}" + (f"; did you mean {above.parent / near}?" if near else "")


def _options(words: Sequence[str]) -> list[tuple[str, str | None]]:
    """Options with the word after them, if it is a value."""
    options: list[tuple[str, str | None]] = []
    for index, word in enumerate(words):
        word = {"-c": "--config", "-h": "--help"}.get(word, word)
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            after = words[index + 1] if index + 1 < len(words) and not words[index + 1].startswith("--") else None
            options.append((name, value if equals else after))
    return options


def _expanded(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """An option, or those that a configuration file holds."""
    if name != "config" or not isinstance(value, str):
        yield name, value
        return
    if value.lstrip().startswith("{"):
        return
    check_file("--config", value)
    try:
        content = yaml.safe_load(Path(value).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"--config: {value} is not valid YAML: {' '.join(str(error).split())}") from error
    for part in ("model", "data"):
        section = content.get(part) if isinstance(content, dict) else None
        if isinstance(section, str):
            yield part, section
        elif isinstance(section, dict):
            inner = section.pop("init_args", None)
            yield from ((f"{part}.{key}", one) for key, one in (section | (inner if isinstance(inner, dict) else {})).items())


def _check_option(command: str, name: str) -> None:
    """Tell a misspelt option that has a near one; what is near to nothing may be anything."""
    first, _, rest = name.rstrip("+").partition(".")
    first_names = own_options(command)
    if first not in first_names:
        near = closest(first, first_names, 0.75)
        if near and not any(one.startswith(first) for one in first_names):
            raise InputError(f"there is no option --{name}; did you mean --{near}{'.' + rest if rest else ''}?")
    elif first == "trainer" and rest:
        trainers, argument = arguments_of(*_TRAINER), rest.partition(".")[0]
        if argument not in {*trainers, "help"} and (near := closest(argument, trainers, 0.75)):
            raise InputError(f"there is no option --{name}; did you mean --trainer.{near}?")


def find_class(kind: Kind, named: str, *, or_folder: bool = False) -> Known | None:
    """The class of a short name or of a path below anomalib or this package; ``None`` for what cannot be known here.

    Raises:
        InputError: For a short name that does not exist, with the nearest one.
    """
    module, _, short = named.rpartition(".")
    names = known(kind)
    if short in names and re.fullmatch(r"(anomalib|anoclip_anomalib)(\.\w+)*|", module):
        return names[short]
    if or_folder:
        if Path(named).exists() or re.fullmatch(r"\w+Dataset|\w+(\.\w+)+", named):
            return None
        if re.fullmatch(r"\w+", named) and (near := closest(named, names)):
            raise InputError(f"--data: there is no folder and no data set {named}; did you mean {near}?")
        raise InputError(f"--data: {no_such_path(named, folder=True)}")
    modules = ("", "anoclip_anomalib", "anomalib.models", "anomalib.data", "anoclip_anomalib.data")
    if module not in modules or not re.fullmatch(r"\w+(\.\w+)*", named):
        return None
    near, theirs = closest(short, names), listed(kind, ours=False)
    hint = f"did you mean {near}?" if near else f"known: {listed(kind)}; anomalib's: {theirs}; or a full class path"
    raise InputError(f'unknown {"data set" if kind == "data" else "model"} "{named}"; {hint}')


def check_argument(kind: Kind, found: Known, name: str, value: Any) -> None:
    """Check an argument's name and, of a number, choice, file, folder or encoder, its value; ``None`` is not looked at.

    Raises:
        InputError: For what does not exist, and a value of the wrong type.
    """
    unknown = name not in found.options and name not in ("help", "dict_kwargs", "init_args")
    if unknown and not found.takes_more:
        near = closest(name, found.options, 0.5)
        hint = f"did you mean {near}?" if near else f"it has: {', '.join(found.options)}"
        raise InputError(f'{found.name} has no argument "{name}"; {hint}')
    if unknown or value is None:
        return
    check_value(found, name, value)
    if not isinstance(value, str):
        return
    if kind == "model" and value.endswith(WEIGHTS) and "://" not in value and not value.startswith("hf-hub:"):
        check_file(f"--model.{name}", value)
    if kind == "model" and name == "normal_images" and not Path(value).is_dir():
        raise InputError(f"--model.{name}: {no_such_path(value, folder=True)}")
    if found.ours and name == "backbone":
        _check_backbone(value)


def check_value(found: Known, name: str, value: Any) -> None:
    """Raise an ``InputError`` for a value that is no number or choice where an argument takes nothing else."""
    option = found.options.get(name)
    if option and not option.takes(value):
        near = did_you_mean(str(value), re.findall(r"[\w.-]+", option.kind)) if "{" in option.kind else ""
        raise InputError(f"{found.name}: {name} is {option.kind.replace(' | ', ' or ')}, not {value}{near}")


def _check_backbone(name: str) -> None:
    if name not in backbones() and not name.startswith("hf-hub:"):
        near = get_close_matches(name, backbones(), n=3, cutoff=0.4)
        hint = f"closest names: {', '.join(near)}" if near else f"known: {', '.join(backbones())}"
        raise InputError(f"Unknown backbone {name!r}; {hint}")


def _check_data(found: Known, own: dict[str, Any]) -> None:
    """Before anomalib makes a folder and downloads a data set into it for a misspelt root or category."""
    root, category = own.get("root"), own.get("category")
    folder = Path(root) if isinstance(root, str) and not found.draws_itself else None
    default = found.default("root") or ""
    if folder is not None and not folder.is_dir() and root != default:
        fault = no_such_path(folder, folder=True)
        raise InputError(f"--data.root: {fault} (where a data set shall be downloaded to, make an empty folder first)")
    if not isinstance(category, str):
        return
    base = folder or Path(default)
    inside = [*base.iterdir()] if base.is_dir() else []
    here = sorted(one.name for one in inside if one.is_dir() and not one.name.startswith("."))
    if any((base / inner / category).is_dir() for inner in ("", *here)):
        return
    if found.categories and category not in found.categories:
        near = closest(category, [*found.categories, *here])
        hint = f"did you mean {near}?" if near else f"it has: {', '.join(found.categories)}"
        raise InputError(f'{found.name} has no category "{category}"; {hint}')
    archived = any(one.name.endswith(_ARCHIVES) for one in inside)
    if folder is not None and here and not archived and found.looks_for_category:
        raise InputError(f"--data.root: {folder} has no folder {category}; it has: {', '.join(here[:20])}")


def check_file(what: str, path: str) -> None:
    """Raise an ``InputError`` unless a file exists."""
    if not Path(path).is_file():
        raise InputError(f"{what}: {no_such_path(path)}")
