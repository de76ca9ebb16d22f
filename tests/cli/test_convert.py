import pickle

import pytest
import torch

from anoclip_anomalib.cli.main import main
from anoclip_anomalib.zeroshot.learned_weights import load_learned
from tests.aaclip.test_authors_files import states


@pytest.fixture
def files(tmp_path):
    text, image = states(8, 4)
    torch.save({"text_adapter": text}, tmp_path / "text_adapter.pth")
    torch.save({"image_adapter": image}, tmp_path / "image_adapter_15.pth")
    return tmp_path


def convert(folder, *words):
    return main(
        [
            "convert",
            "aaclip",
            "--text",
            str(folder / "text_adapter.pth"),
            "--image",
            str(folder / "image_adapter_15.pth"),
            *words,
        ]
    )


def test_there_and_back(files, capsys):
    out = files / "a.safetensors"
    assert convert(files, "--out", str(out), "--source", "VisA", "--images", "2162", "--seed", "111") == 0
    facts = load_learned(out, "aaclip").facts
    assert (facts.mode, facts.backbone, facts.pretrained, facts.activation) == ("reference", "ViT-L-14-336", "openai", "gelu")
    assert (facts.auxiliary_data, facts.images, facts.seed, facts.image_size) == ("VisA test split, with masks", 2162, 111, 518)
    before = torch.load(files / "image_adapter_15.pth", weights_only=True)["image_adapter"]
    (files / "image_adapter_15.pth").unlink()
    assert convert(files, "--to-authors", str(out)) == 0
    after = torch.load(files / "image_adapter_15.pth", weights_only=True)["image_adapter"]
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "image_adapter_15.pth" in capsys.readouterr().out


def test_a_source_that_is_not_told_is_not_known(files):
    assert convert(files, "--out", str(files / "a.safetensors")) == 0
    assert load_learned(files / "a.safetensors", "aaclip").facts.auxiliary_data == "not known"


def test_bad_input_is_one_line(files, capsys):
    def error(*words) -> str:
        assert convert(files, *words) == 2
        return capsys.readouterr().err

    assert "either --out" in error()
    assert "must be a .safetensors" in error("--out", str(files / "a.pth"))
    assert "No such file" in error("--to-authors", str(files / "none.safetensors"))
    (files / "image_adapter_15.pth").write_bytes(pickle.dumps({"image_adapter": print}))
    assert "pickled Python objects" in error("--out", str(files / "a.safetensors"))
    assert not (files / "a.safetensors").exists()
    (files / "text_adapter.pth").unlink()
    assert "No such file" in error("--out", str(files / "a.safetensors"))
    torch.save({"epoch": 1, "image_adapter": {"a": torch.zeros(1)}}, files / "text_adapter.pth")
    assert "It has 'image_adapter', not 'text_adapter'" in error("--out", str(files / "a.safetensors"))
    assert main(["convert", "crane", "--to-authors", "a.safetensors", "--checkpoint", "c.pth"]) == 2
    assert "--to-authors is for aaclip alone" in capsys.readouterr().err
    assert main(["convert", "other"]) == 2
    assert "name a method: aaclip" in capsys.readouterr().err


def test_a_checkpoint_of_crane_there(tmp_path, capsys, tiny_clip, weight_file):
    from tests.promptlearning.test_authors_files import prompts

    torch.save({"prompt_learner": prompts(tiny_clip())}, tmp_path / "epoch_5.pth")
    words = ["--checkpoint", str(tmp_path / "epoch_5.pth"), "--out", str(tmp_path / "a.safetensors"), "--source", "MVTec AD"]
    words += ["--backbone", "tiny", "--pretrained", weight_file("tiny"), "--activation", "as_trained", "--image-size", "64"]
    assert main(["convert", "crane", *words]) == 2
    assert "--depth 2" in capsys.readouterr().err
    assert main(["convert", "crane", *words, "--depth", "2"]) == 0
    assert "Adapters:" in capsys.readouterr().out
    facts = load_learned(tmp_path / "a.safetensors", "crane").facts
    assert (facts.auxiliary_data, facts.settings["buffers"]) == ("MVTec AD test split, with masks", "equal to CLIP's")
    assert main(["convert", "april-gan", *words]) == 2
    assert "by the names in it, it is of Crane" in capsys.readouterr().err


def test_a_method_without_such_files_is_named(capsys, tmp_path):
    assert main(["convert", "winclip"]) == 2
    assert "aaclip, anomalyclip, crane, crane-plus, adaclip, april-gan" in capsys.readouterr().err
    assert main(["convert", "crane", "--checkpoint", str(tmp_path / "x.pth"), "--out", "a.safetensors"]) == 2
    assert "No such file" in capsys.readouterr().err
