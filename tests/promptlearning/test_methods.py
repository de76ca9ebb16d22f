import re

import pytest

from anoclip_anomalib.promptlearning.methods import METHODS, find_method
from anoclip_anomalib.prompts.april_gan import ADACLIP_TEMPLATES, TEMPLATES, sentences


def test_the_table_is_the_authors():
    """What distinguishes the methods, from their code: see docs/methods.md."""
    found = {
        name: (own.local_attention, own.class_norm, own.position, own.temperature, own.order, own.align_corners, own.pooling)
        for name, own in METHODS.items()
    }
    assert found == {
        "anomalyclip": ("value", False, "bilinear", 0.07, "softmax first", False, 0.0),
        "crane": ("self-self", True, "bilinear", 0.07, "softmax first", False, 0.5),
        "crane-plus": ("self-self", True, "bilinear", 0.07, "softmax last", False, 0.5),
        "adaclip": (None, True, "bicubic", 0.01, "softmax last", True, 0.2),
        "april-gan": (None, True, "bicubic-antialias", 0.01, "softmax per level", True, 0.0),
    }
    assert [name for name, own in METHODS.items() if own.second_encoder] == ["crane-plus"]
    assert [name for name, own in METHODS.items() if own.needs_class] == ["adaclip", "april-gan"]
    assert [name for name, own in METHODS.items() if own.image_token] == ["crane", "crane-plus"]
    assert [name for name, own in METHODS.items() if not own.smoothed] == ["april-gan"]
    assert {own.activation for own in METHODS.values() if own.needs_class} == {"gelu"}
    assert {own.activation for own in METHODS.values() if not own.needs_class} == {"quick_gelu"}


def test_an_unknown_method_is_named_with_the_closest():
    with pytest.raises(ValueError, match=re.escape("no method 'Crane+' among anomalyclip, crane, crane-plus")):
        find_method("Crane+")
    with pytest.raises(ValueError, match="did you mean adaclip"):
        find_method("adaklip")


def test_sentences_of_april_gan_and_adaclip():
    normal, abnormal = sentences("metal nut")
    assert (len(set(normal)), len(set(abnormal)), len(TEMPLATES)) == (7 * 35, 5 * 35, 35)
    assert "a black and white photo of the flawless metal nut." in normal
    assert "this is one broken metal nut in the scene." in abnormal
    assert "a photo of my metal nut." in normal
    normal, abnormal = sentences("cashew", ADACLIP_TEMPLATES)
    assert (len(set(normal)), len(set(abnormal))) == (28, 20)
    assert "a low resolution photo of the cashew without defect." in normal
    with pytest.raises(ValueError, match="class name is empty"):
        sentences(" ")


def test_constants_are_the_authors():
    from anoclip_anomalib.promptlearning import methods, scoring, second_encoder

    assert (methods.CONTEXT_TOKENS, methods.DEEP_BLOCKS, methods.DEEP_TOKENS) == (12, 9, 4)
    assert (methods.HYBRID_BLOCKS, methods.HYBRID_TOKENS, methods.LOCAL_SHARE * 24) == (4, 5, 19)
    assert methods.WORDS == ("object.", "damaged object.")
    assert (scoring.SIGMA * 518, scoring.CLUSTERS, scoring.PATCHES_OF_A_CLUSTER) == (4, 20, 5)
    assert (second_encoder.BETA, second_encoder.SCALE) == (1.2, 3)
    assert second_encoder.DINO == "vit_base_patch14_reg4_dinov2.lvd142m"
