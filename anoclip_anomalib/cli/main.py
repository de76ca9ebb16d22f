"""``anoclip``: anomalib's command line with this package known, and our own commands.

Nothing heavy is imported before it is clear that it is needed: help should not take the seconds that torch does.
"""

import os
import sys
from importlib import import_module
from types import ModuleType

from anoclip_anomalib import __version__, registry

OWN_COMMANDS = ("demo", "prompts", "pool", "compare", "report", "submit", "convert")
ANOMALIB_COMMANDS = {
    "test": "Measure a model on a data set.",
    "predict": "Score images, with or without labels.",
    "validate": "Derive thresholds and normalisation from validation data.",
    "export": "Write a model as torch, ONNX or OpenVINO.",
    "train": "Train (where a model needs it), then test.",
    "fit": "Train only.",
    "benchmark": "anomalib's own benchmark pipeline.",
    "install": "Install anomalib's optional dependencies.",
}


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The words after ``anoclip``; ``None`` for those of this process.

    Returns:
        The exit code: 0 for success, 1 for work that failed, 2 for input that cannot be used, 3 for a prediction that is
        finished but for files that could not be read, 130 after Ctrl-C, 141 when the reader of the output has gone.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()  # here, and not when Python ends
    except (KeyboardInterrupt, SystemExit) as stop:
        # Lightning turns Ctrl-C into an exit of its own.
        if isinstance(stop, SystemExit) and not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        print("anoclip: stopped by Ctrl-C", file=sys.stderr)
        return 130
    except BrokenPipeError:
        try:
            print(flush=True)  # fails again if the pipe is the one that we print to
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
            return 141
        raise


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return 0
    if argv[0] == "--version":
        print(f"anoclip_anomalib {__version__}")
        return 0
    # `train` is anomalib's command too, whose words all begin with a dash.
    if argv[0] in OWN_COMMANDS or (argv[0] == "train" and argv[1:] and not argv[1].startswith("-")):
        return _command(argv[0]).main(argv[1:])
    return import_module("anoclip_anomalib.cli.anomalib_cli").main(argv)


def _command(name: str) -> ModuleType:
    return import_module(f"anoclip_anomalib.cli.{name}")


def _help() -> str:
    def table(commands: dict[str, str]) -> list[str]:
        return [f"  {name:<12} {text}" for name, text in commands.items()]

    return "\n".join(
        [
            "anoclip: zero-shot anomaly detection with CLIP, in anomalib",
            "",
            "usage: anoclip COMMAND [options]        anoclip COMMAND --help tells a command's options",
            "",
            "Commands of this package:",
            *table(
                {name: _command(name).HELP for name in OWN_COMMANDS}
                | {"train aaclip": _command("train").HELP, "train prompts": _command("train_prompts").HELP}
            ),
            "",
            f"anomalib's commands, with --model {', '.join(registry.MODELS)} known by short names:",
            *table(ANOMALIB_COMMANDS),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
