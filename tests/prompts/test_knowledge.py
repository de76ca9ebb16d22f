import pytest
import torch

from anoclip_anomalib.cli.main import main
from anoclip_anomalib.demo.dataset import CATEGORIES
from anoclip_anomalib.prompts import PromptBuilder
from anoclip_anomalib.prompts.knowledge import read_knowledge


def test_every_category_of_mvtec_visa_and_the_demo_is_known():
    from anomalib.data.datasets.image.mvtecad import CATEGORIES as MVTEC
    from anomalib.data.datasets.image.visa import CATEGORIES as VISA

    known = read_knowledge(True)
    assert {*MVTEC, *VISA, *CATEGORIES, "cookie"} == set(known)
    for phrases in known.values():
        assert 4 <= len(phrases) == len(set(phrases))
        assert all(phrase.count("{}") == 1 and phrase == phrase.strip() for phrase in phrases)


def test_a_class_that_two_files_know_gets_what_both_say():
    phrases = read_knowledge(True)["metal_nut"]
    assert "{} that lies upside down" in phrases
    assert "dented {}" in phrases


def test_the_builder_adds_abnormal_states_alone():
    plain, knowing = PromptBuilder().sentences("screw"), PromptBuilder(knowledge=True).sentences("screw")
    assert knowing.normal == plain.normal
    added = list(knowing.abnormal)[len(plain.abnormal) :]
    assert list(knowing.abnormal)[: len(plain.abnormal)] == list(plain.abnormal)
    assert "screw with a bent tip" in added
    assert len(knowing.abnormal["screw with a bent tip"]) == 66
    assert PromptBuilder(knowledge=True).sentences("macaroni1").abnormal["cracked macaroni"]


def test_an_own_file_is_read_and_a_class_that_it_lacks_is_told(tmp_path, caplog):
    path = tmp_path / "own.yaml"
    path.write_text("hinge: ['{} with a burr']\n'*': ['rusty {}']\n")
    abnormal = PromptBuilder(knowledge=str(path)).sentences("hinge").abnormal
    assert {"hinge with a burr", "rusty hinge"} <= set(abnormal)
    path.write_text("hinge: ['{} with a burr']\n")
    PromptBuilder(knowledge=str(path)).sentences("hinges")
    assert "knowledge has nothing for 'hinges', only for 'hinge'; did you mean hinge" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no file of knowledge"),
        ("- a", "no file of knowledge"),
        ("hinge: bent", "'hinge' must be a class with a list"),
        ("hinge: []", "'hinge' must be a class with a list"),
        ("hinge: [bent]", "'hinge' must be a class with a list"),
        ("3: ['bent {}']", "3 must be a class with a list"),
        ("a: [", "no YAML"),
    ],
)
def test_bad_files_are_named(tmp_path, content, message):
    path = tmp_path / "own.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"own.yaml.*{message}"):
        read_knowledge(path)
    with pytest.raises(FileNotFoundError, match="none.yaml"):
        read_knowledge(tmp_path / "none.yaml")


def test_the_command_shows_them(capsys):
    assert main(["prompts", "zipper", "--knowledge", "--states-only"]) == 0
    shown = capsys.readouterr().out
    assert "zipper with broken teeth" in shown
    assert main(["prompts", "zipper", "--states-only"]) == 0
    assert "teeth" not in capsys.readouterr().out


def test_the_ensemble_of_anoclip_changes_on_the_abnormal_side(anoclip_model):
    plain, knowing = anoclip_model(), anoclip_model(prompts={"knowledge": True})
    torch.testing.assert_close(plain.text_embeddings[0], knowing.text_embeddings[0])
    assert not torch.allclose(plain.text_embeddings[1], knowing.text_embeddings[1], atol=1e-4)
