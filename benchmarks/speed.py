"""Speed against open_clip itself and against anomalib's WinClip: medians of paired runs in one process on the same weights.

    python benchmarks/speed.py                       # the whole table, some minutes on two cores
    python benchmarks/speed.py --quick               # fewer runs and sentences, to see that it works
    python benchmarks/speed.py --only encoder,gpu --json speed.json

Each row compares two ways to the same thing. They run in turn, so that both meet the same load of the machine; a row's
ratio is the median of the pairs' ratios. The weights are random (speed does not depend on them) and nothing is
downloaded. The exit code is 1 when a limit is missed.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import open_clip
import torch
import torch.nn.functional as F
from open_clip.version import __version__ as open_clip_version
from rich.console import Console
from rich.table import Table

from anoclip_anomalib import AnoClipModel, PromptBuilder
from anoclip_anomalib.anoclip.adapter import AdaptationSettings, TokenAdapter
from anoclip_anomalib.clip import LoadedClip, TextEncoder, VisualEncoder, embed_class, load_clip
from anoclip_anomalib.zeroshot.tiling import plan_tiles

if __package__:
    from benchmarks.adaptation_reference import adapt_one_by_one
else:  # run as a script
    from adaptation_reference import adapt_one_by_one

BACKBONE = "ViT-B-16-plus-240"
CLASS = "metal_nut"


@dataclass(frozen=True)
class Row:
    """A comparison: ``ours`` and ``theirs`` are median seconds, ``ratio`` the median of ours / theirs over the pairs."""

    name: str
    ours: float
    theirs: float
    ratio: float
    limit: float
    pairs: int

    @property
    def holds(self) -> bool:
        """Whether the limit is kept."""
        return self.ratio <= self.limit


@dataclass(frozen=True)
class Setting:
    """What every section gets: the backbone in float32 on the CPU, and how thorough to be."""

    clip: LoadedClip
    quick: bool

    def pairs(self, count: int) -> int:
        """How many pairs to run where ``count`` would be thorough."""
        return 2 if self.quick else count


def compare(
    name: str,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    *,
    limit: float,
    pairs: int,
    warm_up: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> Row:
    """Run both in turn, each first in every second pair."""
    if warm_up:
        ours(), theirs()
    times: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs):
        for which in (0, 1) if pair % 2 == 0 else (1, 0):
            times[which].append(seconds((ours, theirs)[which], clock))
    ratios = [a / b for a, b in zip(*times, strict=True)]
    median = statistics.median
    return Row(name, median(times[0]), median(times[1]), median(ratios), limit, pairs)


def seconds(function: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    """Time of one call, the GPU's work included."""
    synchronise()
    start = clock()
    function()
    synchronise()
    return clock() - start


def synchronise() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def images(count: int, size: tuple[int, int]) -> torch.Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(0))


# Sections: a Setting -> rows


def encoder(setting: Setting) -> Iterator[Row]:
    """Both paths of the visual encoder against open_clip's one."""
    model = setting.clip.model
    both_paths = VisualEncoder(model.visual)
    for batch in (1, 8):
        x = images(batch, both_paths.image_size)
        yield compare(
            f"encoder with value attention / encode_image, batch {batch}",
            partial(both_paths.forward, x),
            partial(model.encode_image, x),
            limit=1.2,
            pairs=setting.pairs(20 if batch == 1 else 7),
        )


def text(setting: Setting) -> Iterator[Row]:
    """The text embeddings of one class: against open_clip, and from the cache."""
    clip = setting.clip
    prompts = PromptBuilder().sentences(CLASS)
    step = 12 if setting.quick else 1
    normal, abnormal = prompts.normal_sentences[::step], prompts.abnormal_sentences[::step]
    sentences = [*normal, *abnormal]

    def theirs() -> torch.Tensor:
        batches = clip.tokenize(sentences).split(128)
        return torch.cat([clip.model.encode_text(batch) for batch in batches])

    def embed(folder: str | Path) -> None:
        embed_class(TextEncoder(clip, cache_dir=folder), normal, abnormal)

    with tempfile.TemporaryDirectory() as folder:
        runs = (Path(folder) / str(number) for number in range(100))
        yield compare(
            f"text embeddings of a class, cold / encode_text of the {len(sentences)} sentences",
            lambda: embed(next(runs)),
            theirs,
            limit=0.25,
            pairs=setting.pairs(3),
            warm_up=False,
        )
        warm = Path(folder) / "warm"
        embed(warm)
        yield compare(
            "text embeddings of a class, warm / cold",
            lambda: embed(warm),
            lambda: embed(next(runs)),
            limit=0.01 if not setting.quick else 1.0,  # a few sentences are cold in no time
            pairs=setting.pairs(3),
            warm_up=False,
        )


def winclip(setting: Setting) -> Iterator[Row]:
    """AnoClip against anomalib's WinClip, both zero-shot, one image."""
    ours = AnoClipModel(backbone=BACKBONE, pretrained="random", class_name=CLASS)
    x = images(1, ours.image_size)
    with built_around(setting.clip) as model_class:
        theirs = model_class().eval()
        theirs.setup(CLASS)
        yield compare(
            "AnoClip / anomalib's WinClip, one image", lambda: ours(x), lambda: theirs(x), limit=1 / 8, pairs=setting.pairs(3)
        )


@contextmanager
def built_around(clip: LoadedClip) -> Iterator[type]:
    """WinClip's torch model, made to use the weights that are loaded instead of downloading its own."""
    from anomalib.models.image.winclip.torch_model import WinClipModel
    from torchvision.transforms import Compose

    with mock.patch.object(open_clip, "create_model_and_transforms", return_value=(clip.model, None, Compose([]))):
        yield WinClipModel
    clip.model.visual.output_tokens = False  # WinClip asks open_clip for the patches


def gpu(setting: Setting) -> Iterator[Row]:
    """Throughput in bfloat16 on a GPU: time per batch of 64, both paths against ``encode_image``."""
    if not torch.cuda.is_available():
        return
    visual = setting.clip.visual_tower("bfloat16").to("cuda")
    both_paths = VisualEncoder(visual)
    x = images(64, both_paths.image_size).to("cuda", torch.bfloat16)
    yield compare(
        "GPU, bfloat16, batch 64: encoder with value attention / encode_image (0.8 of its throughput)",
        lambda: both_paths(x),
        lambda: visual(x),
        limit=1 / 0.8,
        pairs=setting.pairs(50),
    )


def adaptation(setting: Setting) -> Iterator[Row]:
    """Adapting a batch of 8 with 5 steps: against the encoder on the same batch, and against a loop over its images."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    both_paths = VisualEncoder(setting.clip.visual_tower()).to(device)
    x = images(8, both_paths.image_size).to(device)
    tokens, layout = both_paths(x).patch_tokens.unsqueeze(1), plan_tiles(*both_paths.image_size, "none")
    grid = both_paths(x[:1]).grid
    text, bank = (F.normalize(torch.randn(n, tokens.shape[-1], device=device), dim=-1) for n in (2, 924))
    adapters = {kind: TokenAdapter(AdaptationSettings(adapter=kind), text, bank) for kind in ("text", "linear")}
    for kind, adapter in adapters.items():
        yield compare(
            f"adapting a batch of 8, {kind} adapter, 5 steps / the encoder on it",
            partial(adapter, tokens, grid, layout),
            partial(both_paths.forward, x),
            limit=0.35,
            pairs=setting.pairs(7),
        )
    yield compare(
        "adapting a batch of 8, text adapter / a loop over its images with torch's AdamW",
        partial(adapters["text"], tokens, grid, layout),
        partial(adapt_one_by_one, tokens.squeeze(1), text, bank),
        limit=0.2 if device.type == "cuda" else 1.0,
        pairs=setting.pairs(7),
    )


def adaptation_memory(batch: int) -> int:
    """Memory in bytes that a fresh process needs beyond its own to adapt a batch of (batch, 225, 640) tokens; Linux only."""
    code = f"""
import re, torch
from pathlib import Path
from anoclip_anomalib.anoclip.adapter import AdaptationSettings, TokenAdapter
from anoclip_anomalib.zeroshot.tiling import plan_tiles

def kibibytes(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

torch.manual_seed(0)
text, bank = (torch.nn.functional.normalize(torch.randn(n, 640), dim=-1) for n in (2, 924))
tokens, adapter = torch.randn({batch}, 1, 225, 640), TokenAdapter(AdaptationSettings(), text, bank)
Path("/proc/self/clear_refs").write_text("5")  # the peak so far, from importing, does not count
before = kibibytes("VmRSS")
adapter(tokens, (15, 15), plan_tiles(240, 240, "none"))
print((kibibytes("VmHWM") - before) * 1024)
"""
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return int(run.stdout)


# A new comparison is a function here and a line in this table.
SECTIONS: dict[str, Callable[[Setting], Iterator[Row]]] = {
    "encoder": encoder,
    "text": text,
    "winclip": winclip,
    "adaptation": adaptation,
    "gpu": gpu,
}


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(load, 1) for load in os.getloadavg()],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "open_clip": open_clip_version,
        "backbone": BACKBONE,
    }


def show(rows: list[Row], about: dict[str, Any]) -> None:
    """Print the table."""
    table = Table(
        title=f"{BACKBONE}, random weights, medians of paired runs", caption=", ".join(f"{k} {v}" for k, v in about.items())
    )
    for name in ("comparison", "ours", "theirs", "ratio", "limit", "pairs", ""):
        table.add_column(name, justify="left" if name in ("comparison", "") else "right", overflow="fold")
    for row in rows:
        verdict = "[green]holds[/green]" if row.holds else "[red]missed[/red]"
        times = (f"{row.ours * 1e3:.1f} ms", f"{row.theirs * 1e3:.1f} ms")
        table.add_row(row.name, *times, f"{row.ratio:.4f}", f"{row.limit:.4f}", str(row.pairs), verdict)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


@torch.inference_mode()
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer runs and sentences")
    parser.add_argument("--only", help=f"sections, separated by commas: {', '.join(SECTIONS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to a file")
    parser.add_argument("--threads", type=int, help="threads of torch (default: torch's own choice)")
    arguments = parser.parse_args(argv)
    chosen = arguments.only.split(",") if arguments.only else list(SECTIONS)
    unknown = [name for name in chosen if name not in SECTIONS]
    if unknown:
        parser.error(f"unknown section {unknown[0]!r}; choose from {', '.join(SECTIONS)}")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    setting = Setting(load_clip(BACKBONE, "random"), arguments.quick)
    about = machine()
    if "adaptation" in chosen:
        per_image = (adaptation_memory(9) - adaptation_memory(1)) / 8
        about["adaptation, memory per image"] = f"{per_image / 2**20:.0f} MiB"
    rows = [row for name in chosen for row in SECTIONS[name](setting)]
    show(rows, about)
    if "gpu" in chosen and about["gpu"] is None:
        print("No GPU here: that section was left out.")
    if arguments.json:
        content = {"machine": about, "rows": [{**asdict(row), "holds": row.holds} for row in rows]}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    missed = [row.name for row in rows if not row.holds]
    for name in missed:
        print(f"Limit missed: {name}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
