"""A suite from YAML, with every fault found at once."""

from pathlib import Path
from typing import Any

from anoclip_anomalib.comparison import catalogue
from anoclip_anomalib.comparison.suite import ClassSpec, DataEntry, ModelEntry, Protocol, Suite
from anoclip_anomalib.comparison.yaml_lines import Located, SuiteError, Where
from anoclip_anomalib.evaluation.thresholds import ThresholdRule

SUITE_KEYS = {"name", "description", "models", "data", "seeds", "protocol"}
MODEL_KEYS = {"name", "class_path", "init_args", "callbacks", "trainer", "cpus", "gpus", "provenance"}
DATA_KEYS = {"name", "class_path", "init_args", "categories", "class_name"}
PROTOCOL_KEYS = {"resolution", "threshold", "timed_images", "warmup_images", "sample_images"}
GENERATE_IS_GONE = (
    'generate is no option any more: write "class_path: GeneratedParts", and the values under init_args as image_size, '
    "train_good, test_good, test_bad and drawing_seed"
)


def load_suite(path: str | Path, roots: dict[str, str] | None = None, check_data: bool = True) -> Suite:
    """Read and check a suite.

    Args:
        path: YAML file.
        roots: data set name -> folder, in place of the file's `root`.
        check_data: False leaves out the check that data roots exist.

    Raises:
        SuiteError: with all faults, each with its line.
    """
    doc = Located(path)
    reader = _Reader(doc, roots or {}, check_data)
    suite = reader.suite()
    doc.raise_faults()
    if suite is None:
        raise SuiteError([f"{path}: no suite"])
    return suite


class _Reader:
    """Turns the located document into a suite, noting faults on the way."""

    def __init__(self, doc: Located, roots: dict[str, str], check_data: bool) -> None:
        self.doc, self.roots, self.check_data = doc, roots, check_data

    def suite(self) -> Suite | None:
        data = self.doc.data
        if not isinstance(data, dict):
            self.doc.fault((), "a suite is a mapping with name, models and data")
            return None
        self._keys(data, SUITE_KEYS, (), "suite")
        name = data.get("name")
        if not isinstance(name, str) or not name.strip():
            self.doc.fault(("name",), "a suite needs a name")
        models = self._entries(data, "models", self._model)
        datasets = self._entries(data, "data", self._data)
        for unused in set(self.roots) - {entry.name for entry in datasets}:
            self.doc.fault(("data",), f'--root names the data set "{unused}", which the suite does not have')
        return Suite(
            name=str(name),
            models=tuple(models),
            data=tuple(datasets),
            seeds=self._seeds(data.get("seeds", [0])),
            protocol=self._protocol(data.get("protocol", {})),
            description=str(data.get("description", "")),
        )

    def _keys(self, mapping: dict, known: set[str], where: Where, what: str) -> None:
        for key in mapping:
            if key not in known:
                self.doc.fault((*where, key), f'a {what} has no option "{key}" (it has: {", ".join(sorted(known))})')

    def _entries(self, data: dict, key: str, read: Any) -> list:
        items = data.get(key)
        if not isinstance(items, list) or not items:
            self.doc.fault((key,), f'"{key}" must be a list with at least one entry')
            return []
        entries, names = [], set()
        for index, item in enumerate(items):
            where: Where = (key, index)
            if isinstance(item, str):
                item = {"class_path": item}
            if not isinstance(item, dict) or not isinstance(item.get("class_path"), str):
                self.doc.fault(where, f"an entry of {key} needs a class_path")
                continue
            entry = read(item, where)
            if entry is None:
                continue
            if entry.name in names:
                self.doc.fault((*where, "name"), f'the name "{entry.name}" is used twice in {key}')
            names.add(entry.name)
            entries.append(entry)
        return entries

    def _class(self, kind: str, item: dict, where: Where, extra: dict[str, Any] | None = None) -> ClassSpec | None:
        """The class of an entry with checked arguments; `extra` are arguments that we will add."""
        init_args = item.get("init_args") or {}
        if not isinstance(init_args, dict):
            self.doc.fault((*where, "init_args"), "init_args must be a mapping")
            return None
        try:
            found = catalogue.find_class(kind, item["class_path"])
        except catalogue.UnknownClassError as error:
            self.doc.fault((*where, "class_path"), str(error))
            return None
        unknown = catalogue.unknown_arguments(found, init_args)
        for fault in unknown:
            name = fault.split('"')[1]
            self.doc.fault((*where, "init_args", name), fault)
        spec = ClassSpec(catalogue.full_path(found), init_args)
        if not unknown:
            message = catalogue.check_values(kind, ClassSpec(spec.class_path, init_args | (extra or {})))
            if message:
                self.doc.fault((*where, "init_args"), f"{found.__name__}: {message}")
        return spec

    def _model(self, item: dict, where: Where) -> ModelEntry | None:
        self._keys(item, MODEL_KEYS, where, "model")
        spec = self._class("model", item, where)
        callbacks = []
        for index, callback in enumerate(item.get("callbacks") or []):
            callback = {"class_path": callback} if isinstance(callback, str) else callback
            place = (*where, "callbacks", index)
            if not isinstance(callback, dict) or not isinstance(callback.get("class_path"), str):
                self.doc.fault(place, "a callback needs a class_path")
                continue
            self._keys(callback, {"class_path", "init_args"}, place, "callback")
            found = self._class("callback", callback, place)
            if found:
                callbacks.append(found)
        for key in ("cpus", "gpus"):
            value = item.get(key)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value < 0):
                self.doc.fault((*where, key), f"{key} must be a number of at least 0, got {value!r}")
        for key in ("trainer", "provenance"):
            if not isinstance(item.get(key, {}), dict):
                self.doc.fault((*where, key), f"{key} must be a mapping")
                return None
        if spec is None:
            return None
        return ModelEntry(
            name=str(item.get("name") or spec.class_path.rpartition(".")[2]),
            spec=spec,
            callbacks=tuple(callbacks),
            trainer=self._trainer(item.get("trainer", {}), (*where, "trainer")),
            cpus=item.get("cpus"),
            gpus=float(item["gpus"]) if isinstance(item.get("gpus"), int | float) else 0.0,
            provenance=item.get("provenance", {}),
        )

    def _trainer(self, options: dict, where: Where) -> dict:
        from lightning.pytorch import Trainer

        for fault in catalogue.unknown_arguments(Trainer, options):
            self.doc.fault((*where, fault.split('"')[1]), fault)
        return options

    def _data(self, item: dict, where: Where) -> DataEntry | None:
        if "generate" in item:
            self.doc.fault((*where, "generate"), GENERATE_IS_GONE)
            return None
        self._keys(item, DATA_KEYS, where, "data set")
        try:
            found = catalogue.find_class("data", item["class_path"])
        except catalogue.UnknownClassError as error:
            self.doc.fault((*where, "class_path"), str(error))
            return None
        init_args = item.get("init_args") or {}
        name = str(item.get("name") or init_args.get("name") or found.__name__)
        if isinstance(init_args, dict) and name in self.roots:
            item = item | {"init_args": init_args | {"root": self.roots[name]}}
        spec = self._class("data", item, where)
        if spec is None:
            return None
        if "category" in spec.init_args:
            self.doc.fault((*where, "init_args", "category"), "name categories under `categories`, not in init_args")
        root = Path(str(spec.init_args["root"])) if spec.init_args.get("root") else self._default_root(found)
        draws = getattr(found, "draws_itself", False)
        missing = not draws and self.check_data and root is not None and not root.is_dir()
        if missing:
            self.doc.fault(
                (*where, "init_args", "root"),
                f'data root {root} of "{name}" does not exist; set init_args.root, or pass --root {name}=FOLDER',
            )
        known = catalogue.known_categories(found, None if missing or draws else root)
        categories = self._categories(item, where, found, known)
        return DataEntry(name, spec, categories, item.get("class_name"))

    @staticmethod
    def _default_root(found: type) -> Path | None:
        import inspect

        parameter = inspect.signature(found).parameters.get("root")
        default = parameter.default if parameter is not None else None
        return Path(default) if isinstance(default, str | Path) else None

    def _categories(self, item: dict, where: Where, found: type, known: tuple[str, ...]) -> tuple[str, ...]:
        wanted = item.get("categories", "all")
        place = (*where, "categories")
        if not catalogue.takes(found, "category"):
            if "categories" in item:
                self.doc.fault(place, f"{found.__name__} has no categories")
            return ()
        if wanted == "all":
            if not known and self.check_data:
                self.doc.fault(place, f"no categories of {found.__name__} are known; list them")
            return known
        wanted = [wanted] if isinstance(wanted, str) else wanted
        if not isinstance(wanted, list) or not wanted or not all(isinstance(name, str) for name in wanted):
            self.doc.fault(place, "categories is `all` or a list of names (quote numbers)")
            return ()
        for index, name in enumerate(wanted):
            if known and name not in known:
                self.doc.fault((*place, index), f'unknown category "{name}" (there are: {", ".join(known)})')
        return tuple(dict.fromkeys(wanted))

    def _seeds(self, seeds: Any) -> tuple[int, ...]:
        seeds = seeds if isinstance(seeds, list) else [seeds]
        for index, seed in enumerate(seeds):
            if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
                self.doc.fault(("seeds", index), f"a seed is a whole number of at least 0, got {seed!r}")
        if not seeds or len(set(map(str, seeds))) < len(seeds):
            self.doc.fault(("seeds",), "seeds must be a list of different numbers")
        return tuple(seeds)

    def _protocol(self, options: Any) -> Protocol:
        where: Where = ("protocol",)
        if not isinstance(options, dict):
            self.doc.fault(where, "protocol must be a mapping")
            return Protocol()
        self._keys(options, PROTOCOL_KEYS, where, "protocol")
        values = {key: value for key, value in options.items() if key in PROTOCOL_KEYS}
        if values.get("resolution", "model") not in ("model", "original"):
            self.doc.fault((*where, "resolution"), 'resolution must be "model" or "original"')
        for key in ("timed_images", "warmup_images", "sample_images"):
            if isinstance(values.get(key, 0), bool) or not isinstance(values.get(key, 0), int) or values.get(key, 0) < 0:
                self.doc.fault((*where, key), f"{key} must be a whole number of at least 0")
        try:
            values["threshold"] = ThresholdRule(**(values.get("threshold") or {}))
        except (TypeError, ValueError) as error:
            self.doc.fault((*where, "threshold"), f"threshold: {error}")
            values.pop("threshold", None)
        return Protocol(**values)
