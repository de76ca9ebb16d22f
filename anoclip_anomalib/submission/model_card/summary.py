"""A model's figures on each data set of a comparison, with their provenance, from its rows."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anoclip_anomalib.evaluation.registry import METRICS


@dataclass(frozen=True)
class DataResult:
    """A model's figures on one data set.

    Attributes:
        data: Name of the data set in the suite.
        categories: (category, metrics) in the suite's order, each the mean over its seeds; metrics without a value are absent.
        mean: Mean over categories, of the metrics that every category has.
        seeds: How often it was run, by seed.
        facts: Provenance that all rows share.
        failed: Jobs that failed, ``category, seed n: error``.
        time: When the last row was made, ISO 8601.
    """

    data: str
    categories: tuple[tuple[str, Mapping[str, float]], ...]
    mean: Mapping[str, float]
    seeds: tuple[int, ...]
    facts: Mapping[str, Any]
    failed: tuple[str, ...]
    time: str


def models_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the models in the rows, in order."""
    return list(_grouped(rows, "model"))


def summarise(rows: Sequence[Mapping[str, Any]], model: str) -> list[DataResult]:
    """One result for each data set from a comparison's rows.

    Args:
        rows: As ``anoclip compare`` writes them.
        model: The model's name in the suite.

    Raises:
        ValueError: If there is no finished row of that model.
    """
    by_data = _grouped((row for row in rows if row["job"]["model"] == model), "data")
    results = [_data_result(data, found) for data, found in by_data.items() if any(row["status"] == "done" for row in found)]
    if not results:
        known = ", ".join(models_of(rows)) or "nothing"
        raise ValueError(f"There are no finished rows of '{model}'; there are rows of {known}")
    return results


def _grouped(rows: Iterable[Mapping[str, Any]], key: str) -> dict[str, list[Mapping[str, Any]]]:
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[str(row["job"][key])].append(row)
    return groups


def _data_result(data: str, rows: Sequence[Mapping[str, Any]]) -> DataResult:
    done = [row for row in rows if row["status"] == "done"]
    categories = []
    for category, runs in _grouped(done, "category").items():
        values = {name: [run["metrics"].get(name) for run in runs] for name in METRICS}
        categories.append((category, {name: float(np.mean(found)) for name, found in values.items() if None not in found}))
    shared = [name for name in METRICS if all(name in metrics for _, metrics in categories)]
    failures = ((row["job"], row["error"]) for row in rows if row["status"] != "done")
    failed = (f"{job['category']}, seed {job['seed']}: {error.get('message', '')}"[:200] for job, error in failures)
    return DataResult(
        data=data,
        categories=tuple(categories),
        mean={name: float(np.mean([metrics[name] for _, metrics in categories])) for name in shared},
        seeds=tuple(sorted({int(row["job"]["seed"]) for row in done})),
        facts=_shared_facts(done),
        failed=tuple(failed),
        time=max(str(row["provenance"].get("time", "")) for row in done),
    )


def _shared_facts(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What rows state about their origin, flat; where rows differ, all statements."""
    shared: dict[str, dict[str, None]] = defaultdict(dict)
    for row in rows:
        provenance = row["provenance"]
        hardware = provenance.get("hardware", {})
        facts = {
            **provenance.get("method", {}),
            **{key: provenance.get("preprocessing", {}).get(key) for key in ("image_size", "resize", "smoothing")},
            "metrics_resolution": row.get("resolution"),
            "threshold_rule": row.get("thresholds", {}).get("image", {}).get("rule"),
            "weights_sha256": provenance.get("weights_digest"),
            "commit": provenance.get("commit"),
            "versions": ", ".join(f"{name} {value}" for name, value in provenance.get("versions", {}).items()),
            "hardware": hardware.get("gpu") or hardware.get("processor"),
            "note": provenance.get("note"),
        }
        for key, value in facts.items():
            if value is not None:
                shared[key][str(value)] = None
    return {key: " | ".join(values) for key, values in shared.items()}


def provenance_note(result: DataResult) -> str:
    """Provenance in one line, for formats that have room for a note."""
    head = f"mean of {len(result.categories)} categories, seeds {', '.join(map(str, result.seeds))}"
    facts = [f"{key.replace('_', ' ')}: {value}" for key, value in result.facts.items()]
    failed = [f"{len(result.failed)} jobs failed and are not in the mean"] if result.failed else []
    return "; ".join([head, *failed, *facts])
