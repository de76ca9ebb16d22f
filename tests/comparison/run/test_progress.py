import io

from rich.console import Console

from anoclip_anomalib.comparison.run.progress import ComparisonProgress
from anoclip_anomalib.comparison.run.row import failed_row
from anoclip_anomalib.comparison.suite.suite import jobs_of
from tests.comparison.suites import small_suite


def test_lines_for_logs_with_figures_errors_and_time_left(tmp_path):
    jobs = jobs_of(small_suite(tmp_path))
    stream = io.StringIO()
    with ComparisonProgress(2, Console(file=stream, width=60)) as progress:
        progress.start(jobs[0])
        progress.done(jobs[0], {"status": "done", "metrics": {"image_AUROC": 0.5, "AUPRO": None}, "duration_s": 1})
        progress.done(jobs[1], failed_row(jobs[1], ValueError("broken [red]badly\nmore")))
        progress.note("a remark")
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("[1/2] bright | plates / plate | seed 0: image_AUROC 50.00, pixel_AUROC n/a, AUPRO n/a")
    assert "min left" in lines[0]
    assert "FAILED, ValueError: broken [red]badly" in lines[1]
    assert lines[2] == "a remark"


def test_jobs_that_other_processes_do_are_neither_counted_nor_waited_for(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    job = jobs_of(small_suite(tmp_path))[0]
    stream = io.StringIO()
    with ComparisonProgress(10, Console(file=stream, width=60)) as progress:
        progress.expect(4)  # six are in other hands
        progress.start(job)
        now[0] += 60
        progress.done(job, {"status": "done", "metrics": {}, "duration_s": 60})
    assert stream.getvalue().startswith("[1/4] ")
    assert "about 3.0 min left" in stream.getvalue()
