import subprocess
import sys
import time

import pytest

from anoclip_anomalib import __version__
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
