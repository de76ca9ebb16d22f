"""What each part of AnoCLIP contributes: one setting changed at a time, on any datamodule with categories.

    python benchmarks/ablation.py --datamodule GeneratedParts --out benchmarks/results/ablation_demo     # draws its images

    python benchmarks/ablation.py --datamodule MVTecAD --root <MVTec AD> --categories bottle cable \
        --backbone ViT-B-16-plus-240 --pretrained laion400m_e32 --image-size 240 --out results/ablation_mvtec

Writes ``ablation.csv`` (every category), ``ablation.md`` (means) and ``ablation.png``. No training, no tuning: the numbers of
the settings are those of one run on the test images.
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from anomalib.data import AnomalibDataModule, ImageBatch
from rich.progress import track

from anoclip_anomalib import AnoClipModel, TestTimeAdaptation
from anoclip_anomalib.anoclip.lightning_model import AnoClip
from anoclip_anomalib.comparison.suite.catalogue import find_class, known_categories
from anoclip_anomalib.evaluation.evaluator import StreamingEvaluator
from anoclip_anomalib.evaluation.metrics import AUPRO, ImageAUROC, PixelAP, PixelAUROC
from anoclip_anomalib.files import atomic_write

METRICS = {"image AUROC": ImageAUROC, "pixel AUROC": PixelAUROC, "pixel AP": PixelAP, "AUPRO": AUPRO}
# Factor -> (value as shown, arguments of the model, arguments of the adaptation or None). The first value is the default.
Factors = dict[str, list[tuple[str, dict, dict | None]]]


def factors(depth: int) -> Factors:
    """The settings to compare, for an encoder with ``depth`` blocks."""
    depths = sorted({depth, *(n for n in (0, 1, 2, 3, 4, 6, 8, 10, 16, 20) if n < depth)}, reverse=True)
    return {
        "local attention": [(kind, {"local_attention": kind}, None) for kind in ("value", "query-key", "self-self")],
        "local blocks": [(str(n), {"local_blocks": n}, None) for n in depths],
        "views": [(str(n), {"views": n}, None) for n in (1, 22)],
        "smoothing": [(str(n), {"smoothing": n}, None) for n in (3, 1, 5, 7)],
        "text mean": [(mean, {"text_mean": mean}, None) for mean in ("before_norm", "after_norm")],
        "adapter": [("none", {}, None), ("text", {}, {}), ("linear", {}, {"adapter": "linear"})],
        "adaptation steps": [(str(n), {}, {"steps": n}) for n in (5, 0, 1, 2, 10, 20)],
        "adaptation noise": [(str(s), {}, {"noise_std": s}) for s in (0.055, 0.0, 0.01, 0.03, 0.1, 0.2)],
        "guard": [(name, {}, {"guard": name == "on"}) for name in ("off", "on")],
        "optimizer": [(name, {}, {"reset_optimizer": name == "reset"}) for name in ("reset", "carried (authors)")],
    }


def batches(datamodule: AnomalibDataModule, image_size: tuple[int, int], tiling: str) -> list[ImageBatch]:
    """The normalised test images of a datamodule, in memory."""
    pre_processor = AnoClip.configure_pre_processor(image_size, tiling=tiling)
    resize, normalise = pre_processor.transform.transforms
    datamodule.prepare_data()
    datamodule.setup()
    datamodule.test_data.augmentations = resize
    loaded = []
    for batch in datamodule.test_dataloader():
        loaded.append(batch.update(image=normalise(batch.image)))
    return loaded


def measure(model: AnoClipModel, data: list[ImageBatch], adaptation: dict | None) -> dict[str, float]:
    """Metrics of one setting on one category, from raw scores."""
    metrics = {name: metric() for name, metric in METRICS.items()}
    StreamingEvaluator(test_metrics=list(metrics.values()))  # lets the pixel metrics share one histogram
    if adaptation is not None:
        TestTimeAdaptation(**adaptation).attach(model)
    with torch.inference_mode():
        for batch in data:
            scored = ImageBatch(image=batch.image, gt_label=batch.gt_label, gt_mask=batch.gt_mask)
            scored.update(**model(batch.image)._asdict())
            for metric in metrics.values():
                metric.update(scored)
    TestTimeAdaptation.detach(model)
    return {name: float(metric.compute()) for name, metric in metrics.items()}


def jobs(arguments: argparse.Namespace) -> Iterator[tuple[str, str, str, dict, dict | None]]:
    """(category, factor, value, model arguments, adaptation arguments) of every measurement."""
    depth = AnoClipModel(backbone=arguments.backbone, pretrained=arguments.pretrained).visual_encoder
    table = factors(len(depth.visual.transformer.resblocks))
    chosen = arguments.factors or list(table)
    for unknown in set(chosen) - set(table):
        msg = f"Unknown factor {unknown!r}; choose from {', '.join(map(repr, table))}"
        raise SystemExit(msg)
    for category in arguments.categories:
        for factor in chosen:
            for value, model, adaptation in table[factor]:
                yield category, factor, value, model, adaptation


def run(arguments: argparse.Namespace) -> list[dict]:
    """Measure everything; one row for a category and setting."""
    rows, loaded, done = [], (None, None), {}
    todo = list(jobs(arguments))
    for category, factor, value, model_arguments, adaptation in track(todo, description="Measuring"):
        base = {
            "backbone": arguments.backbone,
            "pretrained": arguments.pretrained,
            "image_size": arguments.image_size,
            "tiling": arguments.tiling,
            "class_name": category,
        }
        model = AnoClipModel(**{**base, **model_arguments}).eval()
        if loaded[0] != category:
            datamodule = find_class("data", arguments.datamodule)(
                **arguments.data_args, category=category, num_workers=0, eval_batch_size=arguments.batch_size
            )
            loaded = (category, batches(datamodule, model.image_size, arguments.tiling))
        # The default setting occurs under every factor; it is measured once.
        key = json.dumps(
            [category, _without_defaults(model_arguments), _without_adaptation_defaults(adaptation)], sort_keys=True
        )
        if key not in done:
            done[key] = measure(model, loaded[1], adaptation)
        rows.append({"category": category, "factor": factor, "value": value, **done[key]})
    return rows


def _without_defaults(arguments: dict) -> dict:
    defaults = {"local_attention": "value", "views": 1, "smoothing": 3, "text_mean": "before_norm"}
    return {name: value for name, value in arguments.items() if defaults.get(name) != value}


def _without_adaptation_defaults(arguments: dict | None) -> dict | None:
    defaults = {"steps": 5, "noise_std": 0.055, "guard": False, "reset_optimizer": True}
    return None if arguments is None else {k: v for k, v in arguments.items() if k not in defaults or defaults[k] != v}


def means(rows: list[dict]) -> dict[tuple[str, str], dict[str, float]]:
    """(factor, value) -> metric -> mean over the categories."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        groups.setdefault((row["factor"], row["value"]), []).append(row)
    return {key: {name: float(np.mean([row[name] for row in group])) for name in METRICS} for key, group in groups.items()}


def write_table(path: Path, table: dict[tuple[str, str], dict[str, float]], command: str, categories: list[str]) -> None:
    """Means as Markdown; the first value of a factor is the default."""
    lines = [
        "# Ablation",
        "",
        f"Command: `{command}`",
        "",
        f"Mean over {', '.join(categories)}, in percent, from raw scores. One setting is changed at a time; the first row of "
        "each factor is the default (for the factors of adaptation: AnoCLIP+ with the text adapter).",
        "",
        f"| factor | value | {' | '.join(METRICS)} |",
        f"|---|---|{'---:|' * len(METRICS)}",
    ]
    lines += [
        f"| {factor} | {value} | {' | '.join(f'{100 * values[name]:.2f}' for name in METRICS)} |"
        for (factor, value), values in table.items()
    ]
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def plot(path: Path, table: dict[tuple[str, str], dict[str, float]]) -> None:
    """One panel for each factor."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(factor for factor, _ in table))
    columns = min(len(names), 4)
    rows = -(-len(names) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(4.2 * columns, 3.2 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    for axis, factor in zip(axes.flat, names, strict=False):
        values = [value for name, value in table if name == factor]
        if all(_is_number(value) for value in values):
            values.sort(key=float)
        for metric in METRICS:
            axis.plot(values, [100 * table[factor, value][metric] for value in values], marker="o", label=metric)
        axis.set_title(factor)
        axis.grid(alpha=0.3)
        axis.set_ylim(0, 100)
    axes.flat[0].set_ylabel("percent, mean over categories")
    axes.flat[0].legend(fontsize="small")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)
    pyplot.close(figure)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def main(argv: list[str] | None = None) -> int:
    """Run the ablation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, help="root folder of the data set (default: the datamodule's)")
    parser.add_argument("--out", type=Path, required=True, help="folder for table and plot")
    parser.add_argument(
        "--datamodule", default="MVTecAD", help="a datamodule with root and category; GeneratedParts draws its images"
    )
    parser.add_argument("--data-args", type=json.loads, default={}, metavar="JSON", help="more arguments of the datamodule")
    parser.add_argument("--categories", nargs="+", help="default: all that the datamodule knows or the root holds")
    parser.add_argument("--backbone", default="demo")
    parser.add_argument("--pretrained", default="demo")
    parser.add_argument("--image-size", type=int, help="default: the size that the backbone was trained with")
    parser.add_argument("--tiling", default="none", choices=["none", "square"])
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--factors", nargs="+", help="only these")
    arguments = parser.parse_args(argv)
    found = find_class("data", arguments.datamodule)
    if arguments.root is not None:
        if not arguments.root.is_dir() and not getattr(found, "draws_itself", False):
            parser.error(f"no such folder: {arguments.root}")
        arguments.data_args["root"] = arguments.root
    arguments.categories = arguments.categories or list(known_categories(found, arguments.root))
    rows = run(arguments)
    with atomic_write(arguments.out / "ablation.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    table = means(rows)
    command = " ".join(["python benchmarks/ablation.py", *(sys.argv[1:] if argv is None else argv)])
    write_table(arguments.out / "ablation.md", table, command, arguments.categories)
    plot(arguments.out / "ablation.png", table)
    print((arguments.out / "ablation.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
