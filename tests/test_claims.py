import multiprocessing
import os
import socket
import time

import pytest

from anoclip_anomalib.claims import Claims


def test_one_owner_at_a_time(tmp_path):
    mine, other = Claims(tmp_path), Claims(tmp_path)
    with mine.take("can") as got:
        assert got
        with other.take("can") as too:
            assert not too
        with other.take("vial") as another:
            assert another
    with other.take("can") as got:
        assert got
    assert not list(tmp_path.iterdir())


def test_given_back_after_an_error(tmp_path):
    claims = Claims(tmp_path)
    with pytest.raises(ZeroDivisionError), claims.take("can"):
        raise ZeroDivisionError
    with claims.take("can") as got:
        assert got


def test_claim_of_a_dead_process_is_void(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=os.getpid)
    process.start()
    process.join()
    (tmp_path / "can.claim").write_text(f'{{"host": "{socket.gethostname()}", "pid": {process.pid}}}')
    with Claims(tmp_path).take("can") as got:
        assert got


def test_claim_of_another_machine_is_void_after_silence(tmp_path):
    (tmp_path / "can.claim").write_text('{"host": "elsewhere", "pid": 1}')
    claims = Claims(tmp_path, stale_after=0.2)
    with claims.take("can") as got:
        assert not got  # seen for the first time
    os.utime(tmp_path / "can.claim")
    time.sleep(0.25)
    with claims.take("can") as got:
        assert not got  # it was touched in between
    time.sleep(0.25)
    with claims.take("can") as got:
        assert got


def test_owner_keeps_its_claim_fresh(tmp_path):
    with Claims(tmp_path, heartbeat=0.02).take("can"):
        os.utime(tmp_path / "can.claim", (0, 0))
        deadline = time.monotonic() + 10
        while (tmp_path / "can.claim").stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)


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
