"""The generated parts as a datamodule: drawn once, whole, and found by name."""

import multiprocessing
from pathlib import Path

import pytest
from anomalib.data import AnomalibDataModule

from anoclip_anomalib.comparison.suite import catalogue
from anoclip_anomalib.comparison.suite.load_suite import load_suite
from anoclip_anomalib.comparison.suite.yaml_lines import SuiteError
from anoclip_anomalib.data import GeneratedParts
from anoclip_anomalib.data.generated import CATEGORIES

SMALL = {"image_size": 32, "train_good": 2, "test_good": 2, "test_bad": 1, "num_workers": 0}


def test_draws_on_first_use_and_keeps_what_is_there(tmp_path: Path) -> None:
    data = GeneratedParts(root=tmp_path, category="button", **SMALL)
    assert not list(tmp_path.iterdir())
    data.prepare_data()
    data.setup()
    assert (len(data.train_data), len(data.test_data)) == (2, 5)
    batch = next(iter(data.test_dataloader()))
    assert batch.image.shape[-2:] == (32, 32)
    assert batch.gt_mask is not None
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    GeneratedParts(root=tmp_path, category="button", **SMALL).prepare_data()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_other_arguments_go_to_another_folder_by_default_and_are_refused_in_the_same_one(tmp_path: Path) -> None:
    roots = {
        str(GeneratedParts(**{**SMALL, **other}).root)
        for other in ({}, {"drawing_seed": 1}, {"image_size": 48}, {"test_bad": 2})
    }
    assert len(roots) == 4
    GeneratedParts(root=tmp_path, category="fuse", **SMALL).prepare_data()
    with pytest.raises(FileExistsError, match="generated with other settings"):
        GeneratedParts(root=tmp_path, category="fuse", drawing_seed=1, **SMALL).prepare_data()
    with pytest.raises(ValueError, match="Unknown demonstration categories: 'nut'"):
        GeneratedParts(root=tmp_path, category="nut", **SMALL).prepare_data()


def _draw(root: str) -> None:
    GeneratedParts(root=root, category="metal_nut", **SMALL).prepare_data()


def test_processes_may_draw_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_draw, args=(str(tmp_path),)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["metal_nut"]
    assert len(list(tmp_path.rglob("*_mask.png"))) == 3


def test_is_found_by_name_and_its_categories_too() -> None:
    import anomalib.models  # noqa: F401  (what makes anomalib know the package)
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(AnomalibDataModule, "data")
    parsed = parser.parse_args(["--data", "GeneratedParts", "--data.test_good", "3", "--data.eval_batch_size", "7"])
    built = parser.instantiate_classes(parsed).data
    assert isinstance(built, GeneratedParts)
    assert (built.test_good, built.eval_batch_size) == (3, 7)
    assert catalogue.find_class("data", "GeneratedParts") is GeneratedParts
    assert catalogue.known_categories(GeneratedParts, None) == CATEGORIES


def test_a_suite_needs_no_folder_and_an_old_one_is_told_what_to_write(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    head = "name: x\nmodels: [{class_path: AnoClip, init_args: {backbone: demo}}]\ndata:\n"
    path.write_text(head + f"  - class_path: GeneratedParts\n    init_args: {{root: {tmp_path}/none, test_bad: 1}}\n")
    assert load_suite(path).data[0].categories == CATEGORIES
    path.write_text(head + "  - class_path: MVTecAD\n    generate: {train: 3}\n")
    with pytest.raises(SuiteError, match="class_path: GeneratedParts.*drawing_seed") as error:
        load_suite(path)
    assert len(error.value.faults) == 1
    assert ":5:" in str(error.value) or "line 5" in str(error.value)
