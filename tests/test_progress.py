import io
import re

import pytest
from rich.console import Console

from anoclip_anomalib import progress as module
from anoclip_anomalib.progress import Progress, minutes, rate


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def lines_of(stream):
    return stream.getvalue().splitlines()


def test_a_log_gets_a_line_for_each_step_and_one_now_and_then(clock):
    stream = io.StringIO()
    with Progress(Console(file=stream, width=40), every=30) as progress:
        progress.start("can: predicting", 100)
        for _ in range(50):
            clock[0] += 1
            progress.advance()
    assert lines_of(stream) == ["can: predicting: 100", "can: predicting: 30 of 100, 1.0/s, about 1.2 min left"]


def test_a_step_that_took_long_to_begin_has_no_speed_yet(clock):
    stream = io.StringIO()
    with Progress(Console(file=stream, width=40), every=30) as progress:
        progress.start("predicting", 100)
        clock[0] += 60
        progress.advance(0)
    assert lines_of(stream) == ["predicting: 100"]


def test_within_jobs_a_line_names_the_job_and_steps_have_none_of_their_own(clock):
    stream = io.StringIO()
    progress = Progress(Console(file=stream, width=40), every=30)
    progress.overall("model | data", 0, 2)
    progress.start("testing", 8)
    progress.advance(2)
    clock[0] += 60
    progress.advance(2)
    assert lines_of(stream) == ["model | data, testing: 4 of 8, 15.0 s each, about 1.0 min left"]


def test_quiet_shows_what_is_said_alone(clock, capsys):
    stream = io.StringIO()
    progress = Progress(Console(file=stream, force_terminal=True), quiet=True, every=0)
    progress.start("x", 3)
    progress.advance()
    progress.say("done")
    assert stream.getvalue() == ""
    assert capsys.readouterr().out == "done\n"


def test_a_terminal_gets_bars_with_both_counts_and_markup_is_text():
    stream = io.StringIO()
    with Progress(Console(file=stream, force_terminal=True, width=120)) as progress:
        progress.overall("[red]job[/red]", 1, 3)
        progress.start("testing", 40)
        progress.advance(7)
        progress.advance(3)
        progress._bars.refresh()
        shown = stream.getvalue()
        assert "[red]job[/red]" in shown
        assert "1/3" in shown
        assert "10/40" in shown
        assert re.search(r"\d/s", shown)
        progress.start("one by one", 5)
        progress._bars.refresh()
        assert "0/5" in stream.getvalue()
    progress.advance()  # a step goes on after a line was said
    progress.close()


def test_a_speed_is_told_as_people_count():
    assert [rate(speed) for speed in (12.34, 1.0, 0.25)] == ["12.3/s", "1.0/s", "4.0 s each"]


def test_minutes():
    assert minutes(90) == "about 1.5 min left"
