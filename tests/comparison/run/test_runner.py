"""Resuming, sharing and failing, with real processes."""

import json
import os
import signal
import subprocess
import time
from contextlib import ExitStack
from dataclasses import replace

import pytest

from anoclip_anomalib.comparison.run.folder import ResultsFolder
from anoclip_anomalib.comparison.run.progress import ComparisonProgress
from anoclip_anomalib.comparison.run.row import failed_row
from anoclip_anomalib.comparison.run.runner import Here, run_jobs
from anoclip_anomalib.comparison.suite.load_suite import load_suite
from anoclip_anomalib.comparison.suite.suite import jobs_of
from tests.comparison.suites import command, command_here, process_arguments, process_env, small_suite, write_suite


def slow_suite(folder, count=3, seconds=0.5):
    (folder / "marks").mkdir(exist_ok=True)
    models = "\n" + "".join(
        f"  - name: m{i}\n    class_path: tests.comparison.slow_scorer.Slow\n"
        f"    init_args: {{seconds: {seconds}, marks: {folder / 'marks'}, tag: m{i}}}\n"
        for i in range(count)
    )
    return write_suite(folder, models=models)


def marks(folder, tag=""):
    return sorted(path.name for path in (folder / "marks").glob(f"{tag}*"))


def rows_in(folder):
    return sorted((folder / "out" / "rows").glob("*.json"))


def test_kill_9_in_the_middle_of_a_job_loses_that_job_only(tmp_path):
    suite = slow_suite(tmp_path)
    process = subprocess.Popen(process_arguments(suite, "-o", tmp_path / "out"), env=process_env(), stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not marks(tmp_path, "m1") and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)  # m0 is done, m1 at work, m2 to come
    process.wait()
    before = {path: path.read_bytes() for path in rows_in(tmp_path)}
    assert len(before) == 1
    run = command(suite, "-o", tmp_path / "out", "--no-report")
    assert run.returncode == 0, run.stderr
    assert "2 done, 0 failed, 1 were there already, 0 in the hands" in run.stdout
    assert len(rows_in(tmp_path)) == 3
    assert all(path.read_bytes() == content for path, content in before.items())
    assert [len(marks(tmp_path, f"m{i}")) for i in range(3)] == [1, 2, 1]
    assert not [path for path in (tmp_path / "out").rglob("*") if path.suffix == ".claim" or path.name.startswith(".")]


def test_sigterm_ends_the_run_and_frees_the_job(tmp_path):
    suite = slow_suite(tmp_path, count=2, seconds=3)
    process = subprocess.Popen(
        process_arguments(suite, "-o", tmp_path / "out"), env=process_env(), stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not marks(tmp_path, "m0") and time.monotonic() < deadline:
        time.sleep(0.02)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "the same command continues" in errors
    assert not rows_in(tmp_path)
    assert not marks(tmp_path, "m1")
    assert not list((tmp_path / "out" / "claims").glob("*.claim"))


def test_two_processes_share_one_folder(tmp_path):
    suite = slow_suite(tmp_path, count=4, seconds=0.8)
    arguments = process_arguments(suite, "-o", tmp_path / "out", "--no-report")
    processes = [
        subprocess.Popen(arguments, env=process_env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert len(rows_in(tmp_path)) == 4
    assert [len(marks(tmp_path, f"m{i}")) for i in range(4)] == [1, 1, 1, 1]  # no job was done twice
    workers = {name.split("-")[1] for name in marks(tmp_path)}
    assert len(workers) == 2
    rows, faults = ResultsFolder(tmp_path / "out").rows()
    assert len(rows) == 4
    assert not faults


def test_a_job_in_other_hands_is_asked_for_once_more_at_the_end(tmp_path):
    jobs = jobs_of(small_suite(tmp_path, categories=("one", "two", "three")))
    folder, other = ResultsFolder(tmp_path / "out"), ResultsFolder(tmp_path / "out")
    other.claims.heartbeat = folder.claims.heartbeat = 0.1
    kept, lost = ExitStack(), ExitStack()
    kept.enter_context(other.claims.take(jobs[0].id))
    lost.enter_context(other.claims.take(jobs[1].id))
    ran = []

    def run(job, threads):
        ran.append(job)
        lost.close()  # the other process gives up one of its two jobs meanwhile
        return failed_row(job, ValueError("no matter")), None

    progress = Totals(len(jobs))
    outcome = run_jobs(folder, jobs, Here(run=run), progress)
    assert ran == [*jobs[2:], jobs[1]]
    assert outcome.elsewhere == [jobs[0]]
    assert progress.totals[0] == len(jobs) - 2  # what others work on is not counted as ours
    assert progress.totals[-1] == len(jobs) - 1
    kept.close()


class Totals(ComparisonProgress):
    """Remembers what it was told to expect."""

    def __init__(self, total):
        super().__init__(total)
        self.totals = []

    def expect(self, total):
        super().expect(total)
        self.totals.append(total)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"pid": "abc"}', b'{"host": "other", "pid": 1}'])
def test_the_last_round_waits_until_a_claim_can_be_judged(tmp_path, content):
    jobs = jobs_of(small_suite(tmp_path))
    folder = ResultsFolder(tmp_path / "out")
    folder.claims.stale_after, folder.claims.heartbeat = 0.5, 0.1
    folder.claims.folder.mkdir(parents=True)
    (folder.claims.folder / f"{jobs[0].id}.claim").write_bytes(content)
    run = lambda job, *args: (failed_row(job, ValueError("no matter")), None)  # noqa: E731
    start = time.monotonic()
    outcome = run_jobs(folder, jobs, Here(run=run), ComparisonProgress(len(jobs)))
    assert outcome.failed == [jobs[1], jobs[0]]
    assert time.monotonic() - start >= 0.5
    assert not list(folder.claims.folder.iterdir())


def test_what_cannot_be_judged_is_left_alone_in_the_end(tmp_path):
    jobs = jobs_of(small_suite(tmp_path))[:1]
    folder = ResultsFolder(tmp_path / "out")
    folder.claims.stale_after, folder.claims.heartbeat = 0.1, 0.1
    (folder.claims.folder / f"{jobs[0].id}.claim").mkdir(parents=True)
    assert run_jobs(folder, jobs, Here(), ComparisonProgress(1)).elsewhere == jobs


def test_jobs_elsewhere_are_no_success(tmp_path, capsys, monkeypatch):
    suite = write_suite(tmp_path)
    folder = ResultsFolder(tmp_path / "out")
    folder.open_for(load_suite(suite))
    folder.claims.heartbeat = 0.1
    with folder.claims.take(jobs_of(load_suite(suite))[0].id):
        run = command_here(capsys, suite, "-o", tmp_path / "out", "--no-report")
    assert run.returncode == 3
    assert "1 done, 0 failed, 0 were there already, 1 in the hands of another process" in run.stdout
    assert "the table is not complete" in run.stderr


def test_a_failed_job_is_a_row_the_rest_goes_on_and_the_exit_code_tells(tmp_path, capsys):
    models = """
  - {name: broken, class_path: tests.evaluation.scorer.Brightness, init_args: {fault: raise}}
  - {name: bright, class_path: tests.evaluation.scorer.Brightness}
"""
    suite = write_suite(tmp_path, models=models)
    run = command_here(capsys, suite, "-o", tmp_path / "out", "--no-report")
    assert run.returncode == 1
    assert "failed: broken | plates / plate | seed 0: broken on purpose" in run.stdout
    assert [json.loads(path.read_text())["status"] for path in rows_in(tmp_path)].count("done") == 1
    kept = command_here(capsys, suite, "-o", tmp_path / "out", "--no-report", "--keep-failed")
    assert kept.returncode == 1
    assert "0 done, 0 failed, 2 were there already" in kept.stdout
    again = command_here(capsys, suite, "-o", tmp_path / "out", "--no-report", "--only", "broken")
    assert "0 done, 1 failed, 0 were there already" in again.stdout
    only = command_here(capsys, suite, "-o", tmp_path / "out", "--no-report", "--only", "bright")
    assert only.returncode == 0


def test_a_damaged_row_is_named_and_done_again(tmp_path, capsys):
    suite = write_suite(tmp_path)
    assert command_here(capsys, suite, "-o", tmp_path / "out", "--no-report").returncode == 0
    path = rows_in(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:100])
    run = command_here(capsys, suite, "-o", tmp_path / "out", "--no-report")
    assert run.returncode == 0
    assert path.name in run.stderr
    assert "1 done, 0 failed, 1 were there already" in run.stdout
    json.loads(path.read_text())


def test_dry_run_shards_and_bad_input(tmp_path, capsys):
    suite = write_suite(tmp_path)
    run = command_here(capsys, suite, "-o", tmp_path / "out", "--dry-run", "--shard", "2/2")
    assert run.returncode == 0
    assert "1 jobs, 1 to do" in run.stdout
    assert "dim" in run.stdout
    assert not (tmp_path / "out").exists()
    assert command_here(capsys, suite, "--only", "nothing").returncode == 2
    assert command_here(capsys, suite, "--shard", "3/2").returncode == 2
    assert command_here(capsys, suite, "--root", "plates").returncode == 2
    bad = command_here(capsys, tmp_path / "none.yaml")
    assert bad.returncode == 2
    assert "there is no file" in bad.stderr
    text = suite.read_text()
    for changed, said in (
        (text.replace("class_path: MVTecAD", "class_path: MVTecADD"), "did you mean MVTecAD?"),  # before torch is imported
        (text.replace("gain:", "gian:").replace("models:", "modles: 1\nmodels:"), "2 fault(s)"),
    ):
        suite.write_text(changed)
        bad = command_here(capsys, suite)
        assert bad.returncode == 2
        assert said in bad.stderr


def test_a_models_own_number_of_threads_goes_before_that_of_the_run(tmp_path):
    job = jobs_of(small_suite(tmp_path))[0]
    for cpus, threads, expected in ((2, 3, 2), (None, 3, 3), (0, 3, 3), (2, None, 2), (None, None, None)):
        here = Here(threads, run=lambda job, threads: ({"threads": threads}, None))
        here.submit(replace(job, model=replace(job.model, cpus=cpus)))
        assert here.wait()[1][0] == {"threads": expected}
