"""The picture of docs/architecture.md, held: who may import whom."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "anoclip_anomalib"
# From the top of the list to its bottom; rooms of one line know nothing of each other. What is not built yet is no fault.
FLOORS = (
    {"files", "checks", "claims", "versions", "registry"},
    {"prompts"},
    {"clip"},
    {"evaluation"},
    {"demo"},
    {"data"},
    {"zeroshot"},
    {"anoclip"},
    {"aaclip", "promptlearning", "mutual", "baselines"},
    {"bundled", "__init__"},  # the public names: whoever imports one of them stands below the methods
    {"running"},
    {"inspection"},
    {"comparison"},
    {"submission"},
    {"cli"},
)
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
METHODS = {"anoclip", "aaclip", "promptlearning", "mutual"}
# Where Lightning and anomalib have a place: the Lightning model, what is attached to it, the wiring, training.
WIRING = {"lightning", "learned_method", "lightning_model", "callbacks", "visualizer", "first_pass"} | {
    "training",
    "train",
    "cached_features",
}


def imports() -> Iterator[tuple[str, str, str]]:
    """Module below the package, imported module, imported name ("" for a whole module); those inside functions included."""
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((module, alias.name, "") for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module} imports relatively"
                yield from ((module, node.module or "", alias.name) for alias in node.names)


def inner_imports() -> Iterator[tuple[str, str]]:
    """Module and room of the package that it imports; a public name of the package counts as the room "__init__"."""
    for module, imported, name in imports():
        if imported == PACKAGE.name:
            yield module, name if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file() else "__init__"
        elif imported.startswith(f"{PACKAGE.name}."):
            yield module, imported.split(".")[1]


def room(module: str) -> str:
    return module.split(".")[0]


def test_every_room_has_its_floor():
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert not rooms - set(LEVEL), "rooms that the list does not know"


def test_the_document_names_every_room_and_no_file_that_is_not_there():
    document = (PACKAGE.parent / "docs/architecture.md").read_text(encoding="utf-8")
    tree = document.split("```")[1]
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert not {folder for folder in folders if f"\n  {folder}/ " not in tree}
    assert set(re.findall(r"\w+\.py", tree)) <= {path.name for path in PACKAGE.rglob("*.py")}


def test_imports_run_only_upwards_in_the_list():
    """`__init__` and `registry` name every method for users and for anomalib: they look down, inside functions or by name."""
    wrong = {
        f"{module} imports {target}"
        for module, target in inner_imports()
        if room(module) not in ("__init__", "registry", target)
        and not LEVEL.get(target, -1) < LEVEL.get(room(module), len(LEVEL))
    }
    assert not wrong, "\n" + "\n".join(sorted(wrong))


def test_measuring_and_submitting_know_no_model_of_ours():
    """But for its name, through `registry.load`; what all methods share, such as a memory of patches, is no model."""
    rooms = {"evaluation", "comparison", "submission"}
    wrong = {
        f"{module} imports {target}"
        for module, target in inner_imports()
        if room(module) in rooms and target in {*METHODS, "clip", "__init__"}
    }
    assert not wrong, "\n" + "\n".join(sorted(wrong))


def test_only_clip_knows_open_clip():
    wrong = {module for module, imported, _ in imports() if imported.split(".")[0] == "open_clip" and room(module) != "clip"}
    assert not wrong, "\n" + "\n".join(sorted(wrong))


def test_below_a_lightning_model_only_inference_batch_is_anomalibs():
    wrong = {
        f"{module} imports {imported}.{name}"
        for module, imported, name in imports()
        if room(module) in {*METHODS, "clip", "prompts", "zeroshot"}
        and imported.split(".")[0] in ("lightning", "anomalib")
        and name != "InferenceBatch"
        and module.split(".")[-1] not in WIRING
    }
    assert not wrong, "\n" + "\n".join(sorted(wrong))
