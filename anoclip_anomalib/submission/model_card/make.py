"""From a comparison's folder to the model card's files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from anoclip_anomalib.comparison.run.folder import ResultsFolder, results_folders
from anoclip_anomalib.files import atomic_write
from anoclip_anomalib.submission.model_card import card as cards
from anoclip_anomalib.submission.model_card.summary import DataResult, models_of, summarise
from anoclip_anomalib.submission.provenance import write_provenance


@dataclass(frozen=True)
class CardRequest:
    """What the card shall tell.

    Attributes:
        model: The model's name in the suite; needed if there are several.
        name: The model's name on the card; ``model`` if not given.
        hub_ids: Data set -> its id on the Hub; evaluation results are written for these.
        per_category: Every category's own figures in ``model-index``.
        source_url: Where the results can be looked up.
        license: The model's.
        task_type: The Hub's name of the task.
        allow_failed: Write the card although jobs failed; it says which.
    """

    model: str | None = None
    name: str | None = None
    hub_ids: Mapping[str, str] = field(default_factory=dict)
    per_category: bool = False
    source_url: str | None = None
    license: str = "apache-2.0"
    task_type: str = "anomaly-detection"
    allow_failed: bool = False


def one_suite(path: str | Path) -> Path:
    """The results folder that is meant: ``path``, or the only one in it, as for ``anoclip report``.

    Raises:
        ValueError: If there are several.
    """
    folders = results_folders(path)
    if len(folders) > 1:
        raise ValueError(f"{path} holds the results of several suites; give one: {', '.join(map(str, folders))}")
    return folders[0]


def write_model_card(results: str | Path, out: Path, request: CardRequest) -> tuple[list[Path], list[str]]:
    """Write ``README.md``, ``model-index.yaml``, ``.eval_results/*.yaml`` and the provenance.

    Args:
        results: What ``anoclip compare`` wrote: a suite's folder, or a folder with one in it.
        out: Where the files go.
        request: What the card shall tell.

    Returns:
        The files, and remarks on what is not there or unchecked.

    Raises:
        ValueError: If the results cannot be used: damaged or failed rows, several suites, unknown names.
    """
    folder = one_suite(results)
    model, found = _results_of(folder, request)
    absent = [result.data for result in found if result.data not in request.hub_ids]
    name = request.name or model
    evals = cards.eval_results(
        found,
        task_type=request.task_type,
        dataset_types=request.hub_ids,
        per_category=request.per_category,
        source_url=request.source_url,
    )
    texts = {
        "README.md": cards.model_card(name, found, evals, license_name=request.license),
        "model-index.yaml": cards.model_index_yaml(name, evals),
    }
    for result in found:
        if result.data in request.hub_ids:
            text = cards.eval_results_yaml(result, request.hub_ids[result.data], source_url=request.source_url)
            texts[f".eval_results/{cards.slug(result.data)}.yaml"] = text
    for relative, text in texts.items():
        with atomic_write(out / relative) as temporary:
            temporary.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")
    facts = {"leaderboard": "Hugging Face", "model": model, "results": str(folder.resolve())}
    provenance = write_provenance(out, {**facts, "data": {result.data: dict(result.facts) for result in found}})
    remarks = []
    if absent:
        remarks.append(f"no evaluation results for {', '.join(absent)}: give the benchmark's id with --hub-dataset NAME=ID")
    if request.hub_ids and not cards.can_check_eval_results():
        remarks.append("the installed huggingface_hub cannot read evaluation results back: they are unchecked")
    return [*(out / relative for relative in texts), provenance], remarks


def _results_of(folder: Path, request: CardRequest) -> tuple[str, list[DataResult]]:
    rows, faults = ResultsFolder(folder).rows()
    if faults:
        raise ValueError("rows are damaged, run the comparison again: " + "; ".join(faults))
    models = models_of(rows)
    model = request.model or (models[0] if len(models) == 1 else None)
    if model is None:
        raise ValueError(f"choose one with --model: {', '.join(models) or 'there are no rows'}")
    found = summarise(rows, model)
    failed = [text for result in found for text in result.failed]
    if failed and not request.allow_failed:
        raise ValueError(f"{len(failed)} jobs failed ({failed[0]}, ...); run them again, or give --allow-failed")
    unknown = sorted(set(request.hub_ids) - {result.data for result in found})
    if unknown:
        raise ValueError(f"--hub-dataset names {', '.join(unknown)}; there are {', '.join(r.data for r in found)}")
    return model, found
