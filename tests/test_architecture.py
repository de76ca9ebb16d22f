"""The picture of docs/architecture.md, held: who may import whom."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "anoclip_anomalib"
# From the top of the list to its bottom; rooms of one line know nothing of each other. What is not built yet is no fault.
FLOORS = (
    {"files", "checks", "claims", "versions", "registry", "progress"},
    {"prompts"},
    {"clip"},
    {"evaluation"},
    {"demo"},
    {"data"},
    {"zeroshot"},
    {"anoclip", "aaclip", "promptlearning", "mutual", "baselines"},
    {"bundled", "__init__"},  # the public names: whoever imports one of them stands below the methods
    {"running"},
    {"inspection"},
    {"comparison"},
    {"submission"},
    {"cli"},
)
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
METHODS = {"anoclip", "aaclip", "promptlearning", "mutual"}
DOCUMENT = (PACKAGE.parent / "docs/architecture.md").read_text(encoding="utf-8")
_, TREE, RULES = DOCUMENT.split("```")[:3]
# Where what must not be imported.
WITHOUT = {
    "prompts": {"torch", "lightning", "anomalib"},
    "demo": {"torch", "lightning", "anomalib"},
    **{
        f"evaluation.{name}": {"torch", "lightning", "anomalib"}
        for name in ("curves", "histogram", "accumulator", "confidence")
    },
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
            elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
                names = (one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str))
                yield from ((module, name, "") for name in names)


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


def listed() -> set[str]:
    """Files of the document's tree as paths below the package."""
    found, folders = set(), []
    for line in TREE.partition("anoclip_anomalib/\n")[2].splitlines():
        indent = len(line) - len(line.lstrip())
        if indent == 0:
            break
        del folders[indent // 2 - 1 :]
        names = re.split(r" {2,}", line.strip())[0].split(", ")
        assert all(re.fullmatch(r"\w+(\.py|/)", name) for name in names), f"not two spaces after the names: {line}"
        found |= {"/".join([*folders, name]) for name in names if name.endswith(".py")}
        if names[0].endswith("/"):
            folders.append(names[0].rstrip("/"))
    return found


def test_the_document_names_every_file_where_it_is():
    there = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py")}
    assert listed() == {path for path in there if "/" not in path or not path.endswith("__init__.py")}


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


def test_what_needs_no_torch_imports_none():
    wrong = {
        f"{module} imports {imported}"
        for module, imported, _ in imports()
        for place, names in WITHOUT.items()
        if f"{module}.".startswith(f"{place}.") and imported.split(".")[0] in names
    }
    assert not wrong, "\n" + "\n".join(sorted(wrong))


def test_only_clip_knows_open_clip():
    wrong = {module for module, imported, _ in imports() if imported.split(".")[0] == "open_clip" and room(module) != "clip"}
    assert not wrong, "\n" + "\n".join(sorted(wrong))


def test_above_a_lightning_model_only_inference_batch_is_anomalibs():
    rule = re.search(r"lightning and anomalib are for (.*?);", RULES, re.DOTALL)
    wiring = set(re.findall(r"(\w+)\.py", rule[1]))
    wrong = {
        f"{module} imports {imported}.{name}"
        for module, imported, name in imports()
        if room(module) in {*METHODS, "clip", "prompts", "zeroshot"}
        and imported.split(".")[0] in ("lightning", "anomalib")
        and name != "InferenceBatch"
        and module.split(".")[-1] not in wiring
    }
    assert not wrong, "\n" + "\n".join(sorted(wrong))
    homes = {module.split(".")[-1] for module, imported, _ in imports() if imported.split(".")[0] in ("lightning", "anomalib")}
    assert wiring <= homes, "names that import neither"
