"""``anoclip submit model-card``: a comparison's results as Hugging Face model card and evaluation results."""

from collections.abc import Sequence
from pathlib import Path

from anoclip_anomalib.cli import submit_shared as shared

NAME = "model-card"


def main(argv: list[str]) -> int:
    """Run the command.

    Args:
        argv: The words after ``anoclip submit model-card``.

    Returns:
        0, or 2 for input that cannot be used.
    """
    parser = shared.parser(NAME, "Write a comparison's results for the Hugging Face Hub.", with_model=False)
    parser.add_argument("results", help="folder that `anoclip compare` wrote")
    parser.add_argument("--model", help="which of its models (needed if there are several)")
    parser.add_argument("--name", help="name of the model on the card (default: the model's)")
    parser.add_argument("--out", default="model_card", metavar="FOLDER", help="(default: %(default)s)")
    parser.add_argument(
        "--hub-dataset",
        action="append",
        default=[],
        metavar="NAME=ID",
        help="a data set's id on the Hub, namespace/name; evaluation results are written for data sets that have one",
    )
    parser.add_argument("--per-category", action="store_true", help="model-index with every category's figures")
    parser.add_argument("--source-url", help="where the results can be looked up")
    parser.add_argument("--license", default="apache-2.0", help="(default: %(default)s)")
    parser.add_argument("--task-type", default="anomaly-detection", help="(default: %(default)s)")
    parser.add_argument("--allow-failed", action="store_true", help="write the card although jobs failed; it says which")
    arguments = parser.parse_args(argv)
    return shared.run(NAME, lambda: _write(arguments))


def _hub_ids(pairs: Sequence[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, equals, hub_id = pair.partition("=")
        if not (name and equals and hub_id):
            raise ValueError(f"--hub-dataset '{pair}' is no NAME=ID")
        found[name] = hub_id
    return found


def _write(arguments) -> int:  # noqa: ANN001
    from anoclip_anomalib.comparison.folder import ResultsFolder
    from anoclip_anomalib.files import atomic_write
    from anoclip_anomalib.submission import model_card as cards
    from anoclip_anomalib.submission.comparison_summary import models_of, summarise
    from anoclip_anomalib.submission.provenance import write_provenance

    rows, faults = ResultsFolder(arguments.results).rows()
    if faults:
        raise ValueError("rows are damaged, run the comparison again: " + "; ".join(faults))
    models = models_of(rows)
    model = arguments.model or (models[0] if len(models) == 1 else None)
    if model is None:
        raise ValueError(f"choose one with --model: {', '.join(models) or 'there are no rows'}")
    results = summarise(rows, model)
    failed = [text for result in results for text in result.failed]
    if failed and not arguments.allow_failed:
        raise ValueError(f"{len(failed)} jobs failed ({failed[0]}, ...); run them again, or give --allow-failed")
    ids = _hub_ids(arguments.hub_dataset)
    unknown = sorted(set(ids) - {result.data for result in results})
    if unknown:
        raise ValueError(f"--hub-dataset names {', '.join(unknown)}; there are {', '.join(r.data for r in results)}")
    name = arguments.name or model
    evals = cards.eval_results(
        results,
        task_type=arguments.task_type,
        dataset_types=ids,
        per_category=arguments.per_category,
        source_url=arguments.source_url,
    )
    texts = {
        "README.md": cards.model_card(name, results, evals, license_name=arguments.license),
        "model-index.yaml": cards.model_index_yaml(name, evals),
    }
    for result in results:
        if result.data in ids:
            path = f".eval_results/{cards.slug(result.data)}.yaml"
            texts[path] = cards.eval_results_yaml(result, ids[result.data], source_url=arguments.source_url)
    out = Path(arguments.out)
    for relative, text in texts.items():
        with atomic_write(out / relative) as temporary:
            temporary.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")
        print(f"{out / relative}")
    facts = {"leaderboard": "Hugging Face", "model": model, "results": str(Path(arguments.results).resolve())}
    print(write_provenance(out, {**facts, "data": {result.data: dict(result.facts) for result in results}}))
    without = [result.data for result in results if result.data not in ids]
    if without:
        print(f"no evaluation results for {', '.join(without)}: give the benchmark's id with --hub-dataset NAME=ID")
    if ids and not cards.can_check_eval_results():
        print("the installed huggingface_hub cannot read evaluation results back: they are unchecked")
    return 0
