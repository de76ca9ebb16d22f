"""Ray: same table, more speed, lost workers' jobs again. Skipped where Ray is not installed."""

import os
import time
from pathlib import Path

import pytest

from anoclip_anomalib.comparison.run.folder import ResultsFolder
from anoclip_anomalib.comparison.run.ray_runner import job_needs
from anoclip_anomalib.comparison.suite.suite import jobs_of
from anoclip_anomalib.evaluation.registry import METRICS
from tests.comparison.suites import command, command_here, small_suite, write_suite

pytest.importorskip("ray", reason="Ray is not installed: pip install 'anoclip_anomalib[ray]'")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray leaves a token in the home folder; other tests look there for files of ours."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_two_workers_give_the_same_table_and_a_lost_worker_costs_no_job(tmp_path, capsys):
    models = f"""
  - {{name: bright, class_path: tests.evaluation.scorer.Brightness}}
  - {{name: dies, class_path: tests.comparison.slow_scorer.DiesOnce, init_args: {{mark: {tmp_path / "died"}}}}}
  - {{name: broken, class_path: tests.evaluation.scorer.Brightness, init_args: {{fault: raise}}}}
"""
    suite = write_suite(tmp_path, models=models)
    ray = command(suite, "-o", tmp_path / "ray", "--runner", "ray", "--workers", 2, "--no-report")
    assert ray.returncode == 1, ray.stderr  # the broken model
    assert (tmp_path / "died").exists()
    local = command_here(capsys, suite, "-o", tmp_path / "local", "--no-report")
    tables = []
    for name, run in (("ray", ray), ("local", local)):
        assert "2 done, 1 failed" in run.stdout, run.stdout + run.stderr
        rows, faults = ResultsFolder(tmp_path / name).rows()
        assert not faults
        tables.append({row["job"]["model"]: row.get("metrics", {}) for row in rows})
    for model, metrics in tables[1].items():
        for name in METRICS if metrics else ():
            assert tables[0][model][name] == pytest.approx(metrics[name], abs=1e-6), (model, name)


def test_needs_never_exceed_the_cluster(tmp_path):
    from dataclasses import replace

    job = jobs_of(small_suite(tmp_path))[0]
    large = replace(job, model=replace(job.model, cpus=64, gpus=2.0))
    assert job_needs(large, 1, {"CPU": 4.0}) == {"num_cpus": 4, "num_gpus": 0.0}
    assert job_needs(large, 1, {"CPU": 128.0, "GPU": 8.0}) == {"num_cpus": 64, "num_gpus": 2.0}
    assert job_needs(job, 3, {"CPU": 4.0}) == {"num_cpus": 3, "num_gpus": 0.0}


@pytest.mark.skipif(
    "COMPARE_SPEED_TEST" not in os.environ,
    reason="takes a quiet machine with 2 free cores; run with COMPARE_SPEED_TEST=1, or see benchmarks/ray_speed.py",
)
def test_two_workers_are_faster(tmp_path):
    models = "\n" + "".join(
        f"  - name: m{i}\n    class_path: tests.comparison.slow_scorer.Slow\n"
        f"    init_args: {{seconds: 4, marks: {tmp_path}, tag: m{i}, busy: true}}\n"
        for i in range(8)
    )
    suite = write_suite(tmp_path, models=models)
    seconds = []
    for name, options in (("local", ()), ("ray", ("--runner", "ray", "--workers", 2))):
        start = time.monotonic()
        run = command(suite, "-o", tmp_path / name, "--threads", 1, "--no-report", *options)
        seconds.append(time.monotonic() - start)
        assert run.returncode == 0, run.stderr
    assert seconds[0] / seconds[1] >= 1.7
