import shutil
from types import SimpleNamespace

import pytest

from anoclip_anomalib.data.samples import image_digest
from anoclip_anomalib.zeroshot.normal_images import images_of_loaders
from anoclip_anomalib.zeroshot.source_overlap import source_overlap


def named(class_name, **attributes):
    return type(class_name, (), attributes)()


@pytest.mark.parametrize(
    ("source", "datamodule", "overlap"),
    [
        ("VisA", named("Visa"), True),
        ("MVTec AD", named("MVTecAD"), True),
        ("MVTec", named("MVTecAD"), True),
        ("MVTec AD", named("MVTecAD2"), False),
        ("VisA", named("Folder", name="visa"), True),
        ("VisA", named("Folder", name="mine"), False),
        ("folder", named("Folder", name="mine"), False),
        ("not known", named("Visa"), False),
        ("VisA", None, False),
        ("MVTec AD + ColonDB", named("MVTecAD"), True),
        ("VisA, ClinicDB and BTAD", named("BTech", name="BTAD"), True),
        ("MVTec AD + ColonDB", named("MVTecAD2"), False),
    ],
)
def test_data_sets_are_known_by_name(facts, source, datamodule, overlap):
    found = source_overlap(facts(source=source), datamodule, [])
    assert found == (f"the data set {source}" if overlap else None)


def test_the_class_of_a_source_counts_whatever_it_is_called(facts):
    own = facts(
        source="my industrial mix",
        data_sets=[{"class": "anomalib.data.Visa", "name": ""}, {"class": "Folder", "name": "Bolts"}],
    )
    assert source_overlap(own, named("Visa"), [])
    assert source_overlap(own, named("Folder", name="bolts"), [])
    assert source_overlap(own, named("Folder", name="nuts"), []) is None


def test_images_are_known_by_their_content_under_any_name(facts, tmp_path):
    (tmp_path / "a.png").write_bytes(b"one")
    (tmp_path / "b.png").write_bytes(b"two")
    own = facts(image_digests=[image_digest(tmp_path / "a.png")])
    shutil.copy(tmp_path / "a.png", tmp_path / "other name.bmp")
    images = [str(tmp_path / "other name.bmp"), str(tmp_path / "b.png"), str(tmp_path / "gone.png")]
    assert source_overlap(own, SimpleNamespace(name="x"), images) == "1 of the 3 images"
    assert source_overlap(own, SimpleNamespace(name="x"), images[1:]) is None


@pytest.mark.parametrize("nest", [lambda one: one, lambda one: [one], lambda one: [[one]], lambda one: {"a": one}])
def test_images_are_found_however_loaders_are_given(nest):
    loader = SimpleNamespace(dataset=SimpleNamespace(samples={"image_path": ["x/1.png", "x/2.png"]}))
    assert [path.name for path in images_of_loaders(nest(loader))] == ["1.png", "2.png"]
    assert images_of_loaders(None) == []
