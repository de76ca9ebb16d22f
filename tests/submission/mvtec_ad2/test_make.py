import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from anoclip_anomalib.claims import Claims
from anoclip_anomalib.evaluation.thresholds import ThresholdRule
from anoclip_anomalib.submission.model_config import ModelConfig
from anoclip_anomalib.submission.mvtec_ad2 import make as mvtec_ad2
from anoclip_anomalib.submission.mvtec_ad2.layout import MAPS, MASKS, SPLIT_SUFFIXES, images_of
from anoclip_anomalib.submission.mvtec_ad2.make import Submission, make_submission, original_sizes
from anoclip_anomalib.submission.mvtec_ad2.object import make_object
from anoclip_anomalib.submission.mvtec_ad2.predict import PredictSettings, RawMapStore
from anoclip_anomalib.submission.mvtec_ad2.rank_float16 import kendall_tau
from anoclip_anomalib.submission.mvtec_ad2.validate import validate

from ..ad2_files import COUNTS, write_dataset

FAKE = "tests.submission.fake_model.Brightness"
REPOSITORY = Path(__file__).parents[3]


class Silent:
    def __init__(self, stop_after=None):
        self.images, self.stop_after, self.steps = 0, stop_after, []

    def start(self, text, total):
        self.steps.append(text)

    def advance(self, images):
        self.images += images
        if self.stop_after is not None and self.images >= self.stop_after:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("ad2") / "mvtec_ad_2").resolve()


def submission(dataset, out, *options, model=FAKE, fit=False, **kwargs):
    arguments = ["--model", model, "--data.root", str(dataset), "--data.num_workers", "0", "--data.eval_batch_size", "16"]
    settings = PredictSettings(ModelConfig([*arguments, *options]), dataset, fit)
    return Submission("my_method", Path(out), settings, **{"counts": COUNTS, **kwargs})


def make(job, progress=None):
    said = []
    return make_submission(job, progress or Silent(), said.append), said


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    job = submission(dataset, tmp_path_factory.mktemp("out"), keep_raw=True)
    report, said = make(job)
    return job, report, said


def test_what_is_written_is_valid(finished, dataset):
    job, report, _ = finished
    assert report.ok
    assert report.faults == []
    assert report.files == 4 * sum(COUNTS.values())
    assert validate(job.archive, counts=COUNTS, image_size=original_sizes(dataset)).faults == []
    with tarfile.open(job.archive) as members:
        assert {name.split("/")[0] for name in members.getnames()} == {"my_method"}


def test_names_and_sizes_are_the_inputs_own(finished, dataset):
    job, _, _ = finished
    for split in SPLIT_SUFFIXES:
        for image in (dataset / "sheet_metal" / split).iterdir():
            tiff = tifffile.imread(job.folder / MAPS / "sheet_metal" / split / f"{image.stem}.tiff")
            png = Image.open(job.folder / MASKS / "sheet_metal" / split / f"{image.stem}.png")
            assert tiff.shape == (png.height, png.width) == Image.open(image).size[::-1] == (24, 36)
            assert tiff.dtype == np.float16
            assert png.mode == "L"


def test_ranks_and_threshold_are_those_of_the_raw_scores(finished):
    job, _, _ = finished
    provenance = json.loads((job.out / "my_method.provenance.json").read_text())
    threshold = provenance["objects"]["sheet_metal"]["threshold"]
    raw = job.work / "raw" / "sheet_metal"
    normal = [np.load(path)["scores"] for path in sorted((raw / "validation" / "good").iterdir())]
    upsampled = []
    for scores in normal:
        upsampled.append(cv2.resize(scores, (36, 24), interpolation=cv2.INTER_LINEAR).astype(np.float64))
    assert threshold == pytest.approx(np.mean(upsampled) + 3 * np.std(upsampled), abs=1e-9)
    together = []
    for number in range(0, 40, 7):
        scores = np.load(raw / "test_private" / f"{number:03d}_regular.npz")["scores"]
        assert np.abs(scores - 0.5).max() <= 0.0101
        scores = cv2.resize(scores, (36, 24), interpolation=cv2.INTER_LINEAR)
        values = tifffile.imread(job.folder / MAPS / "sheet_metal" / "test_private" / f"{number:03d}_regular.tiff")
        assert kendall_tau(scores, values) >= 0.999
        mask = np.asarray(Image.open(job.folder / MASKS / "sheet_metal" / "test_private" / f"{number:03d}_regular.png"))
        np.testing.assert_array_equal(mask > 0, scores > threshold)
        together.append((scores, values))
    # One function for the whole object: ranks between images hold as well.
    scores, values = (np.concatenate([pair[index].ravel() for pair in together]) for index in (0, 1))
    order = np.argsort(scores, kind="stable")
    assert (np.diff(values[order].astype(np.float64)) >= 0).all()


def test_defects_are_above_the_threshold(finished):
    job, _, _ = finished
    mask = np.asarray(Image.open(job.folder / MASKS / "can" / "test_private" / "001_regular.png")) > 0
    assert mask[6:10, 8:12].all()
    assert mask[16:, 20:].mean() < 0.02
    assert (np.asarray(Image.open(job.folder / MASKS / "can" / "test_private" / "000_regular.png")) > 0).mean() < 0.02


def test_provenance_lies_beside_the_folder(finished):
    job, _, _ = finished
    provenance = json.loads((job.out / "my_method.provenance.json").read_text())
    assert provenance["settings"]["configuration"]["model"]["class_path"] == FAKE
    assert provenance["settings"]["threshold"]["kind"] == "mean_std"
    assert len(provenance["weights_digest"][0]) == 64
    assert {"anoclip_anomalib", "anomalib", "torch", "python"} <= set(provenance["versions"])
    assert provenance["archive"]["name"] == "my_method.tar.gz"
    assert set(provenance["objects"]) == set(COUNTS)
    assert provenance["objects"]["sheet_metal"]["threshold_rule"] == "mean + 3 std of normal images"
    assert provenance["objects"]["sheet_metal"]["smallest_kendall_tau"] >= 0.999
    assert "commit" in provenance
    assert "created" in provenance
    assert not list(job.folder.rglob("*.json"))


def test_interrupted_run_goes_on_to_the_same_bytes(finished, dataset, tmp_path):
    job = submission(dataset, tmp_path, counts={"sheet_metal": 142, "can": 2}, keep_raw=True)
    with pytest.raises(KeyboardInterrupt):
        make(job, Silent(stop_after=100))
    kept = {path: path.stat().st_mtime_ns for path in (job.work / "raw").rglob("*.npz")}
    assert 80 <= len(kept) < 288
    assert not job.archive.exists()
    half = job.folder / "anomaly_images/sheet_metal/test_private/.012_regular-usd648_s.tiff"  # as kill -9 leaves it
    half.parent.mkdir(parents=True, exist_ok=True)
    half.touch()
    report, _ = make(job)
    assert report.ok
    assert not half.exists()
    for path, written in kept.items():
        assert path.stat().st_mtime_ns == written  # not predicted again
    reference = finished[0]
    for path in job.folder.rglob("*.*"):
        assert path.read_bytes() == (reference.folder / path.relative_to(job.folder)).read_bytes()


SCRIPT = """
import sys
from pathlib import Path
from tests.submission.ad2_files import COUNTS
from tests.submission.mvtec_ad2.test_make import make, submission
job = submission(Path(sys.argv[1]), sys.argv[2], poll=0.2)
report, said = make(job)
print(sum(": " in line and "threshold" in line for line in said))
sys.exit(0 if report.ok else 1)
"""


def test_processes_share_the_work_also_after_one_was_killed(finished, dataset, tmp_path):
    def start():
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(dataset), str(tmp_path)],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )

    killed = start()
    deadline = time.monotonic() + 400
    while not list((tmp_path / "my_method.work" / "raw").rglob("*.npz")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    workers = [start(), start()]
    made = [int(worker.communicate(timeout=600)[0].splitlines()[-1]) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    left = 8 - sum(made)  # what the killed process had finished
    assert 0 <= left < 8
    assert (tmp_path / "my_method.tar.gz").read_bytes() == finished[0].archive.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "my_method",
        "my_method.provenance.json",
        "my_method.tar.gz",
    ]


def test_waiting_process_notices_that_another_one_has_packed(finished, dataset, tmp_path, monkeypatch):
    job = submission(dataset, tmp_path, poll=0.0)
    held = Claims(job.work / "claims").take("can")
    assert held.__enter__()
    predicted = []

    def meanwhile(seconds):
        monkeypatch.undo()
        held.__exit__(None, None, None)
        make(job)  # to the end: the work folder is gone
        assert not job.work.exists()
        predicted.append(job.archive.stat().st_mtime_ns)

    monkeypatch.setattr(mvtec_ad2.time, "sleep", meanwhile)
    progress = Silent()
    report, said = make(job, progress)
    assert report.ok
    assert predicted == [job.archive.stat().st_mtime_ns]
    assert [line for line in said if line.startswith("waiting")] == ["waiting for other processes: can"]
    assert "can: predicting" not in progress.steps  # it was the other one's
    assert not job.work.exists()
    assert job.archive.read_bytes() == finished[0].archive.read_bytes()


def test_finished_submission_is_left_alone(finished):
    job = finished[0]
    before = job.archive.stat().st_mtime_ns
    report, said = make(job)
    assert report.ok
    assert "complete already" in said[0]
    assert job.archive.stat().st_mtime_ns == before


def test_other_settings_do_not_mix(dataset, tmp_path, finished):
    one = {"counts": {"can": 2}}
    make(submission(dataset, tmp_path, **one))
    other = submission(dataset, tmp_path, threshold=ThresholdRule("quantile", q=0.9), **one)
    with pytest.raises(FileExistsError, match="begun with another threshold"):
        make(other)
    with pytest.raises(FileExistsError, match="begun with another configuration"):
        make(submission(dataset, tmp_path, "--model.spread", "0.02", **one))
    with pytest.raises(FileExistsError, match="another, finished submission"):
        make(submission(dataset, finished[0].out, "--model.spread", "0.02"))
    (tmp_path / "alien" / "my_method").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="was not begun by this command"):
        make(submission(dataset, tmp_path / "alien", **one))


@pytest.mark.parametrize(
    ("rule", "share"),
    [
        (ThresholdRule("quantile", q=0.5), 0.5),
        (ThresholdRule("fixed", value=0.0), 1.0),
        (ThresholdRule("fixed", value=1.0), 0.0),
    ],
)
def test_threshold_rules(dataset, tmp_path, rule, share):
    job = submission(dataset, tmp_path, counts={"can": 2}, threshold=rule)
    assert make(job)[0].ok
    image = np.asarray(Image.open(job.folder / MASKS / "can" / "test_private" / "000_regular.png"))
    assert (image > 0).mean() == pytest.approx(share, abs=0.2)


def test_rule_that_needs_labels_is_refused(dataset, tmp_path):
    with pytest.raises(ValueError, match="needs labels"):
        make(submission(dataset, tmp_path, counts={"can": 2}, threshold=ThresholdRule("adaptive")))


def test_model_that_learns(dataset, tmp_path):
    learned = "tests.submission.fake_model.LearnedBrightness"
    with pytest.raises(ValueError, match=r"learns from normal images: give --fit, or --ckpt_path"):
        make(submission(dataset, tmp_path / "a", model=learned, counts={"can": 2}))
    job = submission(dataset, tmp_path / "b", model=learned, counts={"can": 2}, fit=True, keep_raw=True)
    assert make(job)[0].ok
    plain = submission(dataset, tmp_path / "c", counts={"can": 2}, keep_raw=True)
    make(plain)
    path = Path("work", "raw", "can", "test_private", "000_regular.npz").relative_to("work")
    assert not np.allclose(np.load(job.work / path)["scores"], np.load(plain.work / path)["scores"])

    # The checkpoint that fitting wrote gives the same scores.
    checkpoint = next(job.work.rglob("*.ckpt"))
    where = tmp_path / "weights" / "can"
    where.mkdir(parents=True)
    checkpoint.rename(where / "model.ckpt")
    option = ["--ckpt_path", str(tmp_path / "weights" / "{object}" / "model.ckpt")]
    loaded = submission(dataset, tmp_path / "d", *option, model=learned, counts={"can": 2}, keep_raw=True)
    assert make(loaded)[0].ok
    np.testing.assert_allclose(np.load(loaded.work / path)["scores"], np.load(job.work / path)["scores"], atol=1e-7)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        make(submission(dataset, tmp_path / "e", "--ckpt_path", "nowhere", model=learned, counts={"can": 2}))


def test_map_that_is_not_finite_is_named(dataset, tmp_path):
    with pytest.raises(ValueError, match=r"not finite for .*can/test_private/000_regular.png"):
        make(submission(dataset, tmp_path, "--model.nan_on", "can/test_private/000", counts={"can": 2}))


def test_constant_maps_are_refused(dataset, tmp_path):
    with pytest.raises(ValueError, match="All scores are equal"):
        make(submission(dataset, tmp_path, "--model.spread", "0", counts={"can": 2}))


def test_incomplete_data_set_is_told_before_predicting(dataset, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        make(submission(dataset, tmp_path, counts={"can": 3, "vial": 2, "bottle": 1}))
    assert "can/test_private has 2 images, the leaderboard expects 3" in str(error.value)
    assert "bottle/validation/good has no PNG images" in str(error.value)
    assert "vial" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".hidden"])
def test_names_that_are_no_folder(dataset, tmp_path, name):
    with pytest.raises(ValueError, match="no name for a folder"):
        Submission(name, tmp_path, submission(dataset, tmp_path).predict)


def test_images_that_a_model_leaves_out_are_counted_and_named(dataset, tmp_path):
    single = ("--data.eval_batch_size", "1", "--trainer.limit_predict_batches", "1")  # of each split the first image alone
    job = submission(dataset, tmp_path, *single, counts={"can": 2})
    with pytest.raises(ValueError, match=r"Brightness left out \d+ images, .*/can/.* among them"):
        make(job)
    assert job.left() == ["can"]


def test_maps_of_other_weights_are_not_mixed_in(dataset, tmp_path):
    job = submission(dataset, tmp_path, counts={"can": 2}, keep_raw=True)
    raw, said = job.work / "raw" / "can", []
    make_object(job, "can", Silent(), said.append)
    for weights, goes_on in ({}, True), ({"weights_digest": "0" * 64}, False):
        next(raw.rglob("*.npz")).unlink()  # as if that image had not been reached
        (raw / "model.json").write_text(json.dumps(json.loads((raw / "model.json").read_text()) | weights))
        if goes_on:
            make_object(job, "can", Silent(), said.append)
        else:
            with pytest.raises(ValueError, match="weights changed since the first maps"):
                make_object(job, "can", Silent(), said.append)
    assert len(said) == 2


def test_a_pixel_at_the_threshold_is_not_marked(dataset, tmp_path):
    job = submission(dataset, tmp_path, counts={"can": 2}, keep_raw=True)
    make_object(job, "can", Silent(), [].append)
    image = images_of(dataset, "can", "test_private")[0]
    scores = RawMapStore(job.work / "raw" / "can", dataset / "can").read(image).at_original_size()
    for value, marked in ((scores.max(), 0), (np.unique(scores)[-2], (scores == scores.max()).sum())):
        rule = ThresholdRule("fixed", value=float(value))
        make_object(replace(job, threshold=rule), "can", Silent(), [].append)
        mask = np.asarray(Image.open(job.folder / MASKS / "can" / "test_private" / f"{image.stem}.png"))
        assert (mask > 0).sum() == marked
