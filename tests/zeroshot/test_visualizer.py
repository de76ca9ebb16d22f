"""Pictures of raw maps show where the score is high, and predictions stay as they are."""

from pathlib import Path

import numpy as np
import torch
from anomalib.data import ImageBatch
from anomalib.post_processing import PostProcessor
from PIL import Image

from anoclip_anomalib.zeroshot.visualizer import ContrastVisualizer, with_temperature


class _Trainer:
    def __init__(self, folder: Path) -> None:
        self.default_root_dir = folder
        self.datamodule = None


class _Model:
    def __init__(self, post_processor: PostProcessor | None) -> None:
        self.post_processor = post_processor


def _draw(folder: Path, post_processor: PostProcessor | None) -> tuple[np.ndarray, ImageBatch, torch.Tensor]:
    folder.mkdir()
    path = folder / "part.png"
    Image.new("RGB", (32, 32), "grey").save(path)
    anomaly_map = torch.full((1, 32, 32), 0.49)
    anomaly_map[:, :16] = 0.51
    before = anomaly_map.clone()
    batch = ImageBatch(
        image=torch.full((1, 3, 32, 32), 0.5),
        image_path=[str(path)],
        anomaly_map=anomaly_map,
        pred_score=torch.tensor([0.5]),
        pred_mask=anomaly_map > 0.5,
        pred_label=torch.tensor([True]),
    )
    visualizer = ContrastVisualizer(output_dir=folder / "images")
    visualizer.on_predict_batch_end(_Trainer(folder), _Model(post_processor), batch, batch, 0)
    (picture,) = (folder / "images").rglob("*.png")
    return np.asarray(Image.open(picture).convert("RGB"), dtype=float), batch, before


def _contrast(picture: np.ndarray) -> float:
    """Difference in colour between the upper and the lower half of the heatmap, the second of the tiles."""
    tile = picture[:, 256:512]
    return float(np.abs(tile[60:120, 20:236].mean((0, 1)) - tile[150:236, 20:236].mean((0, 1))).max())


def test_raw_maps_have_contrast_and_the_prediction_is_untouched(tmp_path: Path) -> None:
    picture, batch, before = _draw(tmp_path / "raw", PostProcessor())
    assert _contrast(picture) > 40
    assert batch.anomaly_map is not None
    assert torch.equal(batch.anomaly_map.squeeze(), before.squeeze())


def test_normalised_maps_are_drawn_as_anomalib_draws_them(tmp_path: Path) -> None:
    post_processor = PostProcessor()
    post_processor.pixel_min.fill_(0.0)
    post_processor.pixel_max.fill_(1.0)
    assert _contrast(_draw(tmp_path / "normalised", post_processor)[0]) < 15


def test_temperature_keeps_the_order_and_the_middle() -> None:
    probability = torch.tensor([0.49, 0.499, 0.5, 0.501, 0.51])
    spread = with_temperature(probability)
    assert (spread.diff() > 0).all()
    assert spread[2] == 0.5
    assert spread[0] < 0.05
    assert spread[-1] > 0.95
