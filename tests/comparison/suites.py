"""Small suites for tests: generated plates, models without weights."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from anoclip_anomalib.comparison.suite.load_suite import load_suite
from tests.evaluation.scorer import write_category

ROOT = Path(__file__).parents[2]

MODELS = """
  - name: bright
    class_path: tests.evaluation.scorer.Brightness
  - name: dim
    class_path: tests.evaluation.scorer.Brightness
    init_args: {gain: 0.1}
"""


def write_suite(folder: Path, models: str = MODELS, categories: tuple[str, ...] = ("plate",), extra: str = "") -> Path:
    """Write data and a suite file; returns the file."""
    for number, category in enumerate(categories):
        write_category(folder / "data", category, images=4, size=48, seed=number)
    path = folder / "suite.yaml"
    path.write_text(
        "name: plates\nmodels:"
        + models
        + textwrap.dedent(f"""
        data:
          - name: plates
            class_path: MVTecAD
            init_args:
              root: {folder / "data"}
              num_workers: 0
              eval_batch_size: 4
              val_split_mode: from_train
        protocol: {{timed_images: 2, warmup_images: 1, sample_images: 4}}
        """)
        + extra
    )
    return path


def small_suite(folder: Path, **options):
    """A loaded suite."""
    return load_suite(write_suite(folder, **options))


def command(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    """Run `anoclip compare ...` in a process of its own."""
    return subprocess.run(process_arguments(*arguments), env=process_env(**environment), capture_output=True, text=True)


def command_here(capsys, *arguments: object) -> subprocess.CompletedProcess:
    """The same in this process, where a new one would prove nothing more."""
    from anoclip_anomalib.cli.compare import main

    capsys.readouterr()
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as exit_:
        code = exit_.code
    output = capsys.readouterr()
    return subprocess.CompletedProcess(arguments, code, output.out, output.err)


def process_arguments(*arguments: object) -> list[str]:
    """Words of a process that runs `anoclip compare`."""
    code = "import sys; from anoclip_anomalib.cli.compare import main; sys.exit(main(sys.argv[1:]))"
    return [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]


def process_env(**environment: str) -> dict[str, str]:
    """Environment in which tests' models can be imported."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"} | environment
