import pytest

from anoclip_anomalib.cli.prompts import main
from anoclip_anomalib.prompts import PromptBuilder, vocabulary


def test_every_sentence_is_printed(capsys):
    assert main(["cookie"]) == 0
    printed = capsys.readouterr().out.splitlines()
    prompts = PromptBuilder().sentences("cookie")
    assert printed[:924] == prompts.normal_sentences + prompts.abnormal_sentences
    assert printed[-1] == "cookie (object): 462 normal sentences from 7 states, 462 abnormal from 7"


def test_settings_come_from_a_file_and_from_the_command_line(tmp_path, capsys):
    own, anomalibs = tmp_path / "own.yaml", tmp_path / "config.yaml"
    own.write_text("abnormal_states: ['burnt {}']\ntemplates: ['a {}']\n")
    anomalibs.write_text(
        "model:\n  class_path: anoclip_anomalib.AnoClip\n  init_args:\n    prompts:\n"
        "      abnormal_states: ['burnt {}']\n      templates: ['a {}']\n"
    )
    for file in (own, anomalibs):
        assert main(["cookie", "--config", str(file), "--set", "texture=true", "--set", "normal_states=['good {}']"]) == 0
        assert capsys.readouterr().out.splitlines() == [
            "a good cookie",
            "a burnt cookie",
            "",
            "cookie (texture): 1 normal sentences from 1 states, 1 abnormal from 1",
        ]


def test_a_config_without_prompts_uses_the_authors(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("model:\n  class_path: AnoClip\n  init_args: {views: 22}\n")
    assert main(["wood", "--config", str(tmp_path / "config.yaml"), "--states-only"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == "wood (texture): 462 normal sentences from 7 states, 462 abnormal from 7"
    assert printed[:-2] == [state.replace("{}", "wood") for state in (*vocabulary.NORMAL_STATES, *vocabulary.ABNORMAL_STATES)]


def test_a_setting_for_no_such_class_is_named(tmp_path, capsys, caplog):
    (tmp_path / "own.yaml").write_text("extra_abnormal_states: {solar: ['cracked {}']}\n")
    assert main(["solar cell", "--config", str(tmp_path / "own.yaml")]) == 0
    assert "extra_abnormal_states has nothing for 'solar cell', only for 'solar'; did you mean solar?" in caplog.text
    assert "cracked" not in capsys.readouterr().out


def test_with_a_backbone_each_states_cosines_are_printed(weight_file, capsys):
    pretrained = weight_file()
    assert main(["cookie", "--states-only", "--backbone", "tiny", "--pretrained", pretrained]) == 0
    printed = capsys.readouterr().out
    for state in ("flawless cookie", "cookie with damage"):
        line = next(line for line in printed.splitlines() if state in line)
        numbers = [float(word) for word in line.replace("│", " ").split() if word.lstrip("+-").replace(".", "").isdigit()]
        assert len(numbers) == 3
        assert numbers[2] == pytest.approx(numbers[1] - numbers[0], abs=2e-4)
        assert all(abs(number) <= 1 for number in numbers)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([""], "class name is empty"),
        (["cookie", "--set", "texture"], "has no '='"),
        (["cookie", "--set", "templates=[a photo]"], "without '{}'"),
        (["cookie", "--set", "template=['a {}']"], "did you mean templates"),
        (["cookie", "--set", "texture=[unclosed"], "is not valid YAML"),
        (["cookie", "--set", "templates=[a {}]"], "sentences with {} need quotes"),
        (["cookie", "--config", "/nothing.yaml"], "/nothing.yaml"),
        (["cookie", "--backbone", "ViT-B-17"], "closest names: "),
        (["cookie", "--backbone", "RN50", "--pretrained", "openai"], "ResNet"),
    ],
)
def test_bad_input_is_one_error(words, said, capsys):
    assert main(words) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.startswith("anoclip prompts: error: ")
    assert captured.out == ""


def test_a_list_is_no_configuration(tmp_path, capsys):
    (tmp_path / "list.yaml").write_text("- a\n")
    assert main(["cookie", "--config", str(tmp_path / "list.yaml")]) == 2
    assert "must be a YAML mapping" in capsys.readouterr().err
