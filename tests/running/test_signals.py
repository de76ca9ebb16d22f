# ruff: noqa: PT012 (what happens within the block is the test)
"""One answer to Ctrl-C and SIGTERM, whatever Lightning, a data loader or a destructor makes of them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anoclip_anomalib.running.signals import INTERRUPTED, TERMINATED, Terminated, interruptible, run_command

ROOT = Path(__file__).parents[2]


def send(number):
    os.kill(os.getpid(), number)
    time.sleep(1)  # the signal comes before this ends
    return 0


def test_codes_are_the_shells():
    assert (INTERRUPTED, TERMINATED) == (130, 143)


@pytest.mark.parametrize(("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "SIGTERM")])
def test_a_command_answers_in_one_line_and_gives_the_handlers_back(number, code, word, capsys):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert run_command("anoclip x", lambda: send(number)) == code
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    error = capsys.readouterr().err
    assert error.startswith("anoclip x: ")
    assert word in error
    assert len(error.splitlines()) == 1


def test_a_command_that_ends_keeps_its_code():
    assert run_command("x", lambda: 7) == 7


def test_an_error_that_a_signal_led_to_is_the_interruption():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), interruptible():
        try:
            send(signal.SIGINT)
        except KeyboardInterrupt:
            raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Interrupt.") from None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_a_destructor_swallows_is_not_lost():
    class Swallows:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)

    with pytest.raises(Terminated), interruptible():
        thing = Swallows()
        del thing


def test_lightnings_exit_is_the_interruption_it_came_from_and_others_stay():
    with pytest.raises(KeyboardInterrupt), interruptible():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)
    with pytest.raises(SystemExit) as stop, interruptible():
        sys.exit(3)
    assert stop.value.code == 3
    with pytest.raises(ValueError), interruptible():
        raise ValueError("no signal came")


def test_nested_blocks_and_what_is_ignored_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible(), interruptible():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_block_within_a_block_gives_the_outer_one_its_handler_back():
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def nested():
        with interruptible():
            pass
        return send(signal.SIGINT)

    assert run_command("x", nested) == 130


WORKERS = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background
from pathlib import Path
import torch
from torch.utils.data import DataLoader, Dataset
from anoclip_anomalib.running.signals import run_command

class Slow(Dataset):
    def __len__(self):
        return 1000
    def __getitem__(self, index):
        Path(sys.argv[1]).touch()
        time.sleep(0.05)
        return index

def work():
    for _ in DataLoader(Slow(), num_workers=2):
        pass
    return 0

sys.exit(run_command("anoclip submit mvtec-ad2", work))
"""


def test_ctrl_c_on_a_terminal_reaches_the_workers_too(tmp_path):
    mark = tmp_path / "begun"
    process = subprocess.Popen(
        [sys.executable, "-c", WORKERS, str(mark)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 240
    while not mark.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole group
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert errors.splitlines() == ["anoclip submit mvtec-ad2: interrupted; the same command continues where it stopped"]


FORKED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from anoclip_anomalib.running.signals import interruptible

with interruptible():
    if os.fork() == 0:
        if "ctrl-c" in sys.argv:
            os.kill(os.getpid(), signal.SIGINT)
        sys.excepthook(EOFError, EOFError("the parent has gone"), None)  # as Python's thread that hands tensors over
        os._exit(0)
    os.wait()
sys.excepthook(ValueError, ValueError("the parent's own"), None)
"""


@pytest.mark.parametrize("arguments", [["ctrl-c"], []])
def test_after_ctrl_c_the_threads_of_workers_are_silent(arguments):
    run = subprocess.run(
        [sys.executable, "-c", FORKED, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    assert ("the parent has gone" in run.stderr) is not bool(arguments)
    assert "the parent's own" in run.stderr


TERMINATED_CHILD = """
import os, signal, time
from anoclip_anomalib.running.signals import interruptible

with interruptible():
    child = os.fork()
    if child == 0:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        finally:
            print("the child cleans up what is its parent's", flush=True)
            os._exit(0)
    _, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status))
"""


def test_a_process_forked_from_a_run_dies_of_sigterm_without_a_word():
    run = subprocess.run(
        [sys.executable, "-c", TERMINATED_CHILD],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (run.stdout, run.stderr) == (f"{-signal.SIGTERM}\n", "")
