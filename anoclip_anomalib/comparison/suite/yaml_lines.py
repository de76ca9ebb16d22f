"""YAML read safely, with the line of every value."""

from pathlib import Path
from typing import Any

import yaml

Where = tuple[str | int, ...]
MAX_VALUES = 50_000  # aliases can make a few lines mean billions of values
MAX_DEPTH = 50


class SuiteError(ValueError):
    """A suite that cannot be used. ``faults`` lists everything found, each as "file:line: message"."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))


class Located:
    """A YAML document: its plain data, and the line of each of its parts.

    Args:
        path: The file.

    Raises:
        SuiteError: If the file is missing, no YAML, or holds tags that plain data does not need.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.lines: dict[Where, int] = {}
        self.faults: list[tuple[int, str]] = []
        self._left = MAX_VALUES
        try:
            loader = yaml.SafeLoader(self.path.read_text(encoding="utf-8"))
            node = loader.get_single_node()
            self.data = {} if node is None else self._build(loader, node, ())
        except (OSError, UnicodeDecodeError) as error:
            raise SuiteError([f"{self.path}: cannot be read: {error}"]) from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date or a number that there is not
            mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or error
            problem = f"nested deeper than {MAX_DEPTH} levels" if isinstance(error, RecursionError) else problem
            raise SuiteError([f"{self.path}:{mark.line + 1 if mark else 1}: {problem}"]) from error

    def _build(self, loader: yaml.SafeLoader, node: yaml.Node, where: Where) -> Any:
        self._left -= 1
        if self._left < 0 or len(where) > MAX_DEPTH:
            problem = f"more than {MAX_VALUES} values" if self._left < 0 else f"nested deeper than {MAX_DEPTH} levels"
            raise yaml.MarkedYAMLError(problem=f"{problem}, aliases included", problem_mark=node.start_mark)
        self.lines.setdefault(where, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(loader, node, where)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self._build(loader, item, (*where, index)) for index, item in enumerate(node.value)]
        if not isinstance(node, yaml.ScalarNode):
            problem = f"could not determine a constructor for the tag {node.tag!r}: mappings and lists are plain here"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return loader.construct_object(node)

    def _mapping(self, loader: yaml.SafeLoader, node: yaml.MappingNode, where: Where) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == "tag:yaml.org,2002:merge":
                value = self._build(loader, value_node, (*where, "<<"))
                for part in value if isinstance(value, list) else [value]:
                    if isinstance(part, dict):
                        merged = part | merged
                    else:
                        self.fault(where, "<< takes a mapping or a list of mappings", line)
                continue
            scalar = isinstance(key_node, yaml.ScalarNode)
            key = loader.construct_object(key_node) if scalar else "a collection"
            if not (scalar and isinstance(key, str)):
                self.fault(where, f"keys must be words, got {key!r}", line)
                continue
            if key in result:
                self.fault((*where, key), f'"{key}" is given twice', line)
            place: Where = (*where, key)
            self.lines[place] = line
            result[key] = self._build(loader, value_node, place)
        return merged | result

    def fault(self, where: Where, message: str, line: int | None = None) -> None:
        """Note a fault at a part of the document, or at a line."""
        while line is None:
            line = self.lines.get(where, 1 if not where else None)
            where = where[:-1]
        self.faults.append((line, message))

    def raise_faults(self) -> None:
        """Raise what was noted, if anything, in the order of the lines.

        Raises:
            SuiteError: With all faults.
        """
        if self.faults:
            raise SuiteError([f"{self.path}:{line}: {message}" for line, message in sorted(self.faults)])
