from types import SimpleNamespace

import numpy as np
import pytest

from anoclip_anomalib.evaluation.thresholds import conformal_threshold
from anoclip_anomalib.inspection.contrast import MARK
from anoclip_anomalib.inspection.good import collect_good, decide
from anoclip_anomalib.inspection.model import build_model
from anoclip_anomalib.inspection.scores import Scored
from tests.inspection.conftest import part


def test_a_folder_is_its_files_and_a_list_is_what_it_holds(good):
    assert [path.name for path in collect_good(good)] == [f"{index}.png" for index in range(6)]
    assert collect_good(None) == ()
    given = [part(0), good / "1.png"]
    assert list(collect_good(given)) == given
    with pytest.raises(ValueError, match="no photographs"):
        collect_good(part(0))


def test_thresholds_are_quantiles_of_scores_that_each_gets_from_the_others(weight_file, good):
    model = build_model("AnoClip", "tiny", weight_file("tiny"), None, None, {"class_name": "bottle"})
    model.setup("predict")
    decision, contrast = decide(model, collect_good(good), "auto", 0.3)
    images, peaks = model.model.reference.left_out.numpy()
    assert decision.image_threshold == conformal_threshold(images, 0.3).value
    assert decision.pixel_threshold == conformal_threshold(peaks, 0.3).value
    assert [image.score for image in decision.good] == images.tolist()
    low, high = contrast
    assert low == pytest.approx(np.log(2))
    assert (decision.pixel_threshold - low) / (high - low) == pytest.approx(MARK)
    assert decide(model, (), "auto", 0.3) == (None, None)
    assert len(model.model.reference) == 0


def test_too_few_for_what_was_asked_is_said_with_what_it_takes(weight_file, good, caplog):
    model = build_model("AnoClip", "tiny", weight_file("tiny"), None, None, {"class_name": "bottle"})
    model.setup("predict")
    images = collect_good(good)[:5]
    decide(model, images, "auto", 0.2)
    decide(model, images, "auto", 1 / 6)  # which five promise to the last digit
    assert "cannot promise" not in caplog.text
    decision, _ = decide(model, images, "auto", 0.01)
    assert decision is not None
    assert "5 good photographs cannot promise 1% false alarms, only 16.7%: that takes at least 99" in caplog.text
    caplog.clear()
    decide(model, images, "natural", 0.01)  # with a memory it is the good ones' too
    assert "cannot promise 1% false alarms" in caplog.text
    caplog.clear()
    decide(model, images, 0.5, 0.01)  # a threshold that is given promises nothing
    assert "cannot promise" not in caplog.text


def test_the_contrast_of_models_without_a_memory_begins_at_the_median_of_good_pixels(good):
    model = build_model("LocalContrast", None, None, None, None, {})
    decision, (low, high) = decide(model, collect_good(good), "auto", 0.05)
    assert 0 < low < decision.pixel_threshold < high
    assert decision.pixel_threshold == decision.image_threshold  # its score is the map's maximum


def test_an_ordinary_pixel_is_the_median_over_the_good_images(monkeypatch):
    maps = iter([np.full((4, 4), value, np.float32) for value in (1.0, 9.0, 2.0)])
    monkeypatch.setattr("anoclip_anomalib.inspection.good.score_images", lambda module, images: [Scored(3.0, next(maps), None)])
    _, (low, _) = decide(SimpleNamespace(model=None), [part(0)] * 3, "auto", 0.1)
    assert low == 2.0
