import gc
import threading
import time
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from anoclip_anomalib.running.timing import OtherLoad, PeakMemory, Stopwatch, latency, throughput


def test_latency_leaves_the_warm_up_out():
    found = latency([9.0, 9.0, 0.1, 0.2, 0.3], warmup=2)
    assert found["median_s"] == pytest.approx(0.2)
    assert found["p95_s"] == pytest.approx(0.29)
    assert found["timed_images"] == 3
    assert latency([1.0], warmup=3)["median_s"] is None


def test_throughput_counts_images_not_batches():
    assert throughput([5.0, 1.0, 1.0], [4, 4, 2]) == {"images_per_second": 3.0, "batch_size": 4}
    assert throughput([], [])["images_per_second"] is None


def test_stopwatch_sees_what_happens_between_its_hooks():
    stopwatch = Stopwatch()
    batch = SimpleNamespace(image=torch.zeros(2, 3, 4, 4), anomaly_map=torch.zeros(2, 4, 4), pred_score=None)
    stopwatch.on_predict_batch_start(None, None, batch)
    time.sleep(0.02)
    stopwatch.on_predict_batch_end(None, None, batch, batch)
    assert 0.02 <= stopwatch.seconds[0] < 0.5
    assert stopwatch.images == [2]


def test_peak_memory_sees_a_passing_peak():
    gc.collect()  # what earlier tests have left must not go meanwhile
    with PeakMemory(interval=0.005) as memory:
        block = np.ones(256 * 2**20 // 8)
        time.sleep(0.1)
        del block
    assert memory.cpu_extra_mib > 192
    assert memory.cpu_peak_mib > memory.cpu_extra_mib


def test_load_is_that_of_other_processes_only(monkeypatch):
    """2 s pass; the machine was busy for 5 core seconds, this process for 3 of them: the others kept one core busy."""
    clock = iter([10.0, 12.0])
    machine = [SimpleNamespace(user=u, idle=i, iowait=1.0, guest=g) for u, i, g in ((100.0, 50.0, 7.0), (105.0, 51.0, 10.0))]
    own = iter([SimpleNamespace(user=1.0, system=1.0), SimpleNamespace(user=3.0, system=2.0)])
    states = iter([Times(**vars(one)) for one in machine])
    monkeypatch.setattr("anoclip_anomalib.running.timing.psutil.cpu_times", lambda: next(states))
    monkeypatch.setattr("anoclip_anomalib.running.timing.time.perf_counter", lambda: next(clock))
    load = OtherLoad()
    monkeypatch.setattr(load, "_process", SimpleNamespace(cpu_times=lambda: next(own)))
    with load:
        pass
    assert load.cores == pytest.approx(1.0)


class Times(NamedTuple):
    """What psutil gives on Linux, in part; guest time is in user time, too."""

    user: float
    idle: float
    iowait: float
    guest: float


def test_the_clock_runs_while_the_image_is_brought_to_its_device():
    moved = torch.zeros(1)
    image = SimpleNamespace(device=torch.device("cpu"), cpu=lambda: SimpleNamespace(to=lambda device: moved))
    batch = SimpleNamespace(image=image)
    Stopwatch().on_test_batch_start(None, None, batch)
    assert batch.image is moved


def test_nobody_watches_the_memory_any_more_after_a_run_however_it_ended():
    before = set(threading.enumerate())

    def run():
        with PeakMemory():
            assert len(set(threading.enumerate()) - before) == 1
            raise ValueError("of the run")

    with pytest.raises(ValueError, match="of the run"):
        run()
    assert set(threading.enumerate()) <= before
