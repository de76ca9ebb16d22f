"""From a comparison's folder to the model card's files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anoclip_anomalib.comparison.run.folder import ResultsFolder, results_folders
from anoclip_anomalib.files import atomic_write
from anoclip_anomalib.submission.model_card import card as cards
from anoclip_anomalib.submission.model_card.summary import models_of, summarise
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
        **options: ``task_type``, ``per_category`` and ``source_url`` of :func:`card.eval_results`.

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
        raise ValueError("rows are damaged, run the comparison again: " + "; ".join(faults))
    models = models_of(rows)
    if not model and len(models) != 1:
        raise ValueError(f"choose one with --model: {', '.join(models) or 'there are no rows'}")
    model = model or models[0]
    found = summarise(rows, model)
    failed = [text for result in found for text in result.failed]
    if failed and not allow_failed:
        raise ValueError(f"{len(failed)} jobs failed ({failed[0]}, ...); run them again, or give --allow-failed")
    if unknown := sorted(set(hub_ids) - {result.data for result in found}):
        raise ValueError(f"--hub-dataset names {', '.join(unknown)}; there are {', '.join(r.data for r in found)}")
    name = name or model
    evals = cards.eval_results(found, dataset_types=hub_ids, **options)
    texts = {"README.md": cards.model_card(name, found, evals, license_name=license)}
    texts["model-index.yaml"] = cards.model_index_yaml(name, evals)
    for result in found:
        if result.data in hub_ids:
            text = cards.eval_results_yaml(result, hub_ids[result.data], source_url=options.get("source_url"))
            texts[f".eval_results/{cards.slug(result.data)}.yaml"] = text
    for relative, text in texts.items():
        with atomic_write(out / relative) as temporary:
            temporary.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")
    facts = {"leaderboard": "Hugging Face", "model": model, "results": str(folders[0].resolve())}
    provenance = write_provenance(out, {**facts, "data": {result.data: dict(result.facts) for result in found}})
    remarks = []
    if absent := [result.data for result in found if result.data not in hub_ids]:
        remarks.append(f"no evaluation results for {', '.join(absent)}: give the benchmark's id with --hub-dataset NAME=ID")
    if hub_ids and not cards.can_check_eval_results():
        remarks.append("the installed huggingface_hub cannot read evaluation results back: they are unchecked")
    return [*(out / relative for relative in texts), provenance], remarks
