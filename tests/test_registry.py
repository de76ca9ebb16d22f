"""Registration happens at import, so every case is a process of its own; they run side by side."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import anoclip_anomalib
from anoclip_anomalib.registry import MODELS, PUBLIC, load

CASES = {
    "light": """
import sys, anoclip_anomalib
assert not {"torch", "anomalib", "open_clip"} & set(sys.modules)
assert anoclip_anomalib.__version__ and "AnoClip" in dir(anoclip_anomalib)
try:
    anoclip_anomalib.Nothing
except AttributeError as error:
    assert "Nothing" in str(error)
else:
    raise SystemExit("no error")
""",
    "ours first": """
import anoclip_anomalib
import anomalib.models as models
from anomalib.models import get_model, list_models
A = anoclip_anomalib.AnoClip
settings = dict(backbone="demo", pretrained="random")
assert models.AnoClip is A
assert "ano_clip" in list_models()
for name in ("AnoClip", "ano_clip", "anoclip"):
    assert type(get_model(name, **settings)) is A
for path in ("AnoClip", "anoclip_anomalib.AnoClip", "anomalib.models.AnoClip"):
    assert type(get_model({"class_path": path, "init_args": settings})) is A
assert get_model({"class_path": "AnoClip", "init_args": {**settings, "views": 22}}).hparams.views == 22
assert models.Padim.__name__ == "Padim"
""",
    "anomalib first": """
from anomalib.models import get_model
import anoclip_anomalib
assert type(get_model("AnoClip", backbone="demo", pretrained="random")) is anoclip_anomalib.AnoClip
""",
    "the model's module first": """
from anoclip_anomalib.anoclip.lightning_model import AnoClip
import anomalib.models as models
assert models.AnoClip is AnoClip
assert "anoclip_anomalib" in models.ALLOWED_MODULES
""",
}


def test_one_table_names_everything():
    for name, entry in PUBLIC.items():
        assert getattr(anoclip_anomalib, name) is load(name)
        assert load(name).__module__ == f"anoclip_anomalib.{entry.module}"
    assert MODELS == ("AaClip", "AnoClip", "CentreDistance", "LocalContrast", "MutualClip", "PromptClip")
    tree = ast.parse(Path(anoclip_anomalib.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))  # what type checkers see
    assert {(node.module, alias.name) for node in block.body for alias in node.names} == {
        (f"anoclip_anomalib.{entry.module}", name) for name, entry in PUBLIC.items()
    }


@pytest.fixture(scope="module")
def processes() -> Iterator[dict[str, subprocess.Popen]]:
    started = {
        name: subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for name, code in CASES.items()
    }
    yield started
    for process in started.values():
        process.kill()


@pytest.mark.parametrize("case", CASES)
def test_registration(processes, case):
    _, errors = processes[case].communicate(timeout=300)
    assert processes[case].returncode == 0, errors
