"""A suite of ``anoclip compare``, looked at before its classes are imported; what is left is said by the suite's reader."""

from pathlib import Path
from typing import Any

from anoclip_anomalib.cli.early_checks import InputError, check_argument, check_file, check_value, find_class, no_such_path
from anoclip_anomalib.cli.known_names import Kind
from anoclip_anomalib.comparison.suite.yaml_lines import Located

_PARTS: dict[str, Kind] = {"models": "model", "data": "data"}


def check_suite(path: str, roots: dict[str, str]) -> None:
    """Check the names of models, data sets and their arguments in a suite of ``anoclip compare``, and the data's folders.

    Args:
        path: Its YAML file.
        roots: Data set -> folder, from the command line.

    Raises:
        InputError: If there is no such file.
        SuiteError: With all faults, each with its line.
    """
    check_file("suite", path)
    document = Located(path)
    for part, kind in _PARTS.items():
        entries = document.data.get(part) if isinstance(document.data, dict) else None
        for index, entry in enumerate(entries if isinstance(entries, list) else ()):
            _check_entry(document, kind, (part, index), {"class_path": entry} if isinstance(entry, str) else entry, roots)
    document.raise_faults()


def _check_entry(document: Located, kind: Kind, where: tuple, entry: Any, roots: dict[str, str]) -> None:
    named, given = (entry.get("class_path"), entry.get("init_args")) if isinstance(entry, dict) else (None, None)
    arguments: dict[str, Any] = given if isinstance(given, dict) else {}
    place: tuple = (*where, "class_path")
    try:
        found = find_class(kind, named) if isinstance(named, str) else None
        if found is None:
            return
        for name, value in arguments.items():
            place = (*where, "init_args", name)
            check_argument(kind, found, name, None)
            if found.ours and value is not None:
                check_value(found, name, value)
    except InputError as error:
        document.fault(place, str(error))
        return
    if kind == "data" and not found.draws_itself:
        name = entry.get("name") or arguments.get("name") or found.name
        root = roots.get(name, arguments.get("root", found.default("root")))
        if isinstance(root, str) and not Path(root).is_dir():
            near = no_such_path(root, folder=True).partition(";")[2]
            fault = f'data root {root} of "{name}" does not exist;{near} set init_args.root, or pass --root {name}=FOLDER'
            document.fault((*where, "init_args", "root"), fault)
