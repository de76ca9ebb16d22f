"""``anoclip``: anomalib's command line with this package known, and our own commands.

Nothing heavy is imported before it is clear that it is needed: help should not take the seconds that torch does.
"""

import os
import sys
from importlib import import_module
from types import ModuleType

from anoclip_anomalib import __version__, registry
from anoclip_anomalib.checks import did_you_mean
from anoclip_anomalib.running.signals import run_command

OWN_COMMANDS = ("inspect", "demo", "prompts", "pool", "compare", "report", "submit", "convert")
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
        finished but for files that could not be read, 4 for a defect where ``--fail-on-defect`` asks for it, 130 after Ctrl-C,
        143 after SIGTERM, 141 when the reader of the output has gone.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        return run_command("anoclip", lambda: _quietly(argv), "files that were finished are kept", starting=True)
    except (MemoryError, RuntimeError) as error:
        from anoclip_anomalib.cli.parser import memory_advice

        advice = memory_advice(error)
        if not advice:
            raise
        print(f"anoclip {argv[0]}: stopped: {str(error).partition(chr(10))[0] or 'no memory'}{advice}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        try:
            print(flush=True)  # fails again if the pipe is the one that we print to
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
            return 141
        raise


def _quietly(argv: list[str]) -> int:
    from anoclip_anomalib.running.quiet import quiet

    try:
        with quiet(warnings_of="anomalib"):
            return _run(argv)
    finally:
        sys.stdout.flush()  # here, and not when Python ends


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return 0
    if argv[0] == "--version":
        print(f"anoclip_anomalib {__version__}")
        return 0
    command, words = argv[0], argv[1:]
    from anoclip_anomalib.cli import early_checks
    from anoclip_anomalib.cli.anomalib_help import FULL_HELP, help_text
    from anoclip_anomalib.cli.parser import refused

    # `train` is anomalib's command too, whose words all begin with a dash.
    ours = command in OWN_COMMANDS or (command == "train" and words and not words[0].startswith("-"))
    if not ours and command not in ANOMALIB_COMMANDS:
        hint = did_you_mean(command, [*OWN_COMMANDS, *ANOMALIB_COMMANDS])
        return refused(f"anoclip: error: there is no command {command}{hint}\n\n{_help()}")
    try:
        if ours:
            early_checks.check_own(argv)
            return _command(command).main(words)
        if {"-h", "--help"} & {*words}:
            print(help_text(command, ANOMALIB_COMMANDS[command], words))
            return 0
        early_checks.check_command(command, words)
    except early_checks.InputError as error:
        return refused(f"anoclip {command}: error: {error}")
    argv = ["--help" if word == FULL_HELP else word for word in argv]
    return import_module("anoclip_anomalib.cli.anomalib_cli").main(argv)


def _command(name: str) -> ModuleType:
    return import_module(f"anoclip_anomalib.cli.{name}")


def _help() -> str:
    homes = {name: name for name in OWN_COMMANDS} | {"train aaclip": "train", "train prompts": "train_prompts"}
    lines = [
        "anoclip: zero-shot anomaly detection with CLIP, in anomalib",
        "",
        "usage: anoclip COMMAND [options]        anoclip COMMAND --help tells a command's options",
        "",
        "Commands of this package:",
        *(f"  {name:<12} {_command(home).HELP}" for name, home in homes.items()),
        "",
        f"anomalib's commands, with --model {', '.join(registry.MODELS)} known by short names:",
        *(f"  {name:<12} {text}" for name, text in ANOMALIB_COMMANDS.items()),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
