"""Help of anomalib's commands that fits on a few screens: what the model and the data take, and where the rest is."""

import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence

from anoclip_anomalib.cli.early_checks import own_options
from anoclip_anomalib.cli.known_names import Kind, Known, known, listed

FULL_HELP = "--help-all"
_MODEL, _DATA = "AnoClip", "MVTecAD"
# What most runs need, in our words; the other options are in the full help.
_RUN = {
    "config": ("FILE", "YAML with any of these options, such as a config.yaml that an earlier run has left"),
    "default_root_dir": ("FOLDER", "where results go (default: results)"),
    "seed_everything": ("N", "seed of everything random (default: 0); false for none"),
    "trainer.accelerator": ("NAME", "cpu, gpu, mps or auto (default: auto)"),
    "trainer.devices": ("N", "how many of them (default: auto)"),
    "trainer.precision": ("NAME", "32-true, 16-mixed, bf16-mixed, ... (default: 32-true)"),
    "trainer.callbacks": ("NAME", "such as TestTimeAdaptation; each further one with --trainer.callbacks+ NAME"),
    "ckpt_path": ("FILE", "checkpoint of a model that was trained; zero-shot models need none"),
    "export_type": ("NAME", "torch, onnx or openvino"),
    "export_root": ("FOLDER", "where the export goes"),
    "input_size": ("H,W", "size of the exported model's input, such as [256,256]"),
}
_EXIT = {
    "predict": "Exit code: 0 done, 2 bad input, 3 some files could not be read (they are in predictions.csv with their fault), "
    "130 or 143 interrupted.",
    "": "Exit code: 0 done, 2 bad input, 130 or 143 interrupted.",
}
_PLAIN = {
    "benchmark": ["usage: anoclip benchmark --config FILE", "", "  --config FILE   YAML: accelerator, model, data"],
    "install": ["usage: anoclip install [--option NAME]", "", "  --option NAME   full, core, dev, loggers, ..."],
}


def help_text(command: str, summary: str, words: Sequence[str]) -> str:
    """The help of a command.

    Args:
        command: ``test``, ``predict``, ...
        summary: What it does.
        words: The words after it: ``--model`` and ``--data`` choose whose options are shown.
    """
    full = f"anomalib's full help, with every option of the trainer: anoclip {command} {FULL_HELP} (takes seconds)"
    if command in _PLAIN:
        return "\n".join([*_PLAIN[command][:1], "", summary, *_PLAIN[command][1:], "", full])
    folder = " FOLDER" if command == "predict" else " NAME"
    lines = [f"usage: anoclip {command} --model NAME --data{folder} [options]", "", summary, ""]
    model = _chosen("model", words) or known("model")[_MODEL]
    lines += [f"  --model NAME   {listed('model')}; of anomalib: {listed('model', ours=False)}", ""]
    lines += [f"Options of {model.name} ({model.summary})", *_section("model", model)]
    if model.name == _MODEL:
        lines += ["", f"  Of another model: anoclip {command} --model NAME --help"]
    data = _chosen("data", words)
    lines += ["", "Data"]
    if command == "predict":
        lines += ["  --data FOLDER   photographs of any format, also in subfolders; or an image; or a data set:"]
    lines += [f"  --data NAME   {listed('data')}; of anomalib: {listed('data', ours=False)}"]
    shown = data or (known("data")[_DATA] if command != "predict" else None)
    if shown:
        lines += ["", f"Options of {shown.name}", *_section("data", shown)]
    if data is None:
        lines += ["", f"  Of another data set: anoclip {command} --data NAME --help"]
    lines += ["", "Run"]
    for name, (value, text) in _RUN.items():
        if name.partition(".")[0] in own_options(command):
            lines += [f"  --{name} {value}", f"      {text}"]
    return "\n".join(_wrapped([*lines, "", _EXIT.get(command, _EXIT[""]), full]))


def _chosen(kind: Kind, words: Sequence[str]) -> Known | None:
    """The model or data set that the words name."""
    named = re.search(rf"--{kind}[ =](\S+)", " ".join(words))
    return known(kind).get(named[1].rpartition(".")[2]) if named else None


def _section(kind: Kind, chosen: Known) -> Iterator[str]:
    for option in chosen.options.values():
        yield f"  --{kind}.{option.name} {option.kind}".rstrip()
        text = re.split(r"\s*Defaults? to\b", option.text)[0].rstrip()
        default = "required" if option.default is None else f"default: {option.default}"
        yield f"      {f'{text} ({default})'.strip()}"
    if chosen.takes_more:
        yield f"  and those of the class that it is derived from: --{kind}.help {chosen.name}"


def _wrapped(lines: Sequence[str]) -> Iterator[str]:
    width = max(60, min(shutil.get_terminal_size().columns, 120))
    for line in lines:
        text = line.lstrip()
        hanging = " " * (len(line) - len(text) + (4 if text.startswith("--") else 0))
        yield from textwrap.wrap(line, width, subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False) or [""]
