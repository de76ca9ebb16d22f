"""One protocol for every detector: a callback that reads raw scores and maps and keeps what a row needs."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lightning.pytorch import LightningModule, Trainer

from anoclip_anomalib.comparison.suite.suite import Protocol
from anoclip_anomalib.data.images import shrink
from anoclip_anomalib.evaluation.accumulator import PixelAccumulator
from anoclip_anomalib.evaluation.confidence import placements
from anoclip_anomalib.evaluation.raw_batch import raw_maps, raw_scores
from anoclip_anomalib.evaluation.raw_predictions import RawPredictions
from anoclip_anomalib.evaluation.reference import ScoreReference
from anoclip_anomalib.evaluation.resolution import datasets_of, map_mask_pairs, path_list

THUMBNAIL = 192  # longer side of a thumbnail in the report, pixels


class Scored(NamedTuple):
    """A test image and what the model says of it.

    Attributes:
        path: Of the image file.
        score: The raw one.
        label: 1 anomalous, 0 normal, -1 unknown.
        map_auroc: The pixel AUROC inside its map; NaN without mask or anomaly.
        thumbnail: Its map, (h, w) float32, h, w <= THUMBNAIL, if it is kept for the report.
        mask: Likewise, (h, w) uint8.
    """

    path: str
    score: float
    label: int
    map_auroc: float
    thumbnail: np.ndarray | None
    mask: np.ndarray | None


@dataclass
class Measured:
    """What a run left behind.

    Attributes:
        pixels: Pixel statistics of the test images that have masks.
        images: The test images, in order.
        image_reference, pixel_reference: Scores of normal validation images (not of test images).
        validation: Scores and labels of validation images.
        map_size: Height and width of the model's maps.
        no_image_score: The model gave no image score; the map's maximum was taken.
    """

    pixels: PixelAccumulator = field(default_factory=PixelAccumulator)
    images: list[Scored] = field(default_factory=list)
    image_reference: ScoreReference = field(default_factory=ScoreReference)
    pixel_reference: ScoreReference = field(default_factory=ScoreReference)
    validation: tuple[list[float], list[int]] = field(default_factory=lambda: ([], []))
    map_size: tuple[int, int] | None = None
    no_image_score: bool = False


def choose_samples(paths: list[str], labels: list[int], count: int) -> list[str]:
    """The images that every model keeps: two thirds anomalous, spread evenly over the sorted paths."""
    pairs = sorted(set(zip(paths, labels, strict=True)))
    bad, good = [p for p, label in pairs if label > 0], [p for p, label in pairs if label <= 0]
    from_good = min(len(good), max(count // 3, count - len(bad)))
    parts = ((bad, min(len(bad), count - from_good)), (good, from_good))
    return [group[i] for group, number in parts for i in np.linspace(0, len(group) - 1, number).round().astype(int)]


class Measure(RawPredictions):
    """Collects raw scores in validation and test. Put it first in ``Engine(callbacks=[...])``.

    Args:
        protocol: Resolution and number of samples.
    """

    stages = ("test",)

    def __init__(self, protocol: Protocol) -> None:
        super().__init__()
        self.protocol = protocol
        self.result = Measured()
        self._wanted: set[str] = set()

    def forget_validation(self) -> None:
        """Forget an earlier epoch's validation (training validates several times)."""
        self.result.image_reference.reset()
        self.result.pixel_reference.reset()
        self.result.validation = ([], [])

    def read_validation(self, batch: Any, scores: np.ndarray, anomalous: np.ndarray) -> None:
        """Scores of validation images."""
        self.result.validation[0].extend(scores.tolist())
        self.result.validation[1].extend(anomalous.astype(int).tolist())
        self.result.image_reference.update(scores[~anomalous])
        if (maps := raw_maps(batch)) is not None:
            self.result.pixel_reference.update(maps[~anomalous])

    def begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the samples."""
        samples = next((getattr(dataset, "samples", None) for dataset in datasets_of(trainer.test_dataloaders)), None)
        if samples is not None:
            paths, labels = [str(path) for path in samples["image_path"]], [int(x) for x in samples["label_index"]]
            self._wanted = set(choose_samples(paths, labels, self.protocol.sample_images))

    def read(self, batch: Any, trainer: Trainer, pl_module: LightningModule, loader: int = 0) -> None:
        """Record a batch.

        Raises:
            ValueError: If scores or maps are not finite, or a map has another size than its mask.
        """
        result, scores, maps = self.result, raw_scores(batch), raw_maps(batch)
        paths = [path or "" for path in path_list(batch.image_path, len(scores))]
        labels = [-1] * len(scores) if batch.gt_label is None else batch.gt_label.cpu().int().reshape(-1).tolist()
        result.no_image_score |= batch.pred_score is None
        parts, pairs = [], [(None, None)] * len(scores)
        if maps is not None:
            result.map_size = (int(maps.shape[1]), int(maps.shape[2]))
            parts = [] if batch.gt_mask is None else list(map_mask_pairs(batch, self.protocol.resolution))
            pairs = [pair for part in parts for pair in zip(*part, strict=True)] or [(one, None) for one in maps]
        for part in parts:
            result.pixels.update(*part)
        for path, score, label, (anomaly_map, mask) in zip(paths, scores.tolist(), labels, pairs, strict=True):
            kept = path in self._wanted and anomaly_map is not None
            small = shrink(np.asarray(anomaly_map, np.float32), THUMBNAIL) if kept else None
            small_mask = shrink((mask > 0).astype(np.uint8) * 255, THUMBNAIL) if kept and mask is not None else None
            result.images.append(Scored(path, score, label, _map_auroc(anomaly_map, mask), small, small_mask))


def _map_auroc(anomaly_map: np.ndarray | None, mask: np.ndarray | None) -> float:
    """Pixel AUROC of one image; NaN without mask, or where all or nothing is anomalous."""
    if anomaly_map is None or mask is None or not mask.any() or mask.all():
        return float("nan")
    return float(placements(anomaly_map[mask > 0], anomaly_map[mask == 0]).mean())


def relative_path(path: str, root: str | Path | None) -> str:
    """A path below the data root, for rows and tables; the last three parts of a path that lies elsewhere."""
    whole, base = Path(path).resolve(), Path(root or "").resolve()
    return whole.relative_to(base).as_posix() if root and whole.is_relative_to(base) else "/".join(Path(path).parts[-3:])
