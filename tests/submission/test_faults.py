from anoclip_anomalib.submission.faults import MAX_FAULTS, MAX_SHOWN, Report


def test_faults_beyond_the_limit_are_counted():
    report = Report("x")
    for number in range(MAX_FAULTS + 7):
        report.add("nan", f"file {number}", "?")
    report.add("link", "last", "?")
    report.add("old", "last", "?", is_error=False)
    assert len(report.faults) == MAX_FAULTS + 2
    *_, link, warning, more, verdict = report.lines()
    assert link == "error: last: ? [link]"
    assert warning == "warning: last: ? [old]"
    assert more == "... and 7 more [nan]"
    assert verdict == f"x: NOT valid, {MAX_FAULTS + 8} error(s), 1 warning(s); 0 files checked"


def test_long_names_are_cut():
    report = Report("x")
    report.add("nan", "y" * 10_000, "z" * 10_000)
    assert len(next(iter(report.lines()))) < 2 * MAX_SHOWN + 100
