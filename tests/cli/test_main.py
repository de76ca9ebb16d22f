import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from anoclip_anomalib import __version__
from anoclip_anomalib.cli import main as cli
from anoclip_anomalib.cli.main import ANOMALIB_COMMANDS, OWN_COMMANDS, main


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"]])
def test_help_names_every_command(words, capsys):
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in (*OWN_COMMANDS, *ANOMALIB_COMMANDS))


def test_every_own_command_is_there():
    from importlib import import_module

    for name in OWN_COMMANDS:
        assert callable(import_module(f"anoclip_anomalib.cli.{name}").main)


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip().endswith(__version__)


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["prompts", "--help"], ["prompts", "cookie"]])
def test_what_needs_no_torch_is_quick(words):
    code = (
        f"import sys; from anoclip_anomalib.cli.main import main\ntry: main({words!r})\nfinally: print('torch' in sys.modules)"
    )
    start = time.process_time()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "False"
    assert time.process_time() - start < 5


@pytest.mark.parametrize("words", [["prompts", "cookie"], ["--help"], ["submit", "--help"]])
@pytest.mark.parametrize("buffered", ["", "1"])
def test_a_reader_that_has_gone_is_no_error(words, buffered):
    """As in ``anoclip prompts cookie | head -2``."""
    command = [sys.executable, "-m", "anoclip_anomalib.cli.main", *words]
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONUNBUFFERED": buffered}
    result = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(writing)
    assert (result.returncode, result.stderr) == (141, "")


def test_another_broken_pipe_stays_an_error(monkeypatch):
    def broken(argv):
        raise BrokenPipeError

    monkeypatch.setattr(cli, "_run", broken)
    with pytest.raises(BrokenPipeError):
        main(["prompts"])


def test_ctrl_c_while_starting_ends_without_a_traceback():
    command = [sys.executable, "-X", "importtime", "-m", "anoclip_anomalib.cli.main", "test", "--model", "AnoClip"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:  # one for each module that has been imported
        lines.append(line)
        if "| " in line and line.split("|")[-1].strip().startswith("torch."):
            process.send_signal(signal.SIGINT)
            break
    lines += process.stderr.readlines()
    assert process.wait(60) == 130
    assert [line for line in lines if not line.startswith("import time:")] == ["anoclip: interrupted; nothing was begun\n"]


@pytest.mark.parametrize("after", [KeyboardInterrupt, lambda: SystemExit(1)])
def test_ctrl_c_is_130_also_after_lightning_made_an_exit_of_it(monkeypatch, capsys, after):
    def stopped(argv):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise after()  # noqa: B904

    monkeypatch.setattr(cli, "_command", lambda name: SimpleNamespace(main=stopped))
    assert main(["compare"]) == 130
    assert capsys.readouterr().err == "anoclip: interrupted; files that were finished are kept\n"


def test_other_exits_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(cli, "_command", lambda name: SimpleNamespace(main=lambda argv: sys.exit(5)))
    with pytest.raises(SystemExit) as stop:
        main(["compare"])
    assert stop.value.code == 5


ALLOCATORS = {
    "torch": lambda: torch.empty(1 << 60, dtype=torch.uint8),
    "numpy": lambda: np.ones(1 << 60, dtype=np.uint8),
}


@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_memory_that_is_not_there_is_said_in_a_line(monkeypatch, capsys, allocator):
    monkeypatch.setattr(cli, "_run", lambda argv: ALLOCATORS[allocator]())
    assert main(["test"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("anoclip test: stopped: ")
    assert said.endswith("; smaller batches or smaller images take less\n")
    assert said.count("\n") == 1


def test_another_error_of_torch_stays_one(monkeypatch):
    monkeypatch.setattr(cli, "_run", lambda argv: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        main(["test"])
