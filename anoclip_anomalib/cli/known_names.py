"""Models and data sets with their options, read from the sources of the installed packages: importing them takes seconds."""

import ast
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import yaml

from anoclip_anomalib.registry import PACKAGE, PUBLIC

Kind = Literal["model", "data"]
_BASES = {"model": "AnomalibModule", "data": "AnomalibDataModule"}
_CLASS = re.compile(r"^class (\w+)\(([^)]*)\)", re.MULTILINE)
# An entry of a docstring's section, and the lines after it that are indented further.
_ENTRY = re.compile(r"^ {4}(\w+)(?: \([^)]*\))?:\s*(.*(?:\n(?! {4}\S).*)*)", re.MULTILINE)


@dataclass(frozen=True)
class Option:
    """An argument of a class or function.

    Attributes:
        name: Its name.
        kind: Its type as the source has it; choices as ``{a,b}``.
        default: Its default as the source has it; ``None`` if it must be given.
        text: What the docstring says of it.
    """

    name: str
    kind: str
    default: str | None
    text: str

    def takes(self, value: Any) -> bool:
        """Whether a value, or the text of one, may be right; it may wherever the type is more than numbers and choices."""
        with suppress(yaml.YAMLError):
            value = yaml.safe_load(value) if isinstance(value, str) else value
        types = self.kind.split(" | ")
        if not all(one in _FITS or one.startswith("{") for one in types) or str(value).startswith(("$", "(")):
            return True
        return any(_FITS[one](value) if one in _FITS else str(value) in one[1:-1].split(",") for one in types)


def _is_number(value: Any) -> bool:
    with suppress(ValueError, TypeError):
        float(value)
        return not isinstance(value, bool)
    return False


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_FITS: dict[str, Callable[[Any], bool]] = {
    "int": _is_whole,
    "float": _is_number,
    "bool": lambda value: isinstance(value, bool) or str(value).lower() in ("yes", "no", "0", "1"),
    "None": lambda value: value in (None, "None"),
    "tuple[int, int]": lambda value: isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_whole, value)),
}


@dataclass(frozen=True)
class Known:
    """A class that anomalib's command line takes by its short name.

    Attributes:
        name: The short name.
        file: Its source.
        ours: Whether it is of this package.
    """

    name: str
    file: Path
    ours: bool

    @property
    def summary(self) -> str:
        """The first paragraph of its docstring."""
        return _words((ast.get_docstring(self._node) or "").partition("\n\n")[0])

    @property
    def options(self) -> dict[str, Option]:
        """The arguments of its constructor by name, without those that ``**kwargs`` passes on."""
        return _options(self.file, self._node, "__init__")

    def default(self, name: str) -> str | None:
        """The default of an argument that is a text."""
        text = self.options[name].default if name in self.options else None
        return text[1:-1] if text and text[0] in "'\"" else None

    @property
    def takes_more(self) -> bool:
        """Whether there may be arguments that the source does not list."""
        constructor = _method(self._node, "__init__")
        return constructor is None or constructor.args.kwarg is not None

    @property
    def categories(self) -> tuple[str, ...]:
        """The categories of a data set, as far as its source or that of its images lists or imports them."""
        if self.ours:  # drawn, and listed where nothing heavy is imported
            imports = (node for node in _tree(self.file).body if isinstance(node, ast.ImportFrom))
            listing = [node.module for node in imports if any(alias.name == "CATEGORIES" for alias in node.names)]
            return tuple(import_module(listing[0]).CATEGORIES) if listing and listing[0] else ()
        sources = (self.file, self.file.parents[2] / "datasets" / self.file.parent.name / self.file.name)
        names = ("CATEGORIES", f"{self.name.upper()}_CATEGORIES")
        return tuple(next((found for file in sources for name in names if (found := _constant(file, name))), ()))

    @property
    def draws_itself(self) -> bool:
        """Whether a data set makes its folder."""
        return any(isinstance(line, ast.Assign) and ast.unparse(line) == "draws_itself = True" for line in self._node.body)

    @property
    def looks_for_category(self) -> bool:
        """Whether a data set is downloaded where its root has no folder of the category's name."""
        return "self.root / self.category" in self.file.read_text(encoding="utf-8")

    @property
    def _node(self) -> ast.ClassDef:
        return _class(self.file, self.name)


@cache
def known(kind: Kind) -> dict[str, Known]:
    """What the option ``--model`` or ``--data`` takes by short name: ours first, then anomalib's."""
    files = {name: _file(f"{PACKAGE}.{entry.module}") for name, entry in PUBLIC.items() if entry.kind == kind}
    ours = {name: Known(name, file, ours=True) for name, file in sorted(files.items())}
    return ours | {name: Known(name, file, ours=False) for name, file in sorted(_derived(kind).items()) if name not in ours}


def listed(kind: Kind, *, ours: bool = True) -> str:
    """The short names, ours or anomalib's, for help and errors."""
    return ", ".join(name for name, one in known(kind).items() if one.ours is ours)


def backbones() -> tuple[str, ...]:
    """The architectures that open_clip has, those added to it in this process among them, and ours."""
    if "open_clip" in sys.modules:
        return ("demo", *sys.modules["open_clip"].list_models())
    return ("demo", *sorted(path.stem for path in (package_folder("open_clip") / "model_configs").glob("*.json")))


def arguments_of(module: str, owner: str, method: str = "__init__") -> dict[str, Option]:
    """The arguments of a method of any installed class.

    Args:
        module: Where the class is defined.
        owner: The class.
        method: Its method.
    """
    return _options(_file(module), _class(_file(module), owner), method)


def package_folder(name: str) -> Path:
    """Where an installed package lies; it is not imported.

    Raises:
        ModuleNotFoundError: If it is not installed.
    """
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{name} is not installed")
    return Path(spec.submodule_search_locations[0])


def _file(module: str, beside: Path | None = None) -> Path:
    """The source of a module; of one that is imported relatively, from the folder that it is relative to."""
    package, _, rest = module.partition(".")
    path = beside.joinpath(*module.split(".")) if beside else package_folder(package).joinpath(*rest.split("."))
    return path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"


def _derived(kind: Kind) -> dict[str, Path]:
    """Anomalib's classes that are derived from the base of a kind."""
    inside, pattern = ("models", "lightning_model.py") if kind == "model" else ("data/datamodules", "*.py")
    folder = package_folder("anomalib") / inside
    bases, files = {}, {}
    for file in (one for one in folder.rglob(pattern) if "base" not in one.relative_to(folder).parts):
        for name, parents in _CLASS.findall(file.read_text(encoding="utf-8")):
            bases[name], files[name] = {parent.strip() for parent in parents.split(",")}, file
    found = {_BASES[kind], "AnomalibVideoDataModule"}
    while new := {name for name, parents in bases.items() if parents & found} - found:
        found |= new
    return {name: files[name] for name in found & files.keys()}


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _class(file: Path, name: str) -> ast.ClassDef:
    return next(node for node in _tree(file).body if isinstance(node, ast.ClassDef) and node.name == name)


def _method(node: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    return next((item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == name), None)


def _options(file: Path, owner: ast.ClassDef, method: str) -> dict[str, Option]:
    function = _method(owner, method)
    if function is None:
        return {}
    texts = _argument_texts(ast.get_docstring(owner)) | _argument_texts(ast.get_docstring(function))
    own = function.args
    names = [*own.posonlyargs, *own.args, *own.kwonlyargs]
    required = [None] * (len(names) - len(own.defaults) - len(own.kw_defaults))
    defaults = (_shown(file, default) for default in [*required, *own.defaults, *own.kw_defaults])
    return {
        arg.arg: Option(arg.arg, _type(file, arg.annotation), default, texts.get(arg.arg, ""))
        for arg, default in [*zip(names, defaults, strict=True)][1:]
    }


def _shown(file: Path, default: ast.expr | None) -> str | None:
    named = _constant(file, default.id) if isinstance(default, ast.Name) else None
    return repr(named) if named is not None else ast.unparse(default) if default else None


def _argument_texts(docstring: str | None) -> dict[str, str]:
    """The entries of a docstring's section ``Args:``."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", docstring or "", re.MULTILINE)
    return {name: _words(text) for name, text in _ENTRY.findall(section[1])} if section else {}


def _words(text: str) -> str:
    return " ".join(text.replace("``", "").split())


def _definition(file: Path, name: str) -> ast.expr | None:
    """What a source, or one that it imports the name from, assigns to it."""
    for node in _tree(file).body if file.is_file() else ():
        if isinstance(node, ast.ImportFrom) and node.module and any(alias.name == name for alias in node.names):
            try:
                return _definition(_file(node.module, file.parents[node.level - 1] if node.level else None), name)
            except ModuleNotFoundError:  # no package, or one that need not be there
                return None
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                return node.value
    return None


def _constant(file: Path, name: str) -> Any:
    """A literal; ``None`` for what is computed or not there."""
    found = _definition(file, name)
    with suppress(ValueError):
        return ast.literal_eval(found) if found else None
    return None


def _type(file: Path, annotation: ast.expr | None) -> str:
    """A type as the source has it, with the choices that a name stands for."""
    if isinstance(annotation, ast.BinOp):
        return f"{_type(file, annotation.left)} | {_type(file, annotation.right)}"
    text = ast.unparse(annotation) if annotation else ""
    found = _definition(file, text) if isinstance(annotation, ast.Name) else None
    meant = ast.unparse(found) if found else text
    choices = re.fullmatch(r"Literal\[(.*)\]", meant)
    return "{" + choices[1].replace("'", "").replace(" ", "") + "}" if choices else text
