"""What knowledge prompts change on generated parts: AnoCLIP with the bundled encoder, encoded once and scored with both texts.

python benchmarks/knowledge_prompts.py        # three drawings, five categories, 12 good and 12 bad images of each, 128 px
"""

import zlib

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from anoclip_anomalib import AnoClipModel
from anoclip_anomalib.clip.constants import CLIP_MEAN, CLIP_STD
from anoclip_anomalib.demo.dataset import CATEGORIES, draw_sample
from anoclip_anomalib.demo.held_out import DEFECTS_OF

DRAWINGS, GOOD, OF_EACH_DEFECT, SIZE = (0, 1, 2), 12, 4, 128
METRICS = ("image AUROC", "pixel AUROC", "pixel AP")
PROMPTS: dict[str, dict] = {"plain": {}, "with knowledge": {"knowledge": True}}


def measure(models: dict[str, AnoClipModel], category: str, drawing: int) -> dict[str, tuple[float, ...]]:
    """The metrics of each model on one category."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    kinds = ["good"] * GOOD + [kind for kind in DEFECTS_OF[category] for _ in range(OF_EACH_DEFECT)]
    scores: dict[str, list[float]] = {name: [] for name in models}
    maps: dict[str, list[np.ndarray]] = {name: [] for name in models}
    masks = []
    for place, kind in enumerate(kinds):
        index = place if kind == "good" else (place - GOOD) % OF_EACH_DEFECT
        image, mask, _ = draw_sample(category, kind, SIZE, [drawing, zlib.crc32(f"test/{kind}".encode()), index])
        pixels = (torch.from_numpy(image).permute(2, 0, 1).float() / 255 - mean) / std
        features = next(iter(models.values())).encode(pixels[None])
        masks.append(mask)
        for name, model in models.items():
            result = model.score(features)
            scores[name].append(float(result.pred_score))
            maps[name].append(result.anomaly_map[0, 0].numpy())
    labels, truth = [kind != "good" for kind in kinds], np.stack(masks).ravel()
    return {
        name: (
            roc_auc_score(labels, scores[name]),
            roc_auc_score(truth, np.stack(maps[name]).ravel()),
            average_precision_score(truth, np.stack(maps[name]).ravel()),
        )
        for name in models
    }


def main() -> None:
    torch.set_num_threads(1)
    models = {name: AnoClipModel(backbone="demo", prompts=prompts).eval() for name, prompts in PROMPTS.items()}
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in models}
    with torch.inference_mode():
        for drawing in DRAWINGS:
            for category in CATEGORIES:
                for model in models.values():
                    model.set_class(category)
                for name, row in measure(models, category, drawing).items():
                    found[name].append(row)
    for name, rows in found.items():
        of_drawings = np.array(rows).reshape(len(DRAWINGS), -1, len(METRICS)).mean(axis=1) * 100
        figures = zip(METRICS, of_drawings.mean(axis=0), of_drawings.std(axis=0, ddof=1), strict=True)
        print(name, *(f"{metric} {mean:.1f} (sd of drawings {spread:.1f})" for metric, mean, spread in figures), sep=", ")


if __name__ == "__main__":
    main()
