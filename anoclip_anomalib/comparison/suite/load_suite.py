"""A suite from YAML, with every fault found at once.

The types in suite.py say what a file may hold. In the file a class and its arguments stand directly in the entry
(``class_path``, ``init_args``), a class without arguments may be its name alone, and ``categories`` may be ``all``.
"""

import inspect
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from anoclip_anomalib.comparison.suite import catalogue
from anoclip_anomalib.comparison.suite.suite import ClassSpec, DataEntry, ModelEntry, Protocol, Suite
from anoclip_anomalib.comparison.suite.yaml_lines import Located, Where

PARTS: dict[str, tuple[str, Any]] = {"protocol": ("protocol", Protocol), "callbacks": ("callback", ClassSpec)}
GENERATE_IS_GONE = (
    'generate is no option any more: write "class_path: GeneratedParts", and the values under init_args as image_size, '
    "train_good, test_good, test_bad and drawing_seed"
)
KINDS = {Suite: "suite", ModelEntry: "model", DataEntry: "data set"}
_adapter = cache(TypeAdapter)
TYPES = {"dict_type": "a mapping", "tuple_type": "a list", "dataclass_type": "a mapping", "string_type": "text"}


def load_suite(path: str | Path, roots: dict[str, str] | None = None, check_data: bool = True) -> Suite:
    """Read and check a suite.

    Args:
        path: YAML file.
        roots: Data set name -> folder, in place of the file's ``root``.
        check_data: False leaves out the check that data roots exist.

    Raises:
        SuiteError: With all faults, each with its line.
    """
    doc = Located(path)
    suite = _Reader(doc, roots or {}, check_data).suite()
    doc.raise_faults()
    assert suite is not None  # or there was a fault
    return suite


class _Reader:
    """Turns the located document into a suite, noting faults on the way."""

    def __init__(self, doc: Located, roots: dict[str, str], check_data: bool) -> None:
        self.doc, self.roots, self.check_data = doc, roots, check_data

    def suite(self) -> Suite | None:
        content = self.doc.data
        if not isinstance(content, dict):
            self.doc.fault((), "a suite is a mapping with name, models and data")
            return None
        seeds = content.get("seeds", [0])
        rest = {"seeds": seeds if isinstance(seeds, list) else [seeds], "models": [], "data": []}
        suite = self._valid(Suite, content | rest, ())
        models = self._entries("models", ModelEntry, self._model)
        datasets = self._entries("data", DataEntry, self._data)
        for unused in set(self.roots) - {entry.name for entry in datasets}:
            self.doc.fault(("data",), f'--root names the data set "{unused}", which the suite does not have')
        return suite and replace(suite, models=tuple(models), data=tuple(datasets))

    def _entries(self, key: str, kind: type, read: Callable[[Any, Where], Any]) -> list[Any]:
        items = self.doc.data.get(key)
        if not isinstance(items, list) or not items:
            self.doc.fault((key,), f'"{key}" must be a list with at least one entry')
            return []
        entries: list[Any] = []
        for index, item in enumerate(items):
            if isinstance(item, dict) and "spec" in item:
                self.doc.fault((key, index, "spec"), f'an entry of {key} has no option "spec"')
            entry = self._valid(kind, _flat(item, key), (key, index))
            if kind is DataEntry and isinstance(item, dict) and "generate" in item:
                continue  # another class is told to be written: faults of this one would mislead
            entry = entry and read(entry, (key, index))
            if entry and entry.name in [one.name for one in entries]:
                self.doc.fault((key, index, "name"), f'the name "{entry.name}" is used twice in {key}')
            entries += [entry] if entry else []
        return entries

    def _valid(self, kind: Any, content: Any, where: Where) -> Any:
        """The content as its type; parts with faults are noted and left out. ``None`` if it cannot be without them."""
        try:
            return _adapter(kind).validate_python(content)
        except ValidationError as error:
            faults = error.errors(include_url=False)
        for fault in faults:
            place = tuple(part for part in fault["loc"] if part != "spec")
            self.doc.fault((*where, *place), _sentence(kind, where, place, fault))
        broken = {fault["loc"][0] for fault in faults if fault["loc"]}
        try:
            return _adapter(kind).validate_python({key: value for key, value in content.items() if key not in broken})
        except (AttributeError, ValidationError):
            return None

    def _class(self, kind: str, spec: ClassSpec, where: Where) -> ClassSpec | None:
        """The class by its full path, with checked arguments."""
        try:
            found = catalogue.find_class(kind, spec.class_path)
        except catalogue.UnknownClassError as error:
            self.doc.fault((*where, "class_path"), str(error))
            return None
        unknown = catalogue.unknown_arguments(found, spec.init_args)
        for name, fault in unknown.items():
            self.doc.fault((*where, "init_args", name), fault)
        spec = ClassSpec(catalogue.full_path(found), spec.init_args)
        if not unknown and (message := catalogue.check_values(kind, spec)):
            self.doc.fault((*where, "init_args"), f"{found.__name__}: {message}")
        return spec

    def _model(self, entry: ModelEntry, where: Where) -> ModelEntry | None:
        from lightning.pytorch import Trainer

        callbacks = [self._class("callback", one, (*where, "callbacks", i)) for i, one in enumerate(entry.callbacks)]
        for name, fault in catalogue.unknown_arguments(Trainer, entry.trainer).items():
            self.doc.fault((*where, "trainer", name), fault)
        spec = self._class("model", entry.spec, where)
        return None if spec is None else replace(entry, spec=spec, callbacks=tuple(filter(None, callbacks)))

    def _data(self, entry: DataEntry, where: Where) -> DataEntry | None:
        own_root = {"root": self.roots[entry.name]} if entry.name in self.roots else {}
        spec = self._class("data", replace(entry.spec, init_args=entry.spec.init_args | own_root), where)
        if spec is None:
            return None
        if "category" in spec.init_args:
            self.doc.fault((*where, "init_args", "category"), "name categories under `categories`, not in init_args")
        found = catalogue.find_class("data", spec.class_path)
        place = spec.init_args.get("root") or getattr(inspect.signature(found).parameters.get("root"), "default", None)
        root = Path(place) if isinstance(place, str | Path) and not getattr(found, "draws_itself", False) else None
        if root is not None and not root.is_dir():
            if self.check_data:
                fault = f'data root {root} of "{entry.name}" does not exist; set init_args.root, or pass --root'
                self.doc.fault((*where, "init_args", "root"), f"{fault} {entry.name}=FOLDER")
            root = None
        return replace(entry, spec=spec, categories=self._categories(entry, where, found, root))

    def _categories(self, entry: DataEntry, where: Where, found: type, root: Path | None) -> tuple[str, ...]:
        place = (*where, "categories")
        if not catalogue.takes(found, "category"):
            if place in self.doc.lines:
                self.doc.fault(place, f"{found.__name__} has no categories")
            return ()
        known = catalogue.known_categories(found, root)
        if not entry.categories:
            if not known and self.check_data:
                self.doc.fault(place, f"no categories of {found.__name__} are known; list them")
            return known
        there = dict.fromkeys((*known, *catalogue.folder_categories(root)))
        for index, name in enumerate(entry.categories):
            if known and name not in there:
                fault = f'unknown category "{name}" (there are: {", ".join(there)}); own data need a folder {name}/train or'
                self.doc.fault((*place, index), f"{fault} {name}/test in the data root, other layouts the class Folder")
        return tuple(dict.fromkeys(entry.categories))


def _flat(item: Any, key: str) -> Any:
    """An entry as its type wants it: class and arguments in ``spec``, and a name, if need be the class's."""
    if isinstance(item, str):
        item = {"class_path": item}
    if not isinstance(item, dict):
        return item
    spec = {key: item[key] for key in ("class_path", "init_args") if item.get(key) is not None}
    rest = {key: value for key, value in item.items() if key not in ("class_path", "init_args", "spec")}
    if key == "models" and isinstance(rest.get("callbacks"), list):
        rest["callbacks"] = [{"class_path": one} if isinstance(one, str) else one for one in rest["callbacks"]]
    if key == "data" and isinstance(rest.get("categories"), str):
        categories = rest.pop("categories")
        rest |= {} if categories == "all" else {"categories": [categories]}
    own = spec["init_args"].get("name") if key == "data" and isinstance(spec.get("init_args"), dict) else None
    return {"name": own or str(spec.get("class_path")).rpartition(".")[2]} | rest | {"spec": spec}


def _sentence(kind: Any, where: Where, place: Where, fault: Any) -> str:
    """One of pydantic's faults in words."""
    name, value = (place or where)[-1], repr(fault["input"])
    if fault["type"] == "missing":
        return f"{'a suite' if kind is Suite else f'an entry of {where[0]}'} needs a {name}"
    if fault["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        if (kind, name) == (DataEntry, "generate"):
            return GENERATE_IS_GONE
        what, part = next((PARTS[str(key)] for key in reversed(place[:-1]) if key in PARTS), (KINDS[kind], kind))
        known = [one.name for one in fields(part)]
        known = sorted({"class_path", "init_args"} | set(known) - {"spec"}) if "spec" in known else sorted(known)
        return f'a {what} has no option "{name}" (it has: {", ".join(known)})'
    if fault["type"] == "value_error":
        return fault["msg"].removeprefix("Value error, ") if name == "seeds" else f"{name}: {fault['ctx']['error']}"
    words = fault["msg"] if fault["type"] == "must_be" else TYPES.get(fault["type"], fault["msg"])
    name = next((part for part in reversed(place) if isinstance(part, str)), "an entry")
    return f"{name} must be {words}, got {value if len(value) < 80 else value[:77] + '...'}"
