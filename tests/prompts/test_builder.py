import subprocess
import sys

import pytest

from anoclip_anomalib.prompts import PromptBuilder
from anoclip_anomalib.prompts.builder import PromptSettings


def test_the_authors_number_of_sentences_and_no_repetition():
    prompts = PromptBuilder().sentences("bottle")
    assert len(prompts.normal) == len(prompts.abnormal) == 7
    assert len(prompts.normal_sentences) == len(prompts.abnormal_sentences) == 462
    assert len(set(prompts.normal_sentences) | set(prompts.abnormal_sentences)) == 924
    assert all(len(sentences) == 66 for sentences in (*prompts.normal.values(), *prompts.abnormal.values()))


def test_objects_are_described_in_the_industrial_domains():
    prompts = PromptBuilder().sentences("metal_nut")
    assert not prompts.texture
    assert list(prompts.normal) == [
        "normal metal_nut",
        "flawless metal_nut",
        "perfect metal_nut",
        "unblemished metal_nut",
        "metal_nut without flaw",
        "metal_nut without defect",
        "metal_nut without damage",
    ]
    assert list(prompts.abnormal) == [
        "damaged metal_nut",
        "abnormal metal_nut",
        "imperfect metal_nut",
        "blemished metal_nut",
        "metal_nut with flaw",
        "metal_nut with defect",
        "metal_nut with damage",
    ]
    assert set(prompts.normal["flawless metal_nut"]) == {
        f"{start} of {article} {end}"
        for domain, a in (("industrial photo", "an"), ("industrial image", "an"), ("manufacturing image", "a"))
        for article in ("a", "the")
        for start, end in (
            *(
                (f"a {adjective} {domain}", "flawless metal_nut")
                for adjective in ("cropped", "close-up", "bright", "dark", "jpeg corrupted", "blurry")
            ),
            (f"{a} {domain}", "flawless metal_nut"),
            (f"{a} {domain}", "small flawless metal_nut"),
            (f"{a} {domain}", "large flawless metal_nut"),
            (f"{a} {domain}", "flawless metal_nut for visual inspection"),
            (f"{a} {domain}", "flawless metal_nut for anomaly detection"),
        )
    }


def test_the_order_is_states_then_domains_then_templates():
    """The anchors of test-time adaptation are drawn in this order, and means are summed in it."""
    settings = {
        "normal_states": ["good {}", "fine {}"],
        "industrial_domains": ["photo", "image"],
        "templates": ["{} {domain}", "a {}"],
    }
    assert PromptBuilder(**settings).sentences("nut").normal == {
        "good nut": ("good nut photo", "a good nut", "good nut image"),
        "fine nut": ("fine nut photo", "a fine nut", "fine nut image"),
    }
    sentences = PromptBuilder().sentences("nut").normal["normal nut"]
    assert sentences[:3] == (
        "a cropped industrial photo of a normal nut",
        "a cropped industrial photo of the normal nut",
        "a close-up industrial photo of a normal nut",
    )
    assert sentences[22] == "a cropped industrial image of a normal nut"
    assert sentences[-1] == "a manufacturing image of the normal nut for anomaly detection"


def test_states_of_every_class_come_before_those_of_one():
    builder = PromptBuilder(
        extra_normal_states={"nut": ["new {}"], "*": ["good {}"]}, extra_abnormal_states={"nut": ["old {}"]}
    )
    prompts = builder.sentences(" nut\n")  # what surrounds the name is no part of it
    assert list(prompts.normal)[7:] == ["good nut", "new nut"]
    assert list(prompts.abnormal)[7:] == ["old nut"]


@pytest.mark.parametrize("name", ["carpet", "leather", "grid", "tile", "wood"])
def test_textures_have_their_own_domains(name):
    prompts = PromptBuilder().sentences(name)
    assert prompts.texture
    sentences = prompts.abnormal_sentences
    assert len(sentences) == 462
    assert f"a textural photo of the {name} with flaw for visual inspection" in sentences
    assert f"a surface picture of a small damaged {name}" in sentences
    assert f"an industrial photo of a large {name} with defect" in sentences
    assert f"a jpeg corrupted surface picture of the abnormal {name}" in sentences
    assert not any("manufacturing" in sentence or "industrial image" in sentence for sentence in sentences)


@pytest.mark.parametrize(("given", "said"), [("macaroni1", "macaroni"), ("macaroni2", "macaroni"), ("pcb1", "pcb1")])
def test_class_names_are_mapped_as_the_authors_do(given, said):
    prompts = PromptBuilder().sentences(given)
    assert prompts.class_name == said
    assert all(f" {said}" in sentence for sentence in prompts.normal_sentences)


def test_everything_can_be_changed():
    settings = PromptSettings(
        normal_states=["good {}"],
        abnormal_states=["bad {}", "{} that is off"],
        extra_normal_states={"*": ["fine {}"]},
        extra_abnormal_states={"cookie": ["cracked {}"], "cake": ["sunken {}"]},
        industrial_domains=["oven picture"],
        texture_domains=["close look"],
        templates=["a {domain} of {}", "{} in a {domain}", "a {}"],
        class_names={"cookie": "round biscuit"},
        texture_classes=["crust"],
    )
    prompts = PromptBuilder.from_settings(settings).sentences("cookie")
    assert prompts.class_name == "round biscuit"
    assert prompts.normal_sentences == [
        "an oven picture of good round biscuit",
        "good round biscuit in an oven picture",
        "a good round biscuit",
        "an oven picture of fine round biscuit",
        "fine round biscuit in an oven picture",
        "a fine round biscuit",
    ]
    assert list(prompts.abnormal) == ["bad round biscuit", "round biscuit that is off", "cracked round biscuit"]
    assert PromptBuilder.from_settings(settings).sentences("crust").normal["good crust"][0] == "a close look of good crust"


@pytest.mark.parametrize(
    ("texture", "name", "expected"), [(True, "bottle", True), (False, "wood", False), (None, "wood", True)]
)
def test_whether_a_class_is_a_texture_can_be_decided(texture, name, expected):
    assert PromptBuilder(texture=texture).sentences(name).texture is expected


@pytest.mark.parametrize(
    ("template", "domain", "sentence"),
    [
        ("a {domain} photo of {}", "indoor", "an indoor photo of normal nut"),
        ("a {domain} photo of {}", "Outdoor", "an Outdoor photo of normal nut"),
        ("a {domain} photo of {}", "plain", "a plain photo of normal nut"),
        ("{} in a {domain} photo", "upper", "normal nut in an upper photo"),
        ("{} in a {domain} photo", "lower", "normal nut in a lower photo"),
        ("extra {domain} photo of {}", "even", "extra even photo of normal nut"),
    ],
)
def test_an_stands_before_vowels_only(template, domain, sentence):
    prompts = PromptBuilder(templates=[template], industrial_domains=[domain], normal_states=["normal {}"]).sentences("nut")
    assert prompts.normal_sentences == [sentence]


def test_a_template_without_a_domain_is_said_once_per_state():
    prompts = PromptBuilder(templates=["a {}"]).sentences("bottle")
    assert prompts.normal_sentences[:2] == ["a normal bottle", "a flawless bottle"]
    assert len(prompts.normal_sentences) == 7


@pytest.mark.parametrize("name", ["", " ", "\t\n", None])
def test_an_empty_class_name_is_refused(name):
    with pytest.raises(ValueError, match="class name is empty"):
        PromptBuilder().sentences(name)


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("templates", ["a photo"], r"templates has the entry 'a photo' without '\{\}', where the state phrase goes"),
        ("normal_states", ["good"], r"normal_states has the entry 'good' without '\{\}', where the class name goes"),
        ("extra_abnormal_states", {"cookie": ["cracked"]}, r"extra_abnormal_states\['cookie'\] has the entry 'cracked'"),
        ("extra_abnormal_states", {"cookie": "cracked {}"}, "must be a list of strings, got the single string"),
        ("extra_abnormal_states", ["cracked {}"], "extra_abnormal_states must"),
        ("class_names", ["a"], "class_names must"),
        ("class_names", {"cookie": ""}, "class_names"),
        ("texture_classes", "carpet", "texture_classes must be a list"),
        ("texture", "yes", "texture must be"),
        ("abnormal_states", [], "abnormal_states is empty"),
        ("industrial_domains", "photo", "must be a list of strings"),
        ("industrial_domains", [""], "not a non-empty string"),
        ("normal_states", [3], "not a non-empty string: 3"),
        ("normal_states", 3, "normal_states must be a list"),
        ("abnormal_state", ["bad {}"], "Unknown prompt setting 'abnormal_state'; did you mean abnormal_states"),
        ("xyz", 1, "Unknown prompt setting 'xyz'; known settings: normal_states, "),
    ],
)
def test_settings_that_cannot_be_used_are_named(setting, value, said):
    with pytest.raises(ValueError, match=said):
        PromptBuilder.from_settings({setting: value})


def test_settings_left_empty_keep_the_authors_words():
    default = PromptBuilder().sentences("bottle")
    assert PromptBuilder.from_settings(None).sentences("bottle") == default
    assert PromptBuilder.from_settings({"templates": None, "texture": None}).sentences("bottle") == default


def test_prompts_need_no_torch():
    code = (
        "import sys; from anoclip_anomalib.prompts import PromptBuilder; "
        "PromptBuilder().sentences('a'); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


@pytest.mark.parametrize("setting", ["extra_normal_states", "extra_abnormal_states", "class_names"])
def test_a_setting_that_matches_no_class_is_named(setting, caplog):
    value = "panel" if setting == "class_names" else ["cracked {}"]
    builder = PromptBuilder.from_settings({setting: {"solar": value, "zebra": value}})
    (said,) = builder.unmatched("solar cell")
    assert said.startswith(
        f"Prompt setting {setting} has nothing for 'solar cell', only for 'solar', 'zebra'; did you mean solar"
    )
    assert "did you mean" not in builder.unmatched("bottle")[0]
    builder.sentences("solar cell")
    assert said in caplog.text
    assert builder.unmatched("zebra") == []


def test_settings_for_every_class_and_the_authors_own_names_are_no_misprint():
    assert PromptBuilder().unmatched("solar cell") == []
    assert PromptBuilder(extra_normal_states={"*": ["new {}"], "solar": ["good {}"]}).unmatched("cell") == []
