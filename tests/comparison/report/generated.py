"""Results folders with made-up rows, for reports of any size."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from anoclip_anomalib.comparison.report.tables import METRIC_TITLES
from anoclip_anomalib.comparison.run.folder import picture_stem
from anoclip_anomalib.comparison.run.row_schema import FORMAT

FACTS = {
    "auxiliary_data": "none",
    "category_data": "its name",
    "adapts_on_test_images": False,
    "sees_other_test_images": False,
    "order_dependent": False,
}
SIDE = 48  # of a picture; smaller than real ones, so that tests are fast


def write_results(
    folder: Path, models: int = 3, categories: int = 3, seeds: int = 2, samples: int = 6, seed: int = 0
) -> list[dict]:
    """Write suite.json, rows and pictures; returns the rows."""
    rng = np.random.default_rng(seed)
    names = [f"model {i}" for i in range(models)]
    places = [f"category_{i:02d}" for i in range(categories)]
    rows = []
    (folder / "rows").mkdir(parents=True)
    (folder / "pictures").mkdir()
    for category in places:
        stem = picture_stem("data", category)
        strip = rng.integers(0, 255, (SIDE, SIDE * samples, 3)).astype(np.uint8)
        Image.fromarray(strip).save(folder / "pictures" / f"{stem}-images.jpg", quality=82)
        for model in names:
            for number in range(seeds):
                row = one_row(rng, model, category, number, samples, len(rows))
                rows.append(row)
                heat = rng.integers(0, 255, (SIDE, SIDE * samples)).astype(np.uint8)
                Image.fromarray(heat).save(folder / "pictures" / f"{row['id']}.png")
                Image.fromarray((strip[..., 0] > 200).astype(np.uint8) * 255).save(
                    folder / "pictures" / f"{row['id']}-masks.png"
                )
    suite = {
        "format": FORMAT,
        "name": "made up",
        "description": "",
        "models": names,
        "data": {"data": places},
        "seeds": list(range(seeds)),
        "protocol": {"resolution": "model"},
        "jobs": [row["id"] for row in rows],
    }
    (folder / "suite.json").write_text(json.dumps(suite))
    for row in rows:
        save(folder, row)
    return rows


def made_up_images(rng: np.random.Generator, category: str, each: int = 12) -> list[list]:
    """Path, score, label and AUROC inside the map of good images and of those with two kinds of defects."""
    return [
        [f"{category}/test/{kind}/{i:03d}.png", float(rng.normal(label)), label, float(rng.uniform(0.5, 1)) if label else None]
        for kind, label in (("good", 0), ("crack", 1), ("dent", 1))
        for i in range(each)
    ]


def save(folder: Path, row: dict) -> None:
    """Write a row."""
    (folder / "rows" / f"{row['id']}.json").write_text(json.dumps(row))


def one_row(rng: np.random.Generator, model: str, category: str, seed: int, samples: int, index: int) -> dict:
    """A finished row with random figures."""
    grid = np.linspace(0, 1, 100)
    curve = {"x": grid.round(5).tolist(), "y": (grid ** rng.uniform(0.1, 1)).round(5).tolist()}
    precision = {"x": curve["x"], "y": (1 - 0.5 * grid).round(5).tolist()}
    return {
        "format": FORMAT,
        "id": f"{index:016x}",
        "job": {"model": model, "data": "data", "category": category, "seed": seed},
        "status": "done",
        "metrics": {name: float(rng.uniform(0.5, 1)) for name in METRIC_TITLES},
        "undefined": {},
        "thresholds": {part: {"value": 0.5, "rule": "mean + 3 std of normal images"} for part in ("image", "pixel")},
        "counts": {"images": 50, "reference_images": 30},
        "map_size": [240, 240],
        "resolution": "model",
        "image_score": "the model's own",
        "curves": {"image_roc": curve, "pixel_roc": curve, "image_pr": precision, "pixel_pr": precision}
        | {"pro": {"x": (0.3 * grid).tolist(), "y": curve["y"]}},
        "histogram": {
            "edges": [0.49, 0.51],
            "normal": rng.integers(0, 9, 40).tolist(),
            "anomalous": rng.integers(0, 9, 40).tolist(),
        },
        "images": made_up_images(rng, category),
        "samples": [
            [f"{category}/test/bad/{i:03d}.png", i % 2, float(rng.random()), float(rng.random())] for i in range(samples)
        ],
        "speed": {
            "median_s": float(rng.uniform(0.01, 0.5)),
            "p95_s": 0.6,
            "images_per_second": 10.0,
            "batch_size": 8,
            "timed_images": 20,
            "fit_s": 0.0,
            "test_s": 9.0,
            "device": "cpu",
            "threads": 2,
            "other_load": 0.1,
        },
        "memory": {"cpu_peak_mib": 900.0, "cpu_extra_mib": 100.0, "gpu_peak_mib": None},
        "parameters": {"total": 1000000, "trainable": 0},
        "duration_s": 10.0,
        "provenance": {
            "method": FACTS | {"adapts_on_test_images": model.endswith("1")},
            "preprocessing": {"image_size": [240, 240], "resize": "bilinear", "smoothing": "not stated"},
            "learning_type": "zero_shot",
            "weights_digest": f"{hash(model) & 0xFFFFFFFF:064x}",
            "versions": {"anomalib": "2.7.0"},
            "commit": "abc",
            "config": {
                "model": {"spec": {"class_path": "anoclip_anomalib.AnoClip", "init_args": {}}, "callbacks": []},
                "data": {"spec": {"class_path": "anomalib.data.MVTecAD", "init_args": {}}},
            },
            "seed": seed,
            "hardware": {"processor": "x", "host": "h"},
            "time": "2026-01-01T00:00:00+00:00",
        },
    }
