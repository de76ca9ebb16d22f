"""Classes by short name or full path, their arguments, and the categories of data sets."""

import importlib
import inspect
import sys
from contextlib import suppress
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from jsonargparse import ArgumentParser

from anoclip_anomalib.comparison.suite.suite import ClassSpec

KINDS = {  # kind -> what it is derived from, and the modules that short names stand for something in
    "model": ("anomalib.models:AnomalibModule", "anoclip_anomalib", "anomalib.models"),
    "data": ("anomalib.data:AnomalibDataModule", "anoclip_anomalib.data", "anomalib.data"),
    "callback": ("lightning.pytorch:Callback", "anoclip_anomalib", "anomalib.callbacks", "lightning.pytorch.callbacks"),
}


class UnknownClassError(ValueError):
    """A class that cannot be found, or is of the wrong kind."""


def base_class(kind: str) -> type:
    """The class that a model, data or callback must be derived from."""
    return resolve_name(KINDS[kind][0])


def find_class(kind: str, name: str) -> type:
    """Find a class.

    Args:
        kind: "model", "data" or "callback".
        name: Short name (anomalib's or ours) or full path.

    Raises:
        UnknownClassError: With the closest names.
    """
    base, modules = base_class(kind), KINDS[kind][1:]
    found: Any = None
    if "." in name:
        module, _, attribute = name.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), attribute, None)
        except Exception as error:  # noqa: BLE001 - whatever a module does when it is imported
            raise UnknownClassError(f'{kind} "{name}" cannot be imported: {error}') from error
    else:
        for module in modules:
            found = found or getattr(importlib.import_module(module), name, None)
    if found is None:
        known = sorted({name for module in modules for name in _names(module, base)})
        close = get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}, or a full class path"
        raise UnknownClassError(f'unknown {kind} "{name}"; {hint}')
    if not (inspect.isclass(found) and issubclass(found, base)):
        raise UnknownClassError(f'"{name}" is no {base.__name__}')
    return found


def _names(module: str, base: type) -> list[str]:
    loaded = importlib.import_module(module)
    values = {}
    for name in getattr(loaded, "__all__", None) or dir(loaded):
        with suppress(AttributeError, ImportError):
            values[name] = getattr(loaded, name)
    return [name for name, value in values.items() if inspect.isclass(value) and issubclass(value, base) and value is not base]


def full_path(found: type) -> str:
    """The path under which a class is imported."""
    return f"{found.__module__}.{found.__qualname__}"


def unknown_arguments(found: type, init_args: dict[str, Any]) -> dict[str, str]:
    """Arguments that the class does not take -> a fault with the closest ones it does."""
    parameters = inspect.signature(found).parameters
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values()):
        return {}
    unknown = [name for name in init_args if name not in parameters]
    close = {name: get_close_matches(name, parameters, n=2, cutoff=0.5) or list(parameters) for name in unknown}
    return {name: f'{found.__name__} has no argument "{name}" (it has: {", ".join(close[name])})' for name in unknown}


def takes(found: type, name: str) -> bool:
    """Whether a class has an argument of that name."""
    return name in inspect.signature(found).parameters


def _parser(kind: str) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(base_class(kind), kind, fail_untyped=False, required=True)
    return parser


def check_values(kind: str, spec: ClassSpec) -> str | None:
    """Check arguments against the class's types without creating anything; a fault in one line, or ``None``."""
    try:
        _parser(kind).parse_object({kind: asdict(spec)})
    except Exception as error:  # noqa: BLE001 - jsonargparse raises several kinds; all mean that the values do not fit
        # What it says of the class's own arguments stands between these two; without them all of it is the reason.
        reason = str(error).rpartition("Problem with given class_path")[2].partition("Given value type:")[0]
        lines = [line.strip(" -") for line in reason.splitlines() if line.strip()]
        return " ".join(lines[1:4] if "Problem with given class_path" in str(error) else lines[:3])[:400]
    return None


def instantiate(kind: str, spec: ClassSpec) -> Any:
    """Create the object, with conversions as on anomalib's command line (paths, tuples, nested classes)."""
    parser = _parser(kind)
    return parser.instantiate_classes(parser.parse_object({kind: asdict(spec)}))[kind]


def constant_categories(datamodule: type) -> tuple[str, ...]:
    """Categories that anomalib lists for a datamodule; () if it lists none."""
    module = importlib.import_module(datamodule.__module__)
    dataset = getattr(module, f"{datamodule.__name__}Dataset", None)
    sources = (module, sys.modules.get(getattr(dataset, "__module__", ""), None))
    names = ("CATEGORIES", f"{datamodule.__name__.upper()}_CATEGORIES")
    return next((tuple(found) for one in sources for name in names if (found := getattr(one, name, ()))), ())


def folder_categories(root: Path | None) -> tuple[str, ...]:
    """Sub-folders of a data root that hold a split."""
    if root is None or not root.is_dir():
        return ()
    splits = ("test", "test_public", "train")
    return tuple(sorted(f.name for f in root.iterdir() if f.is_dir() and any((f / split).is_dir() for split in splits)))


def known_categories(datamodule: type, root: Path | None) -> tuple[str, ...]:
    """Categories that exist: anomalib's list, unless none of it is on disk and other categories are (own data)."""
    listed, present = constant_categories(datamodule), folder_categories(root)
    return listed if set(listed) & set(present) else present or listed
