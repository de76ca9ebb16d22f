"""Other data sets than MVTec AD, from generated files in their layouts."""

import shutil

import pytest

from anoclip_anomalib.comparison.run.run_job import run_job
from anoclip_anomalib.comparison.suite.load_suite import load_suite
from anoclip_anomalib.comparison.suite.suite import jobs_of
from tests.evaluation.scorer import write_category

SUITE = """
name: x
models: [tests.evaluation.scorer.Brightness]
data:
  - class_path: {datamodule}
    init_args: {{root: {root}, num_workers: 0, eval_batch_size: 4{more}}}
    {categories}
protocol: {{timed_images: 1, warmup_images: 0, sample_images: 4, resolution: original}}
"""


def mvtec_ad2(root):
    """MVTec AD 2 has its own validation images and keeps masks below the test split."""
    base = write_category(root, "can", images=3, size=48) / "can"
    (base / "test").rename(base / "test_public")
    (base / "test_public" / "spot").rename(base / "test_public" / "bad")
    shutil.copytree(base / "train" / "good", base / "validation" / "good")
    (base / "test_public" / "ground_truth").mkdir()
    (base / "ground_truth" / "spot").rename(base / "test_public" / "ground_truth" / "bad")


def mpdd(root):
    """MPDD has the layout of MVTec AD."""
    write_category(root, "bracket_black", images=3, size=48)


def folder(root):
    """Any folders."""
    write_category(root, "mine", images=3, size=48)


def btech(root):
    """BTAD: test/ok and test/ko, masks of the same name."""
    base = write_category(root, "01", images=3, size=48) / "01"
    (base / "train" / "good").rename(base / "train" / "ok")
    (base / "test" / "good").rename(base / "test" / "ok")
    (base / "test" / "spot").rename(base / "test" / "ko")
    (base / "ground_truth" / "spot").rename(base / "ground_truth" / "ko")
    for mask in (base / "ground_truth" / "ko").iterdir():
        mask.rename(mask.with_name(mask.name.replace("_mask", "")))


FOLDERS = (
    ", name: mine, normal_dir: mine/train/good, abnormal_dir: mine/test/spot, normal_test_dir: mine/test/good,"
    " mask_dir: mine/ground_truth/spot, val_split_mode: from_train"
)


@pytest.mark.parametrize(
    ("write", "datamodule", "more", "categories", "category"),
    [
        (mvtec_ad2, "MVTecAD2", "", "categories: [can]", "can"),
        (mpdd, "MPDD", ", val_split_mode: from_train", "categories: [bracket_black]", "bracket_black"),
        (btech, "BTech", ", val_split_mode: from_train", 'categories: ["01"]', "01"),
        (folder, "Folder", FOLDERS, "class_name: plate", "mine"),
    ],
)
def test_datamodule(tmp_path, write, datamodule, more, categories, category):
    write(tmp_path / "data")
    path = tmp_path / "suite.yaml"
    path.write_text(SUITE.format(datamodule=datamodule, root=tmp_path / "data", more=more, categories=categories))
    jobs = jobs_of(load_suite(path))
    assert [job.category for job in jobs] == [category]
    row, _ = run_job(jobs[0])
    assert row["status"] == "done", row["error"]["traceback"]
    assert row["metrics"]["image_AUROC"] == 1.0
    assert row["metrics"]["AUPRO"] > 0.8
    assert row["counts"] | {"reference_images": 0, "regions": 0} == {
        "images": 6, "normal": 3, "anomalous": 3, "masked_images": 6, "regions": 0, "reference_images": 0,
    }  # fmt: skip
    assert row["counts"]["reference_images"] > 0
    assert "normal images" in row["thresholds"]["pixel"]["rule"]


def test_private_images_without_labels_have_no_metrics_and_say_so(tmp_path):
    mvtec_ad2(tmp_path / "data")
    base = tmp_path / "data" / "can"
    shutil.copytree(base / "test_public" / "good", base / "test_private")
    path = tmp_path / "suite.yaml"
    more = ", test_type: private"
    path.write_text(SUITE.format(datamodule="MVTecAD2", root=tmp_path / "data", more=more, categories="categories: [can]"))
    row, _ = run_job(jobs_of(load_suite(path))[0])
    assert row["status"] == "done", row["error"]["traceback"]
    assert set(row["metrics"].values()) == {None}
    assert row["undefined"]["image_AUROC"] == "no scores"
    assert row["undefined"]["AUPRO"] == "no masks"
    assert len(row["images"]) == 3
