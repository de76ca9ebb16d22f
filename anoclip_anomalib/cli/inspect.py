"""``anoclip inspect``: photographs in, a ranked folder of results out."""

import argparse
import logging
import os
import shlex
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from anoclip_anomalib import registry
from anoclip_anomalib.cli.early_checks import check_argument
from anoclip_anomalib.cli.known_names import known
from anoclip_anomalib.cli.parser import Parser, memory_advice, refused
from anoclip_anomalib.files import printable
from anoclip_anomalib.running.signals import Terminated, run_command

logger = logging.getLogger(__name__)

HELP = "Inspect photographs: ranked, with pictures and a page; with good ones as a reference, verdicts."
ROOT = Path("results") / "inspect"
DEVICES = ("auto", "cpu", "cuda", "mps", "xpu", "hpu", "npu", "mtia", "xla")  # torch's and its plugins', on which models run
UNREAD, DEFECTS = 3, 4  # exit codes


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = Parser(
        prog="anoclip inspect",
        usage="anoclip inspect PHOTO [PHOTO ...] [options]",
        description=HELP + " Works offline with the bundled encoder, which is no inspector of real parts: give --backbone and "
        "--weights for those.",
        epilog="A new folder results/inspect/NNN gets results.csv (a line for every file), run.json, pictures/ and index.html. "
        "Exit code: 0 done, 1 results could not be written, 2 input that cannot be used, 3 done but for photographs that could "
        "not be read, 4 with --fail-on-defect: at least one defect, 130 after Ctrl-C and 143 after SIGTERM (--resume goes on).",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("photos", nargs="*", metavar="PHOTO", help="photographs, and folders of them (subfolders included)")
    add = parser.add_argument_group("the product").add_argument
    add("--product", metavar="NAME", help="what is to be seen, such as cookie or 'metal nut'; the sentences are about it")
    add("--good", metavar="FOLDER", help="photographs of good parts: they give verdicts, and a reference to compare with")
    add = parser.add_argument_group("verdicts").add_argument
    add(
        "--threshold", metavar="auto|natural|VALUE",
        help="auto: from the good ones, without any there is no verdict; natural: where the model is undecided, which "
        "promises nothing; a number: scores above it are defects (default: auto)",
    )  # fmt: skip
    add("--false-alarms", type=_share, metavar="SHARE", help="of good parts that may be called defects (default: 0.1)")
    add("--fail-on-defect", action="store_true", help="exit code 4 if a defect was found")
    add = parser.add_argument_group("the model").add_argument
    usual = "AnoClip; AaClip with --adapters, and with its bundled ones where no encoder, settings or good ones are given"
    add("--model", metavar="NAME", help=f"{', '.join(registry.MODELS)} (default: {usual})")
    add("--backbone", metavar="NAME", help="open_clip architecture, such as ViT-L-14-336, or demo (default: demo)")
    add("--weights", metavar="TAG|FILE", help="of the backbone (.safetensors, .pt, .bin), or a file of `anoclip train`")
    add("--adapters", metavar="FILE", help="learned weights, for models that have them")
    add("--image-size", type=_count, metavar="PIXELS", help="side that photographs are resized to (default: the encoder's)")
    add("--adapt", action="store_true", help="test-time adaptation to each photograph")
    setting = "further argument of the model, such as tiling=square"
    add("--set", type=_setting, action="append", metavar="KEY=VALUE", help=setting)
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps (default: a GPU if there is one)")
    batch = "photographs that go through the encoder at once (default: 1 on the CPU, 16 on a GPU)"
    add("--batch-size", type=_count, metavar="N", help=batch)
    add = parser.add_argument_group("results").add_argument
    add("-o", "--out", metavar="FOLDER", help=f"where the numbered folders go (default: {ROOT})")
    add("--no-pictures", dest="pictures", action="store_false", help="scores only; the page then shows no photographs")
    resumed = "go on with an interrupted run: its folder, or nothing for the newest in --out; its settings are kept"
    add("--resume", nargs="?", const="", metavar="FOLDER", help=resumed)
    add("--json", action="store_true", help="one JSON document on standard output: run, and results by rank")
    add("--quiet", action="store_true", help="no progress, no summary; warnings and errors only")
    add("--log-file", metavar="FILE", help="write what is said to a file too, with times")
    add = parser.add_argument_group("many machines").add_argument
    add("--runner", choices=("local", "ray"), help="here, or with Ray Data on one machine or a cluster (default: local)")
    add("--address", help="ray: of an existing cluster, auto or host:port (default: start one here)")
    workers = "ray: models that score at the same time (default: one a GPU, else one a CPU)"
    add("--workers", type=_count, metavar="N", help=workers)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number from 1 on")
    return int(text)


def _share(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) < 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text} is no share between 0 and 1, such as 0.05")


def _setting(text: str) -> tuple[str, Any]:
    import yaml

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"a setting is written KEY=VALUE, not {text}")
    try:
        return key.strip().replace("-", "_"), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"{text}: the value is no YAML") from error


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code."""
    given = vars(build_parser().parse_args(argv))
    if "set" in given:
        given["set"] = dict(given["set"])
    return run_command("anoclip inspect", lambda: _main(given, argv), "what is done is kept")


def _main(given: dict[str, Any], argv: list[str]) -> int:
    from anoclip_anomalib.inspection.photos import GOOD
    from anoclip_anomalib.inspection.run_folder import RunFolder
    from anoclip_anomalib.inspection.settings import photos_of, settings_of

    root = Path(given.get("out", ROOT))
    try:
        _check(given, root)
        folder, content = None, {}
        if "resume" in given:
            folder = RunFolder(given["resume"]) if given["resume"] else RunFolder.unfinished(root)
            content = folder.read()
            folder.check_open(content)
        settings = settings_of(given, content.get("settings"))
        for key, value in settings["set"].items():
            check_argument("model", known("model")[settings["model"]], key, value)
        photos, total = photos_of(settings)
        _log(given)
    except (ValueError, OSError) as error:
        return _refused(error)
    for reason, count in photos.left_out.items():
        where = f" ({printable(settings['good'])})" if reason == GOOD else ""
        logger.info("Left out: %d %s%s", count, reason, where)
    content |= {"settings": settings, "left_out": dict(photos.left_out)}
    content.setdefault("command", shlex.join(["anoclip", "inspect", *argv]))
    return _run(given, folder, content, photos, total)


def _check(given: dict[str, Any], root: Path) -> None:
    """What can be said before anything is made or loaded."""
    place = root.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        reason = f"{printable(place)} is no folder in which this user may write"
        raise ValueError(f"--out {printable(root)} cannot be written: {reason}")
    device = given.get("device", "auto").partition(":")[0]
    if device not in DEVICES:
        raise ValueError(f"--device {given['device']}: there is no such kind of device; {', '.join(DEVICES)} are, as in cuda:1")
    if given.get("runner") == "ray":
        missing = [name for name in ("ray", "pyarrow") if find_spec(name) is None]
        if missing:
            raise ValueError(f"--runner ray needs {' and '.join(missing)}: pip install 'anoclip_anomalib[ray]'")
    elif "address" in given or "workers" in given:
        raise ValueError("--address and --workers belong to --runner ray")


def _log(given: dict[str, Any]) -> None:
    from anoclip_anomalib.running.quiet import log_to_stderr

    log_to_stderr()
    root = logging.getLogger()
    if given.get("quiet"):
        root.handlers[0].setLevel(logging.WARNING)
    if "log_file" in given:
        handler = logging.FileHandler(given["log_file"], encoding="utf-8", errors="backslashreplace")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        handler.addFilter(root.handlers[0].filters[0])
        root.addHandler(handler)


def _run(given: dict[str, Any], folder: Any, content: dict[str, Any], photos: Any, total: int) -> int:
    from anoclip_anomalib.inspection.run_folder import RunFolder, RunFolderError
    from anoclip_anomalib.inspection.settings import inspector_of

    try:
        inspector = inspector_of(content["settings"])
    except (ValueError, OSError, RuntimeError, ImportError, TypeError) as error:
        return _refused(error)
    from anoclip_anomalib.inspection.run import FolderRun
    from anoclip_anomalib.progress import Progress

    try:
        folder = folder or RunFolder.create(given.get("out", ROOT))
        with Progress(quiet=bool(given.get("quiet"))) as progress:
            execute = None
            if given.get("runner") == "ray":
                from anoclip_anomalib.inspection.ray_data import OnRayData

                execute = OnRayData(content, folder.path, given.get("address"), given.get("workers"))
            FolderRun(inspector, photos, total, folder, content, progress, execute)()
            if execute is not None:
                execute.write_parquet()
    except RunFolderError as error:
        return _refused(error)
    except (KeyboardInterrupt, Terminated):
        _tell(given, folder, content, total)
        raise
    except (OSError, RuntimeError, MemoryError) as error:
        logger.debug("The error in full", exc_info=True)
        print(f"anoclip inspect: stopped: {_words(error)}", file=sys.stderr)
        _tell(given, folder, content, total)
        return 1
    finally:
        if folder is not None:
            folder.discard()
    _tell(given, folder, content, total)
    counts = content["counts"]
    return DEFECTS if given.get("fail_on_defect") and counts["defect"] else UNREAD if counts["unreadable"] else 0


def _tell(given: dict[str, Any], folder: Any, content: dict[str, Any], total: int) -> None:
    """Say what has come of it, and how to go on with what is left."""
    from anoclip_anomalib.cli.inspect_summary import print_json, print_summary

    if folder is None or "counts" not in content:
        return
    if given.get("json"):
        print_json(folder, content)
    elif not given.get("quiet"):
        print_summary(folder, content)
    if "log_file" in given:
        logger.info("%s; results in %s", ", ".join(f"{count} {what}" for what, count in content["counts"].items()), folder.path)
    left = content["counts"]["left"]
    if not content["complete"]:
        command = shlex.join(["anoclip", "inspect", "--resume", str(folder.path)])
        print(f"{total - left} of {total} photographs are done, {left} are left; go on with: {command}", file=sys.stderr)


def _refused(error: Exception) -> int:
    logger.debug("The error in full", exc_info=True)
    return refused(f"anoclip inspect: error: {_words(error)}")


def _words(error: Exception) -> str:
    return (printable(str(error)) or type(error).__name__) + memory_advice(error)
