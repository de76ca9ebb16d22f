import json
import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from anoclip_anomalib.clip.state_dict import WeightFileError
from anoclip_anomalib.zeroshot.learned_weights import HEADER, TrainingFacts, load_learned, save_learned

FACTS = TrainingFacts(method="some", backbone="ViT-B-16", source="VisA", split="test", categories=["candle"], seed=3)


def test_what_is_written_is_read(tmp_path):
    tensors = {"a.x": torch.randn(2, 3), "b.y": torch.randn(4).half()}
    path = save_learned(tmp_path / "x.safetensors", tensors, FACTS)
    learned = load_learned(path, "some")
    assert torch.equal(learned.part("a")["x"], tensors["a.x"])
    assert learned.part("b")["y"].dtype == torch.float32
    assert learned.facts == FACTS
    again = load_learned(save_learned(tmp_path / "y.safetensors", tensors, FACTS), "some")
    assert learned.digest == again.digest
    assert os.listdir(tmp_path) == ["x.safetensors", "y.safetensors"] or len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "VisA test split, with masks"),
        ({"masks": False}, "VisA test split, without masks"),
        ({"split": ""}, "VisA, with masks"),
        ({"source": "not known"}, "not known"),
    ],
)
def test_the_fact_for_tables(changes, expected):
    own = {"method": "m", "backbone": "b", "source": "VisA", "split": "test"}
    assert TrainingFacts(**{**own, **changes}).auxiliary_data == expected


def test_keys_of_later_versions_are_left_out(tmp_path):
    header = {"method": "some", "backbone": "b", "invented_later": 1}
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", metadata={HEADER: json.dumps(header)})
    assert load_learned(tmp_path / "x.safetensors", "some").facts.backbone == "b"


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "no header"),
        ({HEADER: "{"}, "no header"),
        ({HEADER: "[]"}, "no header"),
        ({HEADER: '{"method": "some"}'}, "no header"),
        ({HEADER: '{"method": "other", "backbone": "b"}'}, "method 'other', not of 'some'"),
    ],
)
def test_headers_that_do_not_serve(tmp_path, metadata, message):
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", metadata=metadata)
    with pytest.raises(WeightFileError, match=message):
        load_learned(tmp_path / "x.safetensors", "some")


def test_files_that_do_not_serve(tmp_path):
    with pytest.raises(FileNotFoundError, match="No such file of learned weights"):
        load_learned(tmp_path / "x.safetensors", "some")
    with pytest.raises(FileNotFoundError, match="nothing_demo"):
        load_learned("demo", "nothing")
    torch.save({"a": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(WeightFileError, match="converted by `anoclip convert`"):
        load_learned(tmp_path / "x.pth", "some")
    path = save_learned(tmp_path / "x.safetensors", {"a": torch.randn(100)}, FACTS)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(WeightFileError, match="no file of learned weights"):
        load_learned(path, "some")
    save_learned(path, {"a": torch.tensor([torch.inf])}, FACTS)
    with pytest.raises(WeightFileError, match="NaN or infinite"):
        load_learned(path, "some")
    with pytest.raises(ValueError, match="kept as .safetensors"):
        save_learned(tmp_path / "x.pt", {}, FACTS)


def test_a_file_may_be_for_one_of_several_methods(tmp_path):
    path = save_learned(tmp_path / "x.safetensors", {"a": torch.ones(1)}, FACTS)
    assert load_learned(path, ("other", "some")).facts.method == "some"
    with pytest.raises(WeightFileError, match="of the method 'some', not of 'other' or 'third'"):
        load_learned(path, ("other", "third"))


def test_the_clip_of_the_training_unless_another_is_asked_for(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "anoclip_anomalib.zeroshot.learned_weights.load_clip", lambda *words, **more: asked.append((words, more))
    )
    facts = replace(FACTS, pretrained="openai", activation="gelu", image_size=64)
    learned = load_learned(save_learned(tmp_path / "x.safetensors", {"a.x": torch.zeros(1)}, facts), "some")
    assert [learned.clip_for(None, None, None)[1], learned.clip_for(None, "weights.pt", (32, 48))[1]] == [(64, 64), (32, 48)]
    assert asked == [(("ViT-B-16", tag), {"activation": "gelu"}) for tag in ("openai", "weights.pt")]
    given = object()
    assert learned.clip_for(given, "weights.pt", 32) == (given, (32, 32))
    assert len(asked) == 2


def test_a_part_is_none_of_those_whose_names_begin_alike(tmp_path):
    tensors = {name: torch.zeros(1) for name in ("image.x", "image_of.x", "images.y", "text.image.z")}
    learned = load_learned(save_learned(tmp_path / "x.safetensors", tensors, FACTS), "some")
    assert set(learned.part("image")) == {"x"}
