"""Latency, from an image in the computer's memory to its map in the computer's memory; throughput; peak memory."""

import threading
import time
from typing import Any

import numpy as np
import psutil
import torch
from lightning.pytorch import Callback, LightningModule, Trainer


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done all that was asked of it; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Stopwatch(Callback):
    """Time batches from the image in memory to the map on the CPU.

    Must be the first callback: its start hook runs before all others' (normalisation, adaptation), its end hook before
    all others' (post-processing, drawing). The transfer to the device is part of the time: the batch, which Lightning has
    moved there already, is fetched back before the clock starts. Reading and resizing of files are not part of it.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.images: list[int] = []
        self._start = 0.0

    def clear(self) -> None:
        """Forget all times."""
        self.seconds, self.images = [], []

    def on_test_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *args: Any, **kwargs: Any) -> None:
        """Start the clock with the image on the CPU, then bring it to its device."""
        device, on_cpu = batch.image.device, batch.image.cpu()
        synchronise(device)
        self._start = time.perf_counter()
        batch.image = on_cpu.to(device)

    on_predict_batch_start = on_test_batch_start

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any) -> None:
        """Bring map and score to the CPU (which waits for the device) and stop the clock."""
        for value in (batch.anomaly_map, batch.pred_score):
            if value is not None:
                value.cpu()
        self.seconds.append(time.perf_counter() - self._start)
        self.images.append(len(batch.image))

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        """The same; here the results are what the model returned."""
        self.on_test_batch_end(trainer, pl_module, None, outputs)


def latency(seconds: list[float], warmup: int) -> dict[str, float | int | None]:
    """Median and 95th percentile in seconds of single images, without the first ``warmup`` of them."""
    counted = seconds[warmup:]
    median, p95 = (float(np.median(counted)), float(np.percentile(counted, 95))) if counted else (None, None)
    return {"median_s": median, "p95_s": p95, "timed_images": len(counted), "warmup_images": min(warmup, len(seconds))}


def throughput(seconds: list[float], images: list[int]) -> dict[str, float | int | None]:
    """Images per second over batches, the first one left out if there are others."""
    skip = 1 if len(seconds) > 1 else 0
    total = sum(seconds[skip:])
    return {"images_per_second": sum(images[skip:]) / total if total else None, "batch_size": max(images, default=0)}


class OtherLoad:
    """How many CPU cores other processes kept busy, on average, during a block: above about 0.5, its times mislead.

    Attributes:
        cores: Busy cores of the machine minus this process' own; 0 before the block's end.
    """

    def __init__(self) -> None:
        self.cores = 0.0
        self._process = psutil.Process()

    def _busy(self) -> float:
        machine, own = psutil.cpu_times(), self._process.cpu_times()
        # Linux counts the seconds of virtual machines as user time, too.
        idle = sum(getattr(machine, name, 0.0) for name in ("idle", "iowait", "guest", "guest_nice"))
        return sum(machine) - idle - own.user - own.system

    def __enter__(self) -> "OtherLoad":
        self._start, self._busy_before = time.perf_counter(), self._busy()
        return self

    def __exit__(self, *error: object) -> None:
        seconds = max(time.perf_counter() - self._start, 1e-3)
        self.cores = max(0.0, (self._busy() - self._busy_before) / seconds)


class PeakMemory:
    """Peak resident memory of this process, and peak GPU memory, during a block.

    Attributes:
        cpu_peak_mib: Largest resident size seen (sampled).
        cpu_extra_mib: That, minus the size at the start.
        gpu_peak_mib: Largest memory that torch had reserved on the GPUs, ``None`` without one.
    """

    def __init__(self, interval: float = 0.02) -> None:
        self.interval = interval
        self.cpu_peak_mib = self.cpu_extra_mib = 0.0
        self.gpu_peak_mib: float | None = None
        self._process = psutil.Process()
        self._done = threading.Event()

    def __enter__(self) -> "PeakMemory":
        torch.cuda.empty_cache()  # what an earlier run had reserved does not count
        for device in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(device)
        self._base = self._peak = self._process.memory_info().rss
        self._done.clear()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()
        self._peak = max(self._peak, self._process.memory_info().rss)
        self.cpu_peak_mib = self._peak / 2**20
        self.cpu_extra_mib = (self._peak - self._base) / 2**20
        if torch.cuda.is_available():
            devices = range(torch.cuda.device_count())
            self.gpu_peak_mib = sum(torch.cuda.max_memory_reserved(device) for device in devices) / 2**20

    def _watch(self) -> None:
        while not self._done.wait(self.interval):
            self._peak = max(self._peak, self._process.memory_info().rss)
