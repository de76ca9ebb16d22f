"""The demonstration: generated data, AnoCLIP through anomalib's Engine, a table of figures and a gallery."""

import csv
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from anomalib.data import ImageBatch, MVTecAD
from anomalib.engine import Engine
from lightning.pytorch import Callback
from PIL import Image

from anoclip_anomalib.anoclip.callbacks import TestTimeAdaptation
from anoclip_anomalib.anoclip.lightning_model import AnoClip
from anoclip_anomalib.bundled.weights_file import NOTICE
from anoclip_anomalib.demo.dataset import CATEGORIES, write_demo_dataset
from anoclip_anomalib.demo.gallery import Gallery, GalleryItem, MetricRow, write_gallery
from anoclip_anomalib.evaluation.evaluator import StreamingEvaluator
from anoclip_anomalib.evaluation.metrics import AUPRO, ImageAP, ImageAUROC, ImageF1Max, PixelAP, PixelAUROC
from anoclip_anomalib.files import atomic_write

METRICS = {
    "image AUROC": ImageAUROC,
    "image F1-max": ImageF1Max,
    "image AP": ImageAP,
    "pixel AUROC": PixelAUROC,
    "pixel AP": PixelAP,
    "AUPRO": AUPRO,
}
"""Column -> metric, all from raw scores at the model's resolution."""
MEAN = "mean"
_PLAIN = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
_GOOD_SHOWN, _BAD_SHOWN = 2, 2  # images a kind in the gallery


@dataclass(frozen=True)
class Variant:
    """One column of the demonstration.

    Attributes:
        name: As it stands in table and gallery.
        model: Arguments of ``AnoClip`` besides backbone, image size and cache.
        callbacks: Makes the Engine's callbacks for one run.
    """

    name: str
    model: dict[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], list[Callback]] = list


VARIANTS = (
    Variant("value", {"local_attention": "value"}),
    Variant("query-key", {"local_attention": "query-key"}),
    Variant("AnoCLIP+", {"local_attention": "value"}, lambda: [TestTimeAdaptation()]),
)


@dataclass(frozen=True)
class DemoResult:
    """What a run of the demonstration produced: the metric rows and the files."""

    rows: list[MetricRow]
    gallery: Path
    metrics: Path
    data: Path


class _Collector(Callback):
    """Keeps every test image's path, score and map."""

    def __init__(self) -> None:
        self.scores: dict[str, float] = {}
        self.maps: dict[str, np.ndarray] = {}

    def on_test_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: ImageBatch, *args: Any) -> None:
        del trainer, pl_module, batch, args
        for index, path in enumerate(outputs.image_path):
            self.scores[str(path)] = float(outputs.pred_score[index])
            self.maps[str(path)] = outputs.anomaly_map[index].squeeze().float().cpu().numpy()


def run_demo(
    out: str | Path,
    *,
    categories: Sequence[str] = CATEGORIES,
    image_size: int | None = None,
    test_good: int = 16,
    test_bad: int = 8,
    seed: int = 0,
    variants: Sequence[Variant] = VARIANTS,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> DemoResult:
    """Generate the data, run all variants on all categories and write gallery and table.

    Args:
        out: Results root; nothing is written outside it.
        categories: Some of :data:`anoclip_anomalib.demo.dataset.CATEGORIES`.
        image_size: Side that images are resized to; ``None`` for the size that the encoder was trained with.
        test_good: Good test images in a category.
        test_bad: Test images of each defect kind.
        seed: Of the generated data.
        variants: The columns.
        progress: Called with (steps done, steps in all, what is being done).

    Returns:
        Rows and files.

    Raises:
        ValueError: An argument is not usable.
        FileExistsError: ``out`` holds a data set that was generated otherwise.
    """
    out = Path(out).resolve()  # anomalib reports absolute paths
    total, done = len(categories) * (1 + len(variants)), 0
    data = out / "data"
    for category in categories:
        progress(done, total, f"{category}: generating images")
        write_demo_dataset(data, [category], test_good=test_good, test_bad=test_bad, seed=seed)
        done += 1
    rows: list[MetricRow] = []
    items: dict[str, list[GalleryItem]] = {}
    facts: dict[str, str] = {}
    for category in categories:
        collected: dict[str, _Collector] = {}
        for variant in variants:
            progress(done, total, f"{category}: {variant.name}")
            values, collected[variant.name], facts = _measure(variant, category, data, out, image_size)
            rows.append(MetricRow(category, variant.name, values))
            done += 1
        items[category] = _gallery_items(data / category, collected)
    rows += _means(rows, variants)
    progress(done, total, "writing the gallery")
    facts = {**facts, "command": f"anoclip demo, data seed {seed}, {test_good} good images and {test_bad} of each defect"}
    gallery = Gallery("AnoCLIP on generated data", NOTICE, items, rows, facts)
    write_gallery(gallery, out / "gallery.html")
    _write_csv(rows, out / "metrics.csv")
    return DemoResult(rows, out / "gallery.html", out / "metrics.csv", data)


def _measure(
    variant: Variant, category: str, data: Path, out: Path, image_size: int | None
) -> tuple[dict[str, float], _Collector, dict[str, str]]:
    collector = _Collector()
    with _quiet():
        model = AnoClip(
            backbone="demo",
            pretrained="demo",
            image_size=image_size,
            text_cache_dir=str(out / "text_cache"),
            post_processor=False,
            evaluator=False,
            visualizer=False,
            raw_evaluator=StreamingEvaluator(test_metrics=[metric(prefix="raw_") for metric in METRICS.values()]),
            **variant.model,
        )
        datamodule = MVTecAD(root=data, category=category, eval_batch_size=16, num_workers=0)
        engine = Engine(default_root_dir=out / "runs", callbacks=[collector, *variant.callbacks()], **_PLAIN)
        results = engine.test(model=model, datamodule=datamodule, verbose=False)
    logged = results[0]
    values = {column: float(logged[f"raw_{metric.__name__}"]) for column, metric in METRICS.items()}
    size = " x ".join(map(str, model.model.image_size))
    facts = {
        "encoder": f"bundled demonstration encoder, SHA-256 {model.weights_digest}",
        "image size": f"{size} pixels; thresholds are not involved in any figure",
        "views": "1",
        "open_clip": model.model.provenance["open_clip"],
    }
    return values, collector, facts


def _gallery_items(folder: Path, collected: dict[str, _Collector]) -> list[GalleryItem]:
    items = []
    kinds = sorted(path.name for path in (folder / "test").iterdir())
    for kind in sorted(kinds, key=lambda name: (name == "good", name)):
        for path in sorted((folder / "test" / kind).glob("*.png"))[: _GOOD_SHOWN if kind == "good" else _BAD_SHOWN]:
            mask_path = folder / "ground_truth" / kind / f"{path.stem}_mask.png"
            mask = np.asarray(Image.open(mask_path)) > 0 if mask_path.exists() else None
            items.append(
                GalleryItem(
                    name=f"{kind}/{path.stem}",
                    image=np.asarray(Image.open(path).convert("RGB")),
                    mask=mask,
                    maps={name: collector.maps[str(path)] for name, collector in collected.items()},
                    scores={name: collector.scores[str(path)] for name, collector in collected.items()},
                )
            )
    return items


def _means(rows: Sequence[MetricRow], variants: Sequence[Variant]) -> list[MetricRow]:
    means = []
    for variant in variants:
        own = [row.values for row in rows if row.variant == variant.name]
        means.append(MetricRow(MEAN, variant.name, {name: float(np.mean([row[name] for row in own])) for name in METRICS}))
    return means


def _write_csv(rows: Sequence[MetricRow], path: Path) -> None:
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["category", "variant", *METRICS])
        writer.writerows([row.category, row.variant, *(f"{row.values[name]:.6f}" for name in METRICS)] for row in rows)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's and anomalib's notes about their own set-up out of the way; errors still come through."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
