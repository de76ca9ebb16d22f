import logging
import pickle

import pytest
import torch

from anoclip_anomalib.aaclip.adapters import ImageAdapters
from anoclip_anomalib.aaclip.adapters_file import load_adapters, save_adapters
from anoclip_anomalib.aaclip.authors_files import (
    convert_from_authors,
    convert_to_authors,
    image_from_authors,
    image_to_authors,
    text_from_authors,
    text_to_authors,
)
from anoclip_anomalib.clip.state_dict import WeightFileError

TEXT = [f"{index}.fc.0.weight" for index in range(4)]
IMAGE = [
    *(f"layer_adapters.{index}.fc.0.weight" for index in range(6)),
    *(f"seg_proj.{index}.fc.weight" for index in range(4)),
    "det_proj.fc.weight",
]


def states(width=64, embed=32):
    text = {name: torch.randn(embed if name.startswith("3") else width, width) for name in TEXT}
    image = {name: torch.randn(width if name.startswith("layer") else embed, width) for name in IMAGE}
    return text, image


def test_the_authors_names_map_one_to_one_and_back():
    text, image = states()
    ours, our_image = text_from_authors(text), image_from_authors(image)
    assert set(ours) == {*(f"adapters.weights.{index}" for index in range(3)), "projection.weight"}
    assert ours["projection.weight"] is text["3.fc.0.weight"]
    assert our_image["segmentation.2.weight"] is image["seg_proj.2.fc.weight"]
    assert our_image["adapters.weights.5"] is image["layer_adapters.5.fc.0.weight"]
    for back, there in ((text_to_authors(ours), text), (image_to_authors(our_image), image)):
        assert back.keys() == there.keys()
        assert all(back[name] is tensor for name, tensor in there.items())


def test_files_there_and_back_hold_the_same_numbers(tmp_path, facts):
    text, image = states()
    torch.save({"epoch": 5, "text_adapter": text, "text_optimizer": {"state": {}}}, tmp_path / "text_adapter.pth")
    torch.save({"epoch": 15, "image_adapter": image}, tmp_path / "image_adapter_15.pth")
    paths = (tmp_path / "text_adapter.pth", tmp_path / "image_adapter_15.pth")
    ours = convert_from_authors(*paths, tmp_path / "a.safetensors", facts(mode="reference"))
    loaded = load_adapters(ours)
    assert loaded.text.activation
    assert loaded.image.taps == (6, 12, 18, 24)
    convert_to_authors(ours, tmp_path / "t.pth", tmp_path / "i.pth")
    for path, entry, state in (("t.pth", "text_adapter", text), ("i.pth", "image_adapter", image)):
        content = torch.load(tmp_path / path, weights_only=True)
        assert content["epoch"] == 0
        assert content[entry].keys() == state.keys()
        assert all(torch.equal(content[entry][name], tensor) for name, tensor in state.items())


def test_what_the_authors_code_would_score_differently_is_said(tmp_path, halves, facts, caplog):
    path = save_adapters(tmp_path / "a.safetensors", *halves(), facts())
    with caplog.at_level(logging.WARNING):
        convert_to_authors(path, tmp_path / "t.pth", tmp_path / "i.pth")
    assert "will compute other scores" in caplog.text


def test_a_share_of_the_class_token_does_not_fit_their_files(tmp_path, halves, facts):
    text, _ = halves()
    path = save_adapters(tmp_path / "a.safetensors", text, ImageAdapters(2, 64, 32, (3, 12), 0.1, 0.5, "clip"), facts())
    with pytest.raises(WeightFileError, match="share of 0.5 of the class token"):
        convert_to_authors(path, tmp_path / "t.pth", tmp_path / "i.pth")
    assert not (tmp_path / "t.pth").exists()


def test_pickled_code_is_refused(tmp_path, facts):
    class Bomb:
        def __reduce__(self):
            return print, ("run",)

    with (tmp_path / "t.pth").open("wb") as file:
        pickle.dump({"text_adapter": Bomb()}, file)
    with pytest.raises(WeightFileError, match="t.pth"):
        convert_from_authors(tmp_path / "t.pth", tmp_path / "t.pth", tmp_path / "a.safetensors", facts())
    assert not (tmp_path / "a.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {**s, "seg_proj.0.fc.0.weight": s["det_proj.fc.weight"]}, "--relu"),
        (lambda s: {**s, "extra": torch.zeros(1)}, "unknown .*extra"),
        (lambda s: {**s, "det_proj.fc.weight": s["det_proj.fc.weight"].int()}, "whole numbers in 'det_proj"),
        (lambda s: {k: v for k, v in s.items() if k != "det_proj.fc.weight"}, "missing .*det_proj"),
    ],
)
def test_other_tensors_are_named(change, message):
    with pytest.raises(WeightFileError, match=message):
        image_from_authors(change(states()[1]))


def test_another_number_of_levels_is_refused(tmp_path, facts):
    text, image = states()
    del image["seg_proj.3.fc.weight"]
    torch.save(text, tmp_path / "t.pth")
    torch.save(image, tmp_path / "i.pth")
    with pytest.raises(WeightFileError, match="4 segmentation projections"):
        convert_from_authors(tmp_path / "t.pth", tmp_path / "i.pth", tmp_path / "a.safetensors", facts())
