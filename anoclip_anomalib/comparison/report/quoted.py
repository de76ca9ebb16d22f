"""Figures that others published, clearly apart from what was measured here."""

from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from anoclip_anomalib.comparison.report.tables import METRIC_TITLES


class Quoted(NamedTuple):
    """A method's published figures on a data set.

    Attributes:
        method: Its name.
        metrics: Metric -> 0..1.
        source: Who printed them.
        trained_on: Auxiliary data.
    """

    method: str
    metrics: dict[str, float]
    source: str
    trained_on: str


def load_quoted(datamodule: str, path: str | Path | None = None) -> list[Quoted]:
    """Published figures for a datamodule class name, e.g. "MVTecAD".

    Args:
        datamodule: Class name without module.
        path: YAML file like ours; ``None`` for ours.

    Raises:
        ValueError: If the file has other content: an unknown metric, a value outside 0..100, no source.
    """
    text = (files(__package__).joinpath("quoted.yaml") if path is None else Path(path)).read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: quoted figures are a mapping of data sets")
    return [_read(str(method), entry, path) for method, entry in (content.get(datamodule) or {}).items()]


def _read(method: str, entry: Any, path: str | Path | None) -> Quoted:
    where = f"{path or 'quoted.yaml'}, {method}"
    if not isinstance(entry, dict) or not entry.get("source"):
        raise ValueError(f"{where}: a quoted figure needs its source")
    metrics = {name: value for name, value in entry.items() if name not in ("source", "trained_on")}
    for name, value in metrics.items():
        if name not in METRIC_TITLES:
            raise ValueError(f'{where}: unknown metric "{name}" (there are: {", ".join(METRIC_TITLES)})')
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
            raise ValueError(f"{where}: {name} must be a percentage, got {value!r}")
    percentages = {name: value / 100 for name, value in metrics.items()}
    return Quoted(method, percentages, str(entry["source"]), str(entry.get("trained_on", "not stated")))
