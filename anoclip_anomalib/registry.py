"""The one table of what this package offers by name, and how anomalib gets to know it.

anomalib 2.7 has no entry point for models: ``get_model("Name")`` and the command line look at the subclasses of
``AnomalibModule`` that happen to be imported, and the dictionary form asks a list of allowed modules. Both are served
here, without slowing down ``import anoclip_anomalib`` by the seconds that anomalib and torch take to load.
"""

import copy
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, Literal, NamedTuple, TypeVar

PACKAGE = "anoclip_anomalib"


class Entry(NamedTuple):
    """A public name.

    Attributes:
        module: Where it is defined, below this package.
        kind: All but ``"other"`` are made known to anomalib.
    """

    module: str
    kind: Literal["model", "callback", "data", "other"]


# A new method is a line here.
PUBLIC = {
    "AaClip": Entry("aaclip.lightning_model", "model"),
    "AaClipModel": Entry("aaclip.torch_model", "other"),
    "AnoClip": Entry("anoclip.lightning_model", "model"),
    "AnoClipModel": Entry("anoclip.torch_model", "other"),
    "CentreDistance": Entry("baselines.trivial", "model"),
    "Inspector": Entry("inspection.inspector", "other"),
    "LocalContrast": Entry("baselines.trivial", "model"),
    "MutualClip": Entry("mutual.lightning_model", "model"),
    "PromptBuilder": Entry("prompts.builder", "other"),
    "PromptClip": Entry("promptlearning.lightning_model", "model"),
    "PromptClipModel": Entry("promptlearning.torch_model", "other"),
    "GeneratedParts": Entry("data.generated", "data"),
    "TestTimeAdaptation": Entry("anoclip.callbacks", "callback"),
}
MODELS = tuple(name for name, entry in PUBLIC.items() if entry.kind == "model")
_ANOMALIB_MODELS = "anomalib.models"
ModelClass = TypeVar("ModelClass", bound=type)


def load(name: str) -> Any:
    """Import what a public name stands for.

    Raises:
        KeyError: If there is no such name.
    """
    return getattr(import_module(f"{PACKAGE}.{PUBLIC[name].module}"), name)


def lazy(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package whose names are loaded when they are first used.

    Args:
        package: Its name.
        homes: Name -> module in it.
    """

    def load_name(name: str) -> Any:
        if name in homes:
            return getattr(import_module(f"{package}.{homes[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return load_name


def register_with_anomalib() -> None:
    """Make models and callbacks known now if ``anomalib.models`` is loaded, else right after it will be."""
    if _ANOMALIB_MODELS in sys.modules:
        _import_plugin()
    elif not any(isinstance(finder, _AfterAnomalibModels) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterAnomalibModels())


def register_model(model_class: ModelClass) -> ModelClass:
    """Class decorator that lets anomalib find a model by its short name and by ``anoclip_anomalib.<name>``."""
    anomalib_models = import_module(_ANOMALIB_MODELS)
    anomalib_models.ALLOWED_MODULES.add(PACKAGE)
    setattr(anomalib_models, model_class.__name__, model_class)
    return model_class


def _import_plugin() -> None:
    for module in (f"{PACKAGE}.{entry.module}" for entry in PUBLIC.values() if entry.kind != "other"):
        # A module that is being imported is the reason why anomalib.models is: it registers itself when it gets there.
        if module not in sys.modules:
            import_module(module)


class _AfterAnomalibModels:
    """Finds ``anomalib.models`` as Python would, and registers our models after it has been executed."""

    def find_spec(self, fullname: str, path=None, target=None) -> ModuleSpec | None:  # noqa: ANN001
        if fullname != _ANOMALIB_MODELS:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = copy.copy(spec.loader)  # a zip's is shared by all modules in it
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                _import_plugin()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
