"""The adapters that come with the package: what their file says, and that they find defects of parts they never saw."""

from importlib.resources import files

import pytest
import torch

from anoclip_anomalib.aaclip.adapters_file import load_adapters
from anoclip_anomalib.aaclip.torch_model import AaClipModel
from tests.bundled.held_out import check_source, pixel_auroc, read

FILE = files("anoclip_anomalib") / "bundled" / "weights" / "aaclip_demo.safetensors"


def test_the_file_is_small_and_says_what_it_was_trained_on() -> None:
    assert len(FILE.read_bytes()) < 3_000_000
    check_source(load_adapters("demo").facts)


@pytest.mark.parametrize(("category", "defect", "least"), [("snakeskin", "scuff", 0.97), ("herringbone", "burn", 0.9)])
def test_heat_lies_on_defects_of_held_out_parts_and_good_parts_stay_cooler(category: str, defect: str, least: float) -> None:
    model = AaClipModel(adapters="demo", class_name=category)
    size = model.image_size[0]
    (bad, masks), (good, _) = read(category, defect, size), read(category, "good", size)
    with torch.no_grad():
        hot, cool = model(bad), model(good)
    auroc = pixel_auroc(hot.anomaly_map[:, 0], masks)
    assert auroc > least
    assert hot.anomaly_map.amax(dim=(1, 2, 3)).min() > cool.anomaly_map.amax(dim=(1, 2, 3)).mean()
    assert hot.pred_score.mean() > cool.pred_score.mean()
