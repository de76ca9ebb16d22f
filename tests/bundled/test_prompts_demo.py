"""The learned prompts that come with the package: what their files say, and that they find defects of parts they never saw."""

from importlib.resources import files

import pytest
import torch

from anoclip_anomalib.promptlearning.methods import METHODS
from anoclip_anomalib.promptlearning.prompts_file import BUNDLED, load_prompts
from anoclip_anomalib.promptlearning.torch_model import PromptClipModel
from tests.bundled.held_out import check_source, pixel_auroc, read


@pytest.mark.parametrize("method", BUNDLED)
def test_the_files_are_small_and_say_what_they_were_trained_on(method: str) -> None:
    assert len((files("anoclip_anomalib") / "bundled" / "weights" / f"{method}_demo.safetensors").read_bytes()) < 500_000
    learned, found, _ = load_prompts("demo", method)
    assert found.name == learned.facts.method == method
    check_source(learned.facts)


@pytest.mark.parametrize("method", BUNDLED)
def test_heat_lies_on_defects_of_held_out_parts(method: str) -> None:
    model = PromptClipModel(adapters="demo", method=method, class_name="herringbone")
    size = model.image_size[0]
    (bad, masks), (good, _) = read("herringbone", "burn", size), read("herringbone", "good", size)
    with torch.no_grad():
        hot, cool = model(bad), model(good)
    assert pixel_auroc(hot.anomaly_map[:, 0], masks) > 0.75
    assert hot.pred_score.mean() > cool.pred_score.mean()


def test_without_a_method_they_are_anomalyclips_and_one_has_none() -> None:
    assert load_prompts("demo")[1].name == "anomalyclip"
    missing = set(METHODS) - set(BUNDLED)
    assert missing == {"crane-plus"}
    with pytest.raises(
        FileNotFoundError, match="No adapters of Crane\\+ come with the package; there are those of anomalyclip"
    ):
        load_prompts("demo", "crane-plus")
