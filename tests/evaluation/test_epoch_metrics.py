"""Each image counts once: in every order of Lightning's sets, in one Engine used again and again, in several processes."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from anomalib.data import ImageBatch
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from anoclip_anomalib.evaluation import ImageAUROC
from anoclip_anomalib.evaluation.epoch_metrics import DistinctImages, EpochMetrics, first_images
from tests.mvtec_files import write_mvtec

SCRIPT = """
import json, sys
import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from anoclip_anomalib import AnoClip
from anoclip_anomalib.data import FolderImages
from anoclip_anomalib.evaluation import ImageAUROC, PixelAUROC, PredictionsCsv, RawEvaluation, StreamingEvaluator

root, out, devices = sys.argv[1:]
torch.set_num_threads(1)
metrics = lambda prefix: [ImageAUROC(prefix=prefix), PixelAUROC(prefix=prefix)]
counts = {}


for metric in (ImageAUROC, PixelAUROC):
    update = metric.update
    def counted(self, batch, update=update):
        counts[self.name] = counts.get(self.name, 0) + len(batch)
        update(self, batch)
    metric.update = counted

several = {"strategy": "ddp_find_unused_parameters_false"} if devices != "1" else {}
engine = Engine(
    accelerator="cpu", devices=int(devices), default_root_dir=out, logger=False, enable_progress_bar=False,
    enable_model_summary=False, callbacks=[
        RawEvaluation(metrics=metrics("callback_")), csv := PredictionsCsv(f"{out}/csv{devices}", threshold="mean_std")
    ], **several,
)
results = []
for _ in range(2):
    model = AnoClip(
        backbone="demo", image_size=64, class_name="bottle", visualizer=False,
        evaluator=StreamingEvaluator(test_metrics=metrics("evaluator_")),
        raw_evaluator=StreamingEvaluator(test_metrics=metrics("raw_")),
    )
    split = {"val_split_mode": "from_train", "val_split_ratio": 0.5, "seed": 0}
    data = MVTecAD(root=root, category="bottle", num_workers=0, eval_batch_size=2, **split)
    counts.clear()
    results.append({**engine.test(model, datamodule=data, verbose=False)[0], "counts": dict(counts)})
for kind in ("folder", "single"):
    csv.folder, csv.save_maps = f"{out}/{kind}{devices}", "tiff"
    path = f"{root}/pictures" + ("/spot/000.png" if kind == "single" else "")
    engine.predict(model, dataset=FolderImages(path), return_predictions=False)
with open(f"{out}/{devices}-{engine.trainer.global_rank}.json", "w") as file:
    json.dump(results, file)
"""


def dealt(images: int, processes: int, batch_size: int, shuffle: bool = False) -> list[int]:
    """What all processes keep of a data set that a distributed sampler deals to them."""
    kept = []
    for rank in range(processes):
        data = list(range(images))
        sampler = DistributedSampler(data, num_replicas=processes, rank=rank, shuffle=shuffle, seed=3)
        loader = DataLoader(data, batch_size=batch_size, sampler=sampler)
        for _ in range(2):  # the second epoch counts afresh
            distinct = DistinctImages()
            seen = []
            for numbers in loader:
                batch = distinct.of(ImageBatch(image=torch.zeros(len(numbers), 3, 2, 2), pred_score=numbers.float()), loader)
                seen += [] if batch is None else batch.pred_score.int().tolist()
        kept += seen
    return kept


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize(("images", "processes"), [(7, 2), (8, 2), (1, 2), (2, 5), (7, 3), (10, 4), (3, 1)])
def test_dealt_images_are_kept_once(images, processes, batch_size, shuffle):
    assert sorted(dealt(images, processes, batch_size, shuffle)) == list(range(images))


def test_each_of_several_loaders_is_counted_alone():
    data = list(range(3))
    loaders = [DataLoader(data, sampler=DistributedSampler(data, num_replicas=2, rank=1, shuffle=False))] * 2
    distinct = DistinctImages()
    batch = ImageBatch(image=torch.zeros(1, 3, 2, 2))
    kept = [distinct.of(batch, loaders, index) is not None for index in (0, 1, 0, 1)]
    assert kept == [True, True, False, False]
    whole = [DataLoader(data), loaders[0]]  # the first one repeats nothing
    assert [distinct.of(batch, whole, index) is not None for index in (0, 1, 0, 1)] == [True, False, True, False]


def test_an_epoch_after_an_interrupted_one_counts_all_its_images():
    data = list(range(3))
    loader = DataLoader(data, sampler=DistributedSampler(data, num_replicas=2, rank=0, shuffle=False))
    epoch = EpochMetrics([ImageAUROC()])
    for batches in (1, 2):
        epoch.start()
        for number in range(batches):
            label = torch.tensor([number])
            epoch.update(ImageBatch(image=torch.zeros(1, 3, 2, 2), pred_score=label.float(), gt_label=label), loader)
    assert len(epoch.metrics[0].scores) == 2
    assert epoch.metrics[0].compute() == 1.0


def test_first_images_cuts_every_field():
    batch = ImageBatch(
        image=torch.zeros(3, 3, 4, 4),
        gt_label=torch.tensor([0, 1, 0]),
        gt_mask=torch.zeros(3, 4, 4),
        image_path=["a", "b", "c"],
        pred_score=torch.arange(3.0),
        anomaly_map=torch.rand(3, 4, 4),
    )
    cut = first_images(batch, 2)
    assert len(cut) == 2
    assert cut.image_path == ["a", "b"]
    assert cut.gt_label.tolist() == [False, True]
    assert torch.equal(cut.anomaly_map, batch.anomaly_map[:2])
    assert cut.gt_mask.shape == (2, 4, 4)
    assert cut.pred_label is None
    assert first_images(batch, 3) is batch
    assert first_images(batch, 0) is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def runs(folder) -> dict[str, list[dict]]:
    """Results of two models in one Engine, in one process and in each of two gloo processes; 7 images."""
    root = write_mvtec(folder / "data", good=3, defects=4)
    shutil.copytree(root / "bottle/test", root / "pictures")
    (root / "pictures/bad.png").write_text("no image")
    (folder / "script.py").write_text(SCRIPT)
    for devices in ("1", "2"):
        command = [sys.executable, str(folder / "script.py"), str(root), str(folder), devices]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=Path.cwd())
        assert done.returncode == 0, done.stderr[-3000:]
    return {file.stem: json.loads(file.read_text()) for file in folder.glob("*.json")}


@pytest.mark.slow
def test_two_processes_measure_what_one_does(runs):
    names = ("raw_ImageAUROC", "raw_PixelAUROC", "callback_ImageAUROC", "callback_PixelAUROC", "evaluator_ImageAUROC")
    assert set(runs) == {"1-0", "2-0", "2-1"}
    for rank in ("2-0", "2-1"):
        for one, two in zip(runs["1-0"], runs[rank], strict=True):
            for name in names:
                assert two[name] == pytest.approx(one[name], abs=1e-6), name


@pytest.mark.slow
def test_every_image_counts_once_for_every_model_of_an_engine(runs):
    assert [set(result["counts"].values()) for result in runs["1-0"]] == [{7}, {7}]
    for first, second in zip(runs["2-0"], runs["2-1"], strict=True):
        assert {name: first["counts"][name] + second["counts"][name] for name in first["counts"]} == dict.fromkeys(
            first["counts"], 7
        )
        assert len(first["counts"]) == 6


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "folder", "single"])
def test_two_processes_write_one_file_with_every_image_once(runs, folder, kind):
    """With one threshold, from the validation images of both; one process has nothing to do where there is a single image."""
    one, two = ({row["path"]: row for row in rows_of(folder / f"{kind}{n}" / "predictions.csv")} for n in (1, 2))
    assert len(one) == len(rows_of(folder / f"{kind}2" / "predictions.csv")) == {"csv": 7, "folder": 8, "single": 1}[kind]
    assert one.keys() == two.keys()
    for path, row in one.items():
        assert two[path]["fault"] == row["fault"]
        if not row["fault"]:
            assert float(two[path]["score"]) == pytest.approx(float(row["score"]), abs=1e-6)
            assert float(two[path]["threshold"]) == pytest.approx(float(row["threshold"]), abs=1e-6)
            assert (two[path]["threshold_rule"], two[path]["label"]) == (row["threshold_rule"], row["label"])
            assert row["threshold_rule"] == "mean + 3 std of normal images"
    written = [path.name for path in (folder / f"{kind}2").glob("predictions*")]
    assert written == ["predictions.csv"]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
