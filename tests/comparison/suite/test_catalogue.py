import pytest
from anomalib.data import BTech, Folder, Kolektor, MVTecAD, MVTecAD2, Visa

from anoclip_anomalib.comparison.suite import catalogue
from anoclip_anomalib.comparison.suite.catalogue import UnknownClassError
from anoclip_anomalib.comparison.suite.suite import ClassSpec


def test_short_names_and_full_paths_find_the_same_class():
    assert catalogue.find_class("model", "Padim") is catalogue.find_class("model", "anomalib.models.image.Padim")
    assert catalogue.find_class("model", "AnoClip") is catalogue.find_class("model", "anoclip_anomalib.AnoClip")
    assert catalogue.find_class("callback", "TestTimeAdaptation").__name__ == "TestTimeAdaptation"
    assert catalogue.find_class("callback", "EarlyStopping")
    moved = catalogue.find_class("model", "anoclip_anomalib.comparison.winclip.RepairedWinClip")
    assert catalogue.full_path(moved) == "anoclip_anomalib.baselines.winclip.RepairedWinClip"
    for kind, name, message in (
        ("model", "Paddim", "did you mean Padim"),
        ("data", "anomalib.data.Nothing", "unknown data"),
        ("callback", "os.path.join", "is no Callback"),
    ):
        with pytest.raises(UnknownClassError, match=message):
            catalogue.find_class(kind, name)


@pytest.mark.parametrize(
    ("datamodule", "count"), [(MVTecAD, 15), (Visa, 12), (MVTecAD2, 8), (BTech, 3), (Folder, 0), (Kolektor, 0)]
)
def test_categories_that_anomalib_lists(datamodule, count):
    assert len(catalogue.constant_categories(datamodule)) == count


def test_arguments_are_converted_as_on_anomalibs_command_line(tmp_path):
    built = catalogue.instantiate("data", ClassSpec("anomalib.data.MVTecAD", {"root": str(tmp_path), "eval_batch_size": "4"}))
    assert built.eval_batch_size == 4
    assert catalogue.check_values("data", ClassSpec("anomalib.data.MVTecAD", {"eval_batch_size": "four"}))
    assert catalogue.check_values("data", ClassSpec("anomalib.data.MVTecAD", {"eval_batch_size": 4})) is None
