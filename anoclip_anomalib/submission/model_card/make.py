"""A comparison's results for the Hugging Face Hub: ``model-index`` YAML and the newer evaluation-results YAML.

Both are checked by reading them back with huggingface_hub's own parsers.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from anoclip_anomalib.comparison.run.folder import ResultsFolder, results_folders
from anoclip_anomalib.evaluation.registry import METRICS
from anoclip_anomalib.files import atomic_write
from anoclip_anomalib.submission.model_card.summary import DataResult, models_of, provenance_note, summarise
from anoclip_anomalib.submission.provenance import write_provenance


def write_model_card(
    results: str | Path,
    out: str | Path,
    *,
    model: str | None = None,
    name: str | None = None,
    hub_ids: Mapping[str, str] | None = None,
    license: str = "apache-2.0",
    allow_failed: bool = False,
    **options: Any,
) -> tuple[list[Path], list[str]]:
    """Write ``README.md``, ``model-index.yaml``, ``.eval_results/*.yaml`` and the provenance.

    Args:
        results: What ``anoclip compare`` wrote: a suite's folder, or a folder with one in it.
        out: Where the files go.
        model: The model's name in the suite; needed if there are several.
        name: The model's name on the card; ``model`` if not given.
        hub_ids: Data set -> its id on the Hub; evaluation results are written for these.
        license: The model's.
        allow_failed: Write the card although jobs failed; it says which.
        **options: ``task_type``, ``per_category`` and ``source_url`` of :func:`eval_results`.

    Returns:
        The files, and remarks on what is not there or unchecked.

    Raises:
        ValueError: If the results cannot be used: damaged or failed rows, several suites, unknown names.
    """
    folders, hub_ids, out = results_folders(results), hub_ids or {}, Path(out)
    if len(folders) > 1:
        raise ValueError(f"{results} holds the results of several suites; give one: {', '.join(map(str, folders))}")
    rows, faults = ResultsFolder(folders[0]).rows()
    if faults:
        raise ValueError("Rows are damaged, run the comparison again: " + "; ".join(faults))
    models = models_of(rows)
    if not model and len(models) != 1:
        raise ValueError(f"Choose one with --model: {', '.join(models) or 'there are no rows'}")
    model = model or models[0]
    found = summarise(rows, model)
    failed = [text for result in found for text in result.failed]
    if failed and not allow_failed:
        raise ValueError(f"{len(failed)} jobs failed ({failed[0]}, ...); run them again, or give --allow-failed")
    if unknown := sorted(set(hub_ids) - {result.data for result in found}):
        raise ValueError(f"--hub-dataset names {', '.join(unknown)}; there are {', '.join(r.data for r in found)}")
    name = name or model
    evals = eval_results(found, dataset_types=hub_ids, **options)
    texts = {"README.md": model_card(name, found, evals, license_name=license)}
    texts["model-index.yaml"] = model_index_yaml(name, evals)
    for result in found:
        if result.data in hub_ids:
            text = eval_results_yaml(result, hub_ids[result.data], source_url=options.get("source_url"))
            texts[f".eval_results/{slug(result.data)}.yaml"] = text
    for relative, text in texts.items():
        with atomic_write(out / relative) as temporary:
            temporary.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")
    facts = {"leaderboard": "Hugging Face", "model": model, "results": str(folders[0].resolve())}
    provenance = write_provenance(out, {**facts, "data": {result.data: dict(result.facts) for result in found}})
    remarks = []
    if absent := [result.data for result in found if result.data not in hub_ids]:
        remarks.append(f"no evaluation results for {', '.join(absent)}: give the benchmark's id with --hub-dataset NAME=ID")
    if hub_ids and not can_check_eval_results():
        remarks.append("the installed huggingface_hub cannot read evaluation results back: they are unchecked")
    return [*(out / relative for relative in texts), provenance], remarks


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
    return [
        EvalResult(
            task_type=task_type,
            task_name="Anomaly detection and localisation",
            dataset_type=(dataset_types or {}).get(result.data, slug(result.data)),
            dataset_name=result.data if category is None else f"{result.data} {category}",
            dataset_config=category,
            dataset_split="test",
            dataset_args={"provenance": provenance_note(result)},
            metric_type=METRICS[name].hub_type,
            metric_name=METRICS[name].words,
            metric_value=round(value, 4),
            source_name="anoclip compare" if source_url else None,
            source_url=source_url,
        )
        for result in results
        for category, metrics in ((None, result.mean), *(result.categories if per_category else ()))
        for name, value in metrics.items()
    ]


def model_card(
    name: str, results: Sequence[DataResult], evals: Sequence[EvalResult], *, license_name: str = "apache-2.0"
) -> str:
    """A model card: front matter with ``model-index``, a table and the provenance; read back before it is returned.

    Raises:
        ValueError: If huggingface_hub reads something else than what was meant.
    """
    tags = ["anomaly-detection", "zero-shot", "clip", "anomalib"]
    data = ModelCardData(model_name=name, eval_results=list(evals), license=license_name, library_name="anomalib", tags=tags)
    lines = ["---", data.to_yaml(), "---", "", f"# {name}", ""]
    for result in results:
        # A metric that one category lacks has no mean, and says so in its column.
        shown = [metric for metric in METRICS if any(metric in metrics for _, metrics in result.categories)]
        lines += [f"## {result.data}", "", "| category | " + " | ".join(METRICS[metric].words for metric in shown) + " |"]
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
    found, meant = (
        {(*result.unique_identifier, result.metric_type, result.metric_name): result.metric_value for result in results}
        for results in (read.get("eval_results") or [], evals)
    )
    found_name = read.get("model_name")
    if found_name != name or found != meant:
        raise ValueError(f"huggingface_hub reads {len(found)} results of '{found_name}', {len(meant)} of '{name}' were meant")


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
    entries: list[dict[str, Any]] = [
        {"dataset": {"id": dataset_id, "task_id": slug(metric)}, "value": round(value, 4)}
        | ({"date": result.time} if result.time else {})
        | ({"source": {"url": source_url, "name": "anoclip compare"}} if source_url else {})
        | {"notes": f"{METRICS[metric].words}; {provenance_note(result)}"}
        for metric, value in result.mean.items()
    ]
    text = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=120)
    if can_check_eval_results():
        parsed = huggingface_hub.parse_eval_result_entries(yaml.safe_load(text))
        read = [(entry.dataset_id, entry.task_id, entry.value, entry.notes) for entry in parsed]
        meant = [(e["dataset"]["id"], e["dataset"]["task_id"], e["value"], e["notes"]) for e in entries]
        if read != meant:
            raise ValueError(f"huggingface_hub reads {read[:2]}, {meant[:2]} was meant")
    return text


def can_check_eval_results() -> bool:
    """Whether the installed huggingface_hub knows the evaluation-results format."""
    return hasattr(huggingface_hub, "parse_eval_result_entries")


def slug(name: str) -> str:
    """A name in small letters, with underscores for all but letters and digits."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _cell(text: Any) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")
