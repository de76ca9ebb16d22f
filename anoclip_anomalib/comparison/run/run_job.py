"""Run one job: build, train if needed, test, time. Returns a row and its pictures; writes nothing but temporary files."""

import gc
import logging
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from anomalib.engine import Engine
from lightning.pytorch import seed_everything

from anoclip_anomalib.comparison.run.measure import Measure
from anoclip_anomalib.comparison.run.provenance import provenance_of
from anoclip_anomalib.comparison.run.row import Pictures, failed_row, finished_row, pictures_of
from anoclip_anomalib.comparison.run.row_schema import DoneRow, Row
from anoclip_anomalib.comparison.suite import catalogue
from anoclip_anomalib.comparison.suite.suite import ClassSpec, Job
from anoclip_anomalib.evaluation.thresholds import natural_threshold
from anoclip_anomalib.progress import Steps
from anoclip_anomalib.running.collect import ShowImages
from anoclip_anomalib.running.engine import build_engine, learns, strip, undisturbed
from anoclip_anomalib.running.timing import OtherLoad, PeakMemory, Stopwatch, latency, throughput

logger = logging.getLogger(__name__)


def run_job(job: Job, threads: int | None = None, progress: Steps | None = None) -> tuple[Row, Pictures | None]:
    """Run a job to the end, come what may.

    Args:
        job: What to run.
        threads: Torch's threads; ``None`` leaves them as they are.
        progress: Is told of every batch.

    Returns:
        The row (status "done" or "failed") and the pictures for the report (``None`` if it failed).
    """
    start = time.perf_counter()
    before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        row, pictures = _run(job, progress)
    except Exception as error:  # noqa: BLE001 - whatever a model does wrong becomes its row; other jobs go on
        logger.debug("%s failed", job.label, exc_info=True)
        row, pictures = failed_row(job, error, traceback.format_exc()), None
    finally:
        torch.set_num_threads(before)
        gc.collect()
        torch.cuda.empty_cache()  # nothing where CUDA was not used
    row["duration_s"] = time.perf_counter() - start
    return row, pictures


def _run(job: Job, progress: Steps | None) -> tuple[Row, Pictures | None]:
    seed_everything(job.seed, workers=True, verbose=False)
    datamodule = build_data(job)
    model, note = build_model(job)
    # An evaluator that the suite itself names stays: early stopping may watch its metrics.
    strip(model, keep={"evaluator"} & job.model.spec.init_args.keys())
    callbacks = [catalogue.instantiate("callback", spec) for spec in job.model.callbacks]
    measure, stopwatch = Measure(job.protocol), Stopwatch()
    trains = learns(model)
    ours = [stopwatch, measure, *([ShowImages(progress)] if progress else [])]  # the stopwatch must be the first
    temporary = tempfile.TemporaryDirectory(prefix="anoclip-compare-")
    with temporary as folder, undisturbed(), PeakMemory() as memory, OtherLoad() as others:
        engine = build_engine(folder, [*ours, *callbacks], job.model.trainer, keeps_nothing=not trains)
        fit_s = _timed(lambda: engine.fit(model, datamodule=datamodule)) if trains else 0.0
        stopwatch.clear()
        test_s = _timed(lambda: engine.test(model, datamodule=datamodule, verbose=False))
        speed: dict[str, Any] = dict(throughput(stopwatch.seconds, stopwatch.images))
        stopwatch.clear()
        if job.protocol.timed_images:
            _time_single_images(engine, model, datamodule, job)
        speed |= latency(stopwatch.seconds, job.protocol.warmup_images)
    speed |= {"fit_s": fit_s, "test_s": test_s, "device": str(engine.trainer.strategy.root_device)}
    speed |= {"threads": torch.get_num_threads(), "other_load": others.cores}
    sizes = [(one.numel(), one.requires_grad) for one in model.parameters()]
    parameters = {"total": sum(size for size, _ in sizes), "trainable": sum(size for size, learned in sizes if learned)}
    provenance = provenance_of(job, model, callbacks) | ({"note": note} if note else {})
    root = getattr(datamodule, "root", None)
    row = finished_row(job, measure.result, natural_threshold(model), root)
    peaks = {name: getattr(memory, name) for name in ("cpu_peak_mib", "cpu_extra_mib", "gpu_peak_mib")}
    row |= cast(DoneRow, {"speed": speed, "memory": peaks, "parameters": parameters, "provenance": provenance})
    return row, pictures_of(job, measure.result, root, row)


def build_data(job: Job) -> Any:
    """The job's datamodule, its data downloaded or drawn: that is no part of the times."""
    category = {"category": job.category} if job.data.categories else {}
    datamodule = catalogue.instantiate("data", ClassSpec(job.data.spec.class_path, job.data.spec.init_args | category))
    datamodule.prepare_data()
    return datamodule


def build_model(job: Job) -> tuple[Any, str | None]:
    """The job's model and a note for the row. A faulty WinClip is replaced by the repaired one."""
    from anomalib.models import WinClip

    from anoclip_anomalib.baselines.winclip import fair_winclip, one_clip_per_process

    spec = job.model.spec
    found = catalogue.find_class("model", spec.class_path)
    if job.data.class_name is not None and "class_name" not in spec.init_args and catalogue.takes(found, "class_name"):
        spec = replace(spec, init_args=spec.init_args | {"class_name": job.data.class_name})
    if not issubclass(found, WinClip):
        return catalogue.instantiate("model", spec), None
    with one_clip_per_process():
        model = catalogue.instantiate("model", spec)
    return fair_winclip(model)


def _time_single_images(engine: Engine, model: Any, datamodule: Any, job: Job) -> None:
    """Predict some test images one by one, so that the stopwatch sees single images."""
    datamodule.eval_batch_size, before = 1, datamodule.eval_batch_size
    engine.trainer.limit_predict_batches = job.protocol.timed_images + job.protocol.warmup_images
    try:
        engine.trainer.predict(model, datamodule=datamodule, return_predictions=False)
    finally:
        datamodule.eval_batch_size = before


def _timed(action: Callable[[], Any]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start
