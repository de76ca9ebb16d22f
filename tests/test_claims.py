import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest

from anoclip_anomalib import claims as module
from anoclip_anomalib.claims import Claims


def take(claims, name="can"):
    """Whether a piece of work could be claimed just now."""
    with claims.take(name) as got:
        return got


def hold(folder):
    """A process that holds the claim "can" and has said so."""
    code = (
        f"import time\nfrom anoclip_anomalib.claims import Claims\n"
        f"with Claims({str(folder)!r}, heartbeat=0.02).take('can') as got:\n    print(got, flush=True)\n    time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "True\n"
    return process


def test_one_owner_at_a_time(tmp_path):
    mine, other = Claims(tmp_path), Claims(tmp_path)
    with mine.take("can") as got:
        assert got
        assert not take(other)
        with other.take("vial") as another:
            assert another
            assert mine.held() == {"can", "vial"}
    assert take(other)
    assert not list(tmp_path.iterdir())


def test_given_back_after_an_error(tmp_path):
    claims = Claims(tmp_path)
    with pytest.raises(ZeroDivisionError), claims.take("can"):
        raise ZeroDivisionError
    assert take(claims)


def test_claim_of_a_killed_process_is_void_at_once(tmp_path):
    process = hold(tmp_path)
    assert not take(Claims(tmp_path))
    process.kill()
    process.wait()
    assert (tmp_path / "can.claim").exists()
    assert take(Claims(tmp_path))
    assert not list(tmp_path.iterdir())


def test_claim_of_a_zombie_is_void_after_silence(tmp_path):
    process = hold(tmp_path)
    process.kill()  # not waited for: its number stays taken
    claims = Claims(tmp_path, stale_after=0.3)
    deadline = time.monotonic() + 30
    while not take(claims):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.wait()


def record_of(folder):
    with Claims(folder).take("can"):
        return json.loads((folder / "can.claim").read_text())


@pytest.mark.parametrize("change", [{"start": "1"}, {"pid": 2**22 + 1}], ids=["number used again", "no such process"])
def test_an_owner_that_certainly_ended(tmp_path, change):
    record = record_of(tmp_path)
    (tmp_path / "can.claim").write_text(json.dumps(record | change))
    assert take(Claims(tmp_path))


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is told."""

    class Clock:
        now = 1000.0
        monotonic = staticmethod(lambda: Clock.now)

    monkeypatch.setattr(module, "time", Clock)
    return Clock


def owned_by(pid):
    return json.dumps({"id": "x", "place": module._place(), "pid": pid, "start": "1"}).encode()


@pytest.mark.parametrize(
    "content",
    [b"", b'{"id": "ab', b"[]", b"\0\0", b"\xff\xfe", b"[" * 100000, b'{"host": "elsewhere", "pid": 1}']
    + [owned_by(pid) for pid in ("abc", 10**30, -1, 0, None, 1e400, [1])],
    ids=lambda content: repr(content[:12] + content[-30:]),
)
def test_any_claim_is_kept_while_it_is_renewed_and_void_after_silence(tmp_path, clock, content):
    path = tmp_path / "can.claim"
    path.write_bytes(content)
    claims = Claims(tmp_path, stale_after=60)
    assert not take(claims)  # seen for the first time
    clock.now += 59
    assert not take(claims)
    assert not claims.is_alive("can")
    os.utime(path, (0, 0))
    clock.now += 2
    assert not take(claims)  # it was touched in between
    assert claims.is_alive("can")
    clock.now += 60
    assert not take(claims)
    clock.now += 0.1
    assert take(claims)
    assert not list(tmp_path.iterdir())


def test_the_clock_of_another_machine_does_not_matter(tmp_path, clock):
    path = tmp_path / "can.claim"
    path.write_bytes(b"")
    claims = Claims(tmp_path)
    for seconds in (-(10**9), 10**9, 0):  # each is a sign of life
        os.utime(path, (time.time() + seconds,) * 2)
        assert not take(claims)
        clock.now += 50
    assert not take(claims)
    clock.now += 11
    assert take(claims)


@pytest.mark.parametrize("place", [["other", "boot", "pid:[1]", "time:[1]"], [], None])
def test_a_process_number_of_another_place_says_nothing(tmp_path, place):
    record = record_of(tmp_path)
    (tmp_path / "can.claim").write_text(json.dumps(record | {"place": place, "pid": 2**22 + 1}))
    assert not take(Claims(tmp_path))


def test_a_sign_of_life_long_ago_is_none(tmp_path, clock):
    path = tmp_path / "can.claim"
    path.write_bytes(b"")
    claims = Claims(tmp_path)
    assert not take(claims)
    clock.now += 61
    os.utime(path, (0, 0))
    assert not take(claims)  # renewed since the last look, but nobody knows when
    assert not claims.is_alive("can")
    clock.now += 61
    assert take(claims)


def test_owner_keeps_its_claim_fresh_and_is_seen(tmp_path):
    other = Claims(tmp_path, stale_after=5)
    with Claims(tmp_path, heartbeat=0.02).take("can"):
        os.utime(tmp_path / "can.claim", (0, 0))
        deadline = time.monotonic() + 10
        while not other.is_alive("can"):
            assert not take(other)
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert (tmp_path / "can.claim").stat().st_mtime > 0


def test_who_stood_still_too_long_leaves_the_new_owner_alone(tmp_path):
    slow, quick = Claims(tmp_path, heartbeat=60), Claims(tmp_path, stale_after=0)
    stood_still = ExitStack()
    assert stood_still.enter_context(slow.take("can"))
    assert not take(quick)
    with quick.take("can") as got:
        assert got
        content = (tmp_path / "can.claim").read_bytes()
        stood_still.close()
        assert (tmp_path / "can.claim").read_bytes() == content
    assert not list(tmp_path.iterdir())


def test_who_moved_a_fresh_claim_away_puts_it_back(tmp_path, monkeypatch):
    path, move = tmp_path / "can.claim", os.replace
    path.write_bytes(b"old")
    claims = Claims(tmp_path, stale_after=0)
    assert not take(claims)

    def late(source, target):
        path.write_bytes(b"fresh")  # another process was faster
        move(source, target)

    monkeypatch.setattr(os, "replace", late)
    assert not take(claims)
    assert path.read_bytes() == b"fresh"
    assert [file.name for file in tmp_path.iterdir()] == ["can.claim"]


def test_nobody_renews_the_claim_of_somebody_else(tmp_path):
    path = tmp_path / "can.claim"
    with Claims(tmp_path, heartbeat=0.01).take("can"):
        path.write_bytes(b"of the new owner")
        os.utime(path, (0, 0))
        time.sleep(0.2)
        assert path.stat().st_mtime == 0
    assert path.read_bytes() == b"of the new owner"


def test_a_claim_that_is_no_file_is_never_taken(tmp_path, clock):
    (tmp_path / "can.claim").mkdir()
    claims = Claims(tmp_path)
    assert not take(claims)
    clock.now += 61
    assert not take(claims)


def test_where_there_are_no_links(tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with Claims(tmp_path).take("can") as got:
        assert got
        assert not take(Claims(tmp_path))
    assert not list(tmp_path.iterdir())


def test_kills_at_random_points_leave_nothing_that_stays(tmp_path):
    code = (
        "import sys; from anoclip_anomalib.claims import Claims\nclaims = Claims(sys.argv[1])\nprint(flush=True)\n"
        "while True:\n    with claims.take('can') as got:\n        pass"
    )
    draw = random.Random(0)
    for _ in range(12):
        processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) for _ in range(2)]
        for process in processes:
            process.stdout.readline()
        time.sleep(draw.random() / 20)
        for process in processes:
            process.send_signal(signal.SIGKILL)
        for process in processes:
            process.wait()
        content = (tmp_path / "can.claim").read_text() if (tmp_path / "can.claim").exists() else "{}"
        assert json.loads(content) == {} or {"id", "place", "pid", "start"} == set(json.loads(content))  # never half written
    assert take(Claims(tmp_path))
    assert not list(tmp_path.iterdir())


def _count(folder, queue):
    claims = Claims(folder)
    got = 0
    for number in range(50):
        with claims.take(str(number)) as mine:
            marker = folder / f"done-{number}"
            if mine and not marker.exists():
                marker.touch(exist_ok=False)  # fails if another process was here
                got += 1
    queue.put(got)


def test_many_processes_never_share_a_piece(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=_count, args=(tmp_path, queue)) for _ in range(3)]
    for process in processes:
        process.start()
    counts = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sum(counts) == len(list(tmp_path.glob("done-*"))) <= 50


def test_signs_of_life_are_forgotten_with_the_claim_that_gave_them(tmp_path):
    path, claims = tmp_path / "can.claim", Claims(tmp_path)
    for stamp in (1, 2):
        path.write_bytes(b"")
        os.utime(path, (stamp, stamp))
        assert not take(claims)
    assert claims.is_alive("can")
    path.unlink()
    assert take(claims)
    assert not claims.is_alive("can")
