"""A quick anomalib model for tests: brightness as anomaly score, squeezed to within 0.01 of 0.5 as CLIP's probabilities are."""

import threading

import torch
from anomalib import LearningType
from anomalib.data import InferenceBatch
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from torch import nn
from torchvision.transforms.v2 import Compose, Normalize, Resize


class BrightnessModel(nn.Module):
    def __init__(self, spread: float):
        super().__init__()
        self.spread = nn.Parameter(torch.tensor(spread), requires_grad=False)
        self.register_buffer("offset", torch.zeros(()))

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        brightness = images.mean(1, keepdim=True)
        ramp = torch.linspace(0, 1e-3, brightness[0].numel()).reshape(1, 1, *brightness.shape[-2:])
        anomaly_map = 0.5 + self.spread * torch.tanh(brightness - self.offset + ramp)
        return InferenceBatch(pred_score=anomaly_map.amax((1, 2, 3)), anomaly_map=anomaly_map)


class Brightness(AnomalibModule):
    """Zero-shot. ``fail_on`` raises at an image whose path contains it; ``seconds`` is how long a batch takes."""

    def __init__(
        self, spread: float = 0.01, fail_on: str | None = None, nan_on: str | None = None, seconds: float = 0.0, **kwargs
    ):
        super().__init__(**kwargs)
        self.seconds = seconds
        self.model = BrightnessModel(spread)
        self.fail_on, self.nan_on = fail_on, nan_on

    @staticmethod
    def configure_pre_processor(image_size=None):
        return PreProcessor(transform=Compose([Resize((16, 16)), Normalize([0.5] * 3, [0.25] * 3)]))

    def configure_post_processor(self):
        return PostProcessor()

    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        if self.fail_on and any(self.fail_on in path for path in batch.image_path):
            raise RuntimeError(f"stopped at {self.fail_on}")
        threading.Event().wait(self.seconds)  # not time.sleep, which a test replaces
        batch = super().predict_step(batch, batch_idx, dataloader_idx)
        if self.nan_on and any(self.nan_on in path for path in batch.image_path):
            batch.anomaly_map[0, ..., 0, 0] = float("nan")
        return batch

    def validation_step(self, batch, batch_idx):
        return self.predict_step(batch, batch_idx)

    @property
    def trainer_arguments(self):
        return {}

    @property
    def learning_type(self):
        return LearningType.ZERO_SHOT


class LearnedBrightness(Brightness):
    """One-class: learns the mean brightness of the normal images."""

    def training_step(self, batch, batch_idx):
        self.model.offset += batch.image.mean()
        return

    def configure_optimizers(self):
        return None

    @property
    def trainer_arguments(self):
        return {"max_epochs": 1, "num_sanity_val_steps": 0}

    @property
    def learning_type(self):
        return LearningType.ONE_CLASS
