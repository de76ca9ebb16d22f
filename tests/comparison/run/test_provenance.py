import inspect
from dataclasses import replace

import anomalib.models
import pytest
import yaml
from torchvision.transforms.v2 import CenterCrop, Compose, Normalize, Resize

from anoclip_anomalib import TestTimeAdaptation
from anoclip_anomalib.comparison.run.provenance import FACTS, method_facts, preprocessing
from anoclip_anomalib.comparison.suite.suite import jobs_of
from tests.comparison.suites import ROOT, small_suite


def test_known_facts_name_existing_models_and_are_complete():
    known = yaml.safe_load((ROOT / "anoclip_anomalib" / "comparison" / "run" / "provenance.yaml").read_text())
    for name, facts in known["models"].items():
        assert set(facts) == set(FACTS), name
        assert name == "RepairedWinClip" or inspect.isclass(getattr(anomalib.models, name)), name


def test_models_and_callbacks_describe_themselves_and_suites_overrule(tmp_path, anoclip):
    job, model = jobs_of(small_suite(tmp_path, models="\n  - AnoClip\n"))[0], anoclip()
    facts = method_facts(job, model)
    assert set(facts) == set(FACTS)
    assert (facts["auxiliary_data"], facts["adapts_on_test_images"]) == ("none", False)
    assert (
        "AnoClip"
        not in yaml.safe_load((ROOT / "anoclip_anomalib" / "comparison" / "run" / "provenance.yaml").read_text())["models"]
    )
    facts = method_facts(job, model, [TestTimeAdaptation()])
    assert (facts["adapts_on_test_images"], facts["sees_other_test_images"], facts["order_dependent"]) == (True, False, False)
    facts = method_facts(job, model, [TestTimeAdaptation(reset_optimizer=False)])
    assert (facts["sees_other_test_images"], facts["order_dependent"]) == (True, True)
    stated = replace(job.model, provenance={"auxiliary_data": "VisA test split with masks"})
    assert method_facts(replace(job, model=stated), model)["auxiliary_data"] == "VisA test split with masks"


def test_other_peoples_models_are_looked_up(tmp_path):
    job = jobs_of(small_suite(tmp_path, models="\n  - Padim\n"))[0]
    assert method_facts(job)["category_data"] == "normal training images"
    assert method_facts(job, object())["category_data"] == "normal training images"


@pytest.mark.parametrize(
    ("steps", "size", "words"),
    [
        ([Resize([240]), Normalize([0.5], [0.5])], [240], "shorter side, aspect kept"),
        ([Resize((256, 256)), CenterCrop(224)], [224, 224], "both sides, aspect not kept"),
    ],
)
def test_preprocessing_is_read_from_the_model(steps, size, words):
    model = type("M", (), {"pre_processor": type("P", (), {"transform": Compose(steps)})()})()
    found = preprocessing(model)
    assert found["image_size"] == size
    assert found["resize"] == f"bilinear, {words}"
    assert found["smoothing"] == "not stated"
