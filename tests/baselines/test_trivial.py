"""The detectors that know nothing, in closed form and through anomalib's Engine."""

import pytest
import torch
from anomalib.data import PredictDataset

from anoclip_anomalib import CentreDistance, LocalContrast
from anoclip_anomalib.baselines.trivial import CentreDistanceModel, LocalContrastModel, centre_closeness, local_contrast
from anoclip_anomalib.comparison.run.provenance import FACTS
from anoclip_anomalib.evaluation.thresholds import natural_threshold
from tests.anoclip.test_lightning_model import engine, mvtec, root  # noqa: F401


def test_closeness_falls_from_the_centre_to_the_corners():
    closeness = centre_closeness((5, 9))
    assert closeness[2, 4] == 1.0
    torch.testing.assert_close(closeness[[0, 0, -1, -1], [0, -1, 0, -1]], torch.zeros(4))
    expected = 1 - torch.tensor([5.0, 9.0]) / (5**2 + 9**2) ** 0.5  # the middle of an upper and of a side edge
    torch.testing.assert_close(torch.stack([closeness[0, 4], closeness[2, 0]]), expected)
    assert torch.equal(closeness, closeness.flip(0))
    assert torch.equal(closeness, closeness.flip(1))
    assert centre_closeness((1, 1)).tolist() == [[1.0]]


def test_closeness_does_not_look_at_the_image():
    generator = torch.Generator().manual_seed(0)
    result = CentreDistanceModel()(torch.rand(3, 3, 8, 12, generator=generator))
    assert result.anomaly_map.shape == (3, 1, 8, 12)
    assert torch.equal(result.anomaly_map[0, 0], centre_closeness((8, 12)))
    assert result.pred_score.tolist() == [1.0, 1.0, 1.0]


def test_contrast_finds_the_spot_and_nothing_in_a_plain_image():
    images = torch.full((2, 3, 64, 64), 0.5)
    images[1, :, 20:24, 40:44] = 1.0
    maps = local_contrast(images, 4.0)
    assert maps[0].max() < 1e-6
    row, column = divmod(int(maps[1].argmax()), 64)
    assert 19 <= row <= 24
    assert 39 <= column <= 44
    assert torch.equal(LocalContrastModel(4.0)(images).pred_score, maps.amax(dim=(1, 2, 3)))
    torch.testing.assert_close(local_contrast(1 - images, 4.0), maps)  # dark spots count as bright ones


def test_contrast_weighs_colours_as_the_eye_does():
    image = torch.zeros(3, 3, 32, 32)
    for channel in range(3):
        image[channel, channel, 16, 16] = 1.0
    peaks = LocalContrastModel(2.0)(image).pred_score
    torch.testing.assert_close(peaks / peaks.sum(), torch.tensor([0.299, 0.587, 0.114]))


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (3, 5)])
def test_contrast_of_tiny_images(size):
    result = LocalContrastModel()(torch.rand(2, 3, *size))
    assert result.anomaly_map.shape == (2, 1, *size)
    assert result.anomaly_map.isfinite().all()


def test_sigma_is_checked():
    with pytest.raises(ValueError, match="sigma=0 must be greater than 0"):
        LocalContrast(sigma=0)


@pytest.mark.parametrize("model_class", [CentreDistance, LocalContrast])
def test_they_go_through_anomalib(model_class, engine, root):  # noqa: F811
    model = model_class()
    (figures,) = engine().test(model, datamodule=mvtec(root), verbose=False)
    assert {"image_AUROC", "pixel_AUROC"} <= figures.keys()
    assert model.learning_type.value == "zero_shot"
    assert {name: getattr(model.method_facts, name) for name in FACTS}["category_data"] == "nothing"
    predictions = engine("predict").predict(model_class(), dataset=PredictDataset(root / "bottle/test/good"))
    assert len(predictions) > 0
    assert natural_threshold(model) is None  # its scores say "defect" of no image
