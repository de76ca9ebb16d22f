"""The learned prompts that come with the package: what their files say, and that they find defects of parts they never saw."""

from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from anoclip_anomalib.clip import load_clip
from anoclip_anomalib.data.sources import read_source
from anoclip_anomalib.demo.photo_textures import PACKAGES
from anoclip_anomalib.promptlearning.methods import METHODS
from anoclip_anomalib.promptlearning.prompts_file import BUNDLED, load_prompts
from anoclip_anomalib.promptlearning.torch_model import PromptClipModel
from tests.bundled.held_out import pixel_auroc, read


@pytest.mark.parametrize("method", BUNDLED)
def test_the_files_are_small_and_say_what_they_were_trained_on(method: str) -> None:
    assert len((files("anoclip_anomalib") / "bundled" / "weights" / f"{method}_demo.safetensors").read_bytes()) < 500_000
    learned, found, _ = load_prompts("demo", method)
    facts = learned.facts
    assert found.name == facts.method == method
    assert facts.backbone_digest == load_clip("demo").digest
    assert facts.auxiliary_data == "generated training parts, with masks"
    photographs = facts.settings["generated"]["photographs"]
    assert set(photographs) == set(PACKAGES)
    assert all(entry["version"] and entry["licences"] for entry in photographs.values())
    source = read_source(Path(__file__).parents[2] / "configs/sources/demo.yaml")
    assert source.name == facts.source
    assert {**asdict(source.generated), "photographs": photographs} == facts.settings["generated"]


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
