"""Pictures of raw maps show where the score is high, and predictions stay as they are."""

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.post_processing import PostProcessor
from PIL import Image

from anoclip_anomalib.zeroshot.visualizer import ContrastVisualizer, drawable, with_temperature


class _Trainer:
    def __init__(self, folder: Path) -> None:
        self.default_root_dir = folder
        self.datamodule = None


class _Model:
    def __init__(self, post_processor: PostProcessor | None) -> None:
        self.post_processor = post_processor


def _draw(
    folder: Path, post_processor: PostProcessor | None, values: torch.Tensor | None = None
) -> tuple[np.ndarray, ImageBatch, torch.Tensor]:
    folder.mkdir()
    path = folder / "part.png"
    Image.new("RGB", (32, 32), "grey").save(path)
    anomaly_map = torch.full((1, 32, 32), 0.49)
    anomaly_map[:, :16] = 0.51
    if values is not None:
        anomaly_map = values
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


NAN, INF = float("nan"), float("inf")


def _map(upper: float, lower: float) -> torch.Tensor:
    values = torch.full((1, 32, 32), lower)
    values[:, :16] = upper
    return values


@pytest.mark.parametrize("post_processor", [None, PostProcessor()])
@pytest.mark.parametrize(
    ("upper", "lower"),
    [(7.0, -3.0), (250.0, 200.0), (0.9, 0.1), (NAN, 2.0), (INF, 0.2), (-INF, 0.5), (0.5, 0.5), (3.0, 3.0), (NAN, NAN)],
)
def test_any_map_is_drawn(tmp_path, upper, lower, post_processor):
    picture, _, _ = _draw(tmp_path / "any", post_processor, _map(upper, lower))
    differs = upper != lower and np.isfinite([upper, lower]).all()
    assert (_contrast(picture) > 40) == differs


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([2.0, -2.0, 0.0], [1.0, 0.0, 0.5]),
        ([0.2, 0.9, 0.5], [0.2, 0.9, 0.5]),
        ([NAN, 4.0, 2.0], [0.0, 1.0, 0.0]),
        ([INF, 0.2, 0.8], [0.8, 0.2, 0.8]),
        ([-INF, 0.2, 0.8], [0.2, 0.2, 0.8]),
        ([5.0, 5.0, 5.0], [0.0, 0.0, 0.0]),
        ([NAN, NAN, INF], [0.0, 0.0, 0.0]),
        ([3e38, -3e38, 0.0], [1.0, 0.0, 0.5]),
        ([0.5, 0.51, 0.49], [0.5, 0.9820, 0.0180]),
        ([0.5, 0.58, 0.42], [0.5, 1.0, 0.0]),
        ([0.5, 0.62, 0.5], [0.5, 0.62, 0.5]),
    ],
)
def test_values_of_a_drawable_map(values, expected):
    other = torch.tensor([100.0, -100.0, 0.0])  # each map for itself
    drawn = drawable(torch.stack([torch.tensor(values), other]))[0]
    torch.testing.assert_close(drawn, torch.tensor(expected), atol=1e-3, rtol=0)


def test_normalised_values_near_the_middle_are_not_spread():
    values = torch.tensor([[0.5, 0.51, 0.49]])
    assert torch.equal(drawable(values, spread=False), values)
