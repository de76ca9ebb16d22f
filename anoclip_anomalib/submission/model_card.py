"""Results of a comparison for the Hugging Face Hub: ``model-index`` YAML and the newer evaluation-results YAML.

Both are checked by reading them back with huggingface_hub's own parsers.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

METRICS: Mapping[str, tuple[str, str]] = {
    "image_AUROC": ("roc_auc", "image AUROC"),
    "image_F1Max": ("f1", "image F1-max"),
    "image_AP": ("average_precision", "image AP"),
    "pixel_AUROC": ("roc_auc", "pixel AUROC"),
    "pixel_F1Max": ("f1", "pixel F1-max"),
    "pixel_AP": ("average_precision", "pixel AP"),
    "AUPRO": ("au_pro", "AUPRO (FPR up to 0.3)"),
    "AUPRO_0.05": ("au_pro", "AUPRO (FPR up to 0.05)"),
    "AUPRO_paper": ("au_pro", "AUPRO (200 thresholds, rescaled, as zero-shot papers print it)"),
    "SegF1": ("f1", "SegF1 at a label-free threshold"),
    "image_F1": ("f1", "image F1 at a label-free threshold"),
}
"""Metric of a comparison row -> (metric type of the Hub, name to show)."""


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
    return list(dict.fromkeys(str(row["job"]["model"]) for row in rows))


def summarise(rows: Sequence[Mapping[str, Any]], model: str) -> list[DataResult]:
    """One result for each data set from a comparison's rows.

    Args:
        rows: As ``anoclip compare`` writes them.
        model: The model's name in the suite.

    Raises:
        ValueError: If there is no finished row of that model.
    """
    mine = [row for row in rows if row["job"]["model"] == model]
    if not any(row["status"] == "done" for row in mine):
        known = ", ".join(models_of(rows)) or "nothing"
        raise ValueError(f"there are no finished rows of '{model}'; there are rows of {known}")
    by_data: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in mine:
        by_data[str(row["job"]["data"])].append(row)
    return [_data_result(data, found) for data, found in by_data.items() if any(row["status"] == "done" for row in found)]


def _data_result(data: str, rows: Sequence[Mapping[str, Any]]) -> DataResult:
    done = [row for row in rows if row["status"] == "done"]
    by_category: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in done:
        by_category[str(row["job"]["category"])].append(row["metrics"])
    categories = []
    for category, runs in by_category.items():
        values = {name: [run.get(name) for run in runs] for name in METRICS}
        present = {name: found for name, found in values.items() if all(value is not None for value in found)}
        categories.append((category, {name: float(np.mean(found)) for name, found in present.items()}))
    shared = [name for name in METRICS if all(name in metrics for _, metrics in categories)]
    failed = [
        f"{row['job']['category']}, seed {row['job']['seed']}: {row['error'].get('message', '')}"[:200]
        for row in rows
        if row["status"] != "done"
    ]
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
    flat = []
    for row in rows:
        provenance = row["provenance"]
        thresholds = row.get("thresholds", {})
        hardware = provenance.get("hardware", {})
        facts = dict(provenance.get("method", {}))
        for key in ("image_size", "resize", "smoothing"):
            facts[key] = provenance.get("preprocessing", {}).get(key)
        facts["metrics_resolution"] = row.get("resolution")
        facts["threshold_rule"] = thresholds.get("image", {}).get("rule")
        facts["weights_sha256"] = provenance.get("weights_digest")
        facts["commit"] = provenance.get("commit")
        facts["versions"] = ", ".join(f"{name} {value}" for name, value in provenance.get("versions", {}).items())
        facts["hardware"] = hardware.get("gpu") or hardware.get("processor")
        facts["note"] = provenance.get("note")
        flat.append({key: str(value) for key, value in facts.items() if value is not None})
    shared = {}
    for key in dict.fromkeys(key for facts in flat for key in facts):
        shared[key] = " | ".join(dict.fromkeys(facts[key] for facts in flat if key in facts))
    return shared


def provenance_note(result: DataResult) -> str:
    """Provenance in one line, for formats that have room for a note."""
    seeds = ", ".join(map(str, result.seeds))
    head = f"mean of {len(result.categories)} categories, seeds {seeds}"
    facts = [f"{key.replace('_', ' ')}: {value}" for key, value in result.facts.items()]
    failed = [f"{len(result.failed)} jobs failed and are not in the mean"] if result.failed else []
    return "; ".join([head, *failed, *facts])


def eval_results(
    results: Sequence[DataResult],
    *,
    task_type: str = "anomaly-detection",
    dataset_types: Mapping[str, str] | None = None,
    per_category: bool = False,
    source_url: str | None = None,
) -> list[EvalResult]:
    """The figures as huggingface_hub knows them; values are fractions, 0 to 1, with four decimals.

    Args:
        results: From ``summarise``.
        task_type: The Hub has no task of this name with a page of its own; any identifier is allowed.
        dataset_types: Data set's name -> its id on the Hub; the name in small letters where there is none.
        per_category: Add every category's own figures.
        source_url: Where the results can be looked up.
    """
    found = []
    for result in results:
        parts: list[tuple[str | None, Mapping[str, float]]] = [(None, result.mean)]
        parts += list(result.categories) if per_category else []
        for category, metrics in parts:
            for name, value in metrics.items():
                found.append(
                    EvalResult(
                        task_type=task_type,
                        task_name="Anomaly detection and localisation",
                        dataset_type=(dataset_types or {}).get(result.data, slug(result.data)),
                        dataset_name=result.data if category is None else f"{result.data} {category}",
                        dataset_config=category,
                        dataset_split="test",
                        dataset_args={"provenance": provenance_note(result)},
                        metric_type=METRICS[name][0],
                        metric_name=METRICS[name][1],
                        metric_value=round(value, 4),
                        source_name="anoclip compare" if source_url else None,
                        source_url=source_url,
                    )
                )
    return found


def model_card(
    name: str, results: Sequence[DataResult], evals: Sequence[EvalResult], *, license_name: str = "apache-2.0"
) -> str:
    """A model card: front matter with ``model-index``, a table and the provenance; read back before it is returned.

    Raises:
        ValueError: If huggingface_hub reads something else than what was meant.
    """
    data = ModelCardData(
        model_name=name,
        eval_results=list(evals),
        license=license_name,
        library_name="anomalib",
        tags=["anomaly-detection", "zero-shot", "clip", "anomalib"],
    )
    lines = ["---", data.to_yaml(), "---", "", f"# {name}", ""]
    for result in results:
        # A metric that one category lacks has no mean, and says so in its column.
        shown = [metric for metric in METRICS if any(metric in metrics for _, metrics in result.categories)]
        lines += [f"## {result.data}", "", "| category | " + " | ".join(METRICS[metric][1] for metric in shown) + " |"]
        lines += ["|---" * (len(shown) + 1) + "|"]
        for category, metrics in (*result.categories, ("**mean**", result.mean)):
            cells = [f"{metrics[metric]:.4f}" if metric in metrics else "undefined" for metric in shown]
            lines.append(f"| {_cell(category)} | " + " | ".join(cells) + " |")
        lines += ["", f"Seeds: {', '.join(map(str, result.seeds))}.", ""]
        lines += [f"- {key.replace('_', ' ')}: {_cell(value)}" for key, value in result.facts.items()]
        lines += [f"- failed, not in the mean: {_cell(text)}" for text in result.failed] + [""]
    text = "\n".join(lines)
    check_model_card(text, name, evals)
    return text


def model_index_yaml(name: str, evals: Sequence[EvalResult]) -> str:
    """The ``model-index`` alone, to be put into a card that exists already."""
    index = ModelCardData(model_name=name, eval_results=list(evals)).to_dict()["model-index"]
    return yaml.safe_dump({"model-index": index}, sort_keys=False, allow_unicode=True, width=120)


def check_model_card(text: str, name: str, evals: Sequence[EvalResult]) -> None:
    """Read a card with huggingface_hub and compare.

    Raises:
        ValueError: If name or figures differ.
    """
    read = ModelCard(text, ignore_metadata_errors=False).data
    found = {_key(result): result.metric_value for result in read.get("eval_results") or []}
    meant = {_key(result): result.metric_value for result in evals}
    found_name = read.get("model_name")
    if found_name != name or found != meant:
        raise ValueError(f"huggingface_hub reads {len(found)} results of '{found_name}', {len(meant)} of '{name}' were meant")


def _key(result: EvalResult) -> tuple[Any, ...]:
    return (*result.unique_identifier, result.metric_type, result.metric_name)


def eval_results_yaml(result: DataResult, dataset_id: str, *, source_url: str | None = None) -> str:
    """One data set's figures in the ``.eval_results/*.yaml`` format, one entry for each metric; read back where possible.

    Args:
        result: From ``summarise``.
        dataset_id: The Hub's id of the benchmark, ``namespace/name``.
        source_url: Where the results can be looked up.

    Raises:
        ValueError: If the id has another form, or huggingface_hub reads something else than what was meant.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", dataset_id):
        raise ValueError(f"'{dataset_id}' is no id of a data set on the Hub, namespace/name")
    entries: list[dict[str, Any]] = []
    for metric, value in result.mean.items():
        entry: dict[str, Any] = {
            "dataset": {"id": dataset_id, "task_id": slug(metric)},
            "value": round(value, 4),
        }
        if result.time:
            entry["date"] = result.time
        if source_url:
            entry["source"] = {"url": source_url, "name": "anoclip compare"}
        entry["notes"] = f"{METRICS[metric][1]}; {provenance_note(result)}"
        entries.append(entry)
    text = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=120)
    parse = _entries_parser()
    if parse is not None:
        read = [(entry.dataset_id, entry.task_id, entry.value, entry.notes) for entry in parse(yaml.safe_load(text))]
        meant = [(e["dataset"]["id"], e["dataset"]["task_id"], e["value"], e["notes"]) for e in entries]
        if read != meant:
            raise ValueError(f"huggingface_hub reads {read[:2]}, {meant[:2]} was meant")
    return text


def _entries_parser() -> Any:
    """huggingface_hub's parser of evaluation results, or None in versions that do not know the format yet."""
    import huggingface_hub

    return getattr(huggingface_hub, "parse_eval_result_entries", None)


def can_check_eval_results() -> bool:
    """Whether the installed huggingface_hub knows the evaluation-results format."""
    return _entries_parser() is not None


def slug(name: str) -> str:
    """A name in small letters, with underscores for all but letters and digits."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _cell(text: Any) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")
