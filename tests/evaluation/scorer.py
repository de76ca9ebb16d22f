"""A small zero-shot anomalib model without weights: brightness is anomalous. And a folder of images for it."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from anomalib import LearningType
from anomalib.data import InferenceBatch
from anomalib.models import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from torch import nn
from torchvision.transforms.v2 import Resize


class BrightnessModel(nn.Module):
    """Map: mean over channels, brought to within 0.01 of 0.5 times `gain`. `fault` breaks it on purpose."""

    def __init__(self, gain: float = 1.0, fault: str | None = None) -> None:
        super().__init__()
        self.gain, self.fault = gain, fault

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        maps = 0.5 + 0.01 * self.gain * (images.mean(dim=1, keepdim=True) - 0.5)
        if self.fault == "nan":
            maps[:, :, 0, 0] = float("nan")
        elif self.fault == "size":
            maps = maps[:, :, ::2, ::2]
        elif self.fault == "raise":
            raise RuntimeError("broken on purpose")
        score = None if self.fault == "no score" else maps.amax(dim=(1, 2, 3))
        return InferenceBatch(pred_score=score, anomaly_map=maps)


class Brightness(AnomalibModule):
    """Zero-shot anomalib model around :class:`BrightnessModel`."""

    def __init__(
        self,
        gain: float = 1.0,
        fault: str | None = None,
        size: int = 64,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Any = True,
        visualizer: Any = False,
    ) -> None:
        self.size = size
        super().__init__(pre_processor=pre_processor, post_processor=post_processor, evaluator=evaluator, visualizer=visualizer)
        self.model = BrightnessModel(gain, fault)
        self.weight = nn.Parameter(torch.zeros(1), requires_grad=False)

    def configure_pre_processor(self, image_size=None):
        return PreProcessor(transform=Resize((self.size, self.size), antialias=True))

    def configure_post_processor(self):
        return PostProcessor()

    def configure_optimizers(self):
        return None

    def val_dataloader(self):
        return []

    def validation_step(self, batch, *args, **kwargs):
        return batch.update(**self.model(batch.image)._asdict())

    @property
    def trainer_arguments(self):
        return {}

    @property
    def learning_type(self):
        return LearningType.ZERO_SHOT


def write_category(root: Path, name: str = "plate", images: int = 6, size: int = 80, seed: int = 0) -> Path:
    """Write a category in MVTecAD's layout: grey noise; anomalous images have a bright rectangle (and a mask)."""
    rng = np.random.default_rng(seed)
    for split, kind, count in (("train", "good", images), ("test", "good", images), ("test", "spot", images)):
        for i in range(count):
            image = rng.integers(60, 180, (size, size, 3)).astype(np.uint8)
            path = root / name / split / kind / f"{i:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "spot":
                y, x = rng.integers(0, size * 2 // 3, 2)
                image[y : y + 18, x : x + 14] = np.minimum(image[y : y + 18, x : x + 14].astype(int) + 70, 255)
                mask = np.zeros((size, size), np.uint8)
                mask[y : y + 18, x : x + 14] = 255
                mask_path = root / name / "ground_truth" / kind / f"{i:03d}_mask.png"
                mask_path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(mask_path), mask)
            cv2.imwrite(str(path), image)
    return root
