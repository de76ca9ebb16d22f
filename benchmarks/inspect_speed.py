"""`anoclip inspect`: time of its help, of the first result and beside the encoder, and memory of many photographs.

    python benchmarks/inspect_speed.py                        # everything, some minutes on two cores
    python benchmarks/inspect_speed.py --only help,memory
    python benchmarks/inspect_speed.py --only overhead --images 200 --backbone ViT-B-16 --weights random

Photographs are drawn parts, saved as JPEG of 512 x 512 pixels; of many, most are copies. Commands run as a user runs them, in
processes of their own. The exit code is 1 when a limit is missed.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

COMMAND = [sys.executable, "-W", "ignore", "-m", "anoclip_anomalib.cli.main", "inspect"]
DRAWN = 20


@dataclass(frozen=True)
class Row:
    """A figure and its limit."""

    name: str
    value: float
    unit: str
    limit: float
    note: str = ""


@dataclass(frozen=True)
class Cost:
    """Time of one image: of the clock, and of all cores together, which other work on the machine changes less."""

    seconds: float
    cpu: float


def cost(action: Callable[[], object], images: int) -> Cost:
    """What an image costs."""
    start, cpu = time.perf_counter(), time.process_time()
    action()
    return Cost((time.perf_counter() - start) / images, (time.process_time() - cpu) / images)


def photographs(folder: Path, count: int, side: int = 512) -> Path:
    """A folder with so many photographs of parts."""
    from PIL import Image

    from anoclip_anomalib.demo.dataset import draw_sample

    folder.mkdir()
    for number in range(count):
        path = folder / f"{number:05}.jpg"
        if number < DRAWN:
            Image.fromarray(draw_sample("button", "good", side, number)[0]).save(path, quality=92)
        else:
            shutil.copy(folder / f"{number % DRAWN:05}.jpg", path)
    return folder


def run_command(*words: object, until: Path | None = None) -> tuple[float, float]:
    """Seconds of a command, or until a file has two lines; and its peak memory in MiB (with what it has begun)."""
    import psutil

    start = time.perf_counter()
    process = subprocess.Popen([*COMMAND, *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    peak, first = 0.0, 0.0
    watched = psutil.Process(process.pid)
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.append(process.stderr.read() if process.stderr else ""))
    reader.start()
    while process.poll() is None:
        try:
            peak = max(peak, watched.memory_info().rss / 2**20)
        except psutil.NoSuchProcess:
            break
        if until is not None and not first and until.is_file() and until.read_bytes().count(b"\n") > 1:
            first = time.perf_counter() - start
        time.sleep(0.01)
    reader.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, words))} failed:\n{errors[0]}")
    return first or time.perf_counter() - start, peak


# Sections: arguments -> rows


def help_text(arguments: argparse.Namespace, place: Path) -> list[Row]:
    """How long the options take to appear."""
    times = [run_command("--help")[0] for _ in range(5)]
    return [Row("anoclip inspect --help", statistics.median(times), "s", 1.0)]


def first_result(arguments: argparse.Namespace, place: Path) -> list[Row]:
    """From the start of the command to the first line of results.csv, and to the end."""
    photos = photographs(place / "twenty", 20)
    words = [photos, "--product", "button", "--quiet", "-o", place / "first"]
    first, _ = run_command(*words, until=place / "first" / "001" / "results.csv")
    whole, _ = run_command(*words)
    return [Row("first result of 20 photographs", first, "s", 15.0, f"the whole command takes {whole:.1f} s")]


def overhead(arguments: argparse.Namespace, place: Path) -> list[Row]:
    """Reading, drawing, writing and the page beside the encoder alone, on batches that are ready; in one process."""
    import torch

    from anoclip_anomalib import Inspector
    from anoclip_anomalib.data import read_image
    from anoclip_anomalib.inspection.photos import Photos
    from anoclip_anomalib.inspection.run import FolderRun
    from anoclip_anomalib.inspection.run_folder import RunFolder
    from anoclip_anomalib.inspection.settings import DEFAULTS

    photos = Photos([photographs(place / "many", arguments.images)])
    inspector = Inspector("button", backbone=arguments.backbone, weights=arguments.weights, image_size=arguments.image_size)
    ready = inspector.module.pre_processor.transform(read_image(next(iter(photos)).file)[None])
    ready = ready.repeat(inspector.batch_size, 1, 1, 1)

    batches = min(96, arguments.images) // inspector.batch_size

    def encoder() -> Cost:
        with torch.inference_mode():
            return cost(lambda: [inspector.module.model(ready) for _ in range(batches)], batches * len(ready))

    def command(pictures: bool) -> Cost:
        content = {"settings": DEFAULTS | {"pictures": pictures}}
        run = FolderRun(inspector, photos, arguments.images, RunFolder.create(place / "overhead"), content)
        return cost(run, arguments.images)

    inspector(next(iter(photos)).file)
    rows = []
    for pictures in (True, False):
        before, run, after = encoder(), command(pictures), encoder()
        alone = Cost((before.seconds + after.seconds) / 2, (before.cpu + after.cpu) / 2)
        note = (
            f"encoder {1e3 * alone.seconds:.1f} ms ({1e3 * alone.cpu:.1f} ms of CPU), "
            f"run {1e3 * run.seconds:.1f} ms ({1e3 * run.cpu:.1f} ms of CPU) an image"
        )
        name = f"overhead over the encoder, {arguments.images} images, {'pictures and page' if pictures else 'no pictures'}"
        rows.append(Row(name, run.seconds / alone.seconds - 1, "", arguments.overhead, note))
    return rows


def memory(arguments: argparse.Namespace, place: Path) -> list[Row]:
    """Peak memory of the command with many photographs beside that with few."""
    peaks = {}
    for count in (50, arguments.many):
        photos = photographs(place / f"memory{count}", count, 96)
        words = [photos, "--product", "button", "--quiet", "--image-size", 64, "-o", place / "memory"]
        peaks[count] = run_command(*words)[1]
    few, many = peaks.values()
    note = f"{few:.0f} MiB with 50, {many:.0f} MiB with {arguments.many}"
    return [Row(f"peak memory of {arguments.many} photographs / of 50", many / few, "", 1.2, note)]


LISTING = """
import resource, sys, time
from anoclip_anomalib.inspection.photos import Photos

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

photos, before, start = Photos([sys.argv[1]]), peak(), time.process_time()
count = sum(1 for _ in photos)
assert count == photos.count()
print((peak() - before) / count, time.process_time() - start)
"""


def listing(arguments: argparse.Namespace, place: Path) -> list[Row]:
    """Memory for each file of a folder with very many."""
    folder, count = place / "very-many", 200_000
    folder.mkdir()
    for number in range(count):
        (folder / f"photograph-{number:07}.jpg").touch()
    run = subprocess.run([sys.executable, "-c", LISTING, str(folder)], capture_output=True, text=True, check=True)
    each, seconds = map(float, run.stdout.split())
    note = f"counted and listed in {seconds:.1f} s of CPU"
    return [Row(f"memory to list a folder of {count} files", each, "bytes a file", 400, note)]


SECTIONS: dict[str, Callable[[argparse.Namespace, Path], list[Row]]] = {
    "help": help_text,
    "first": first_result,
    "overhead": overhead,
    "memory": memory,
    "listing": listing,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", help=f"sections, separated by commas: {', '.join(SECTIONS)}")
    parser.add_argument("--images", type=int, default=1000, help="of the section overhead")
    parser.add_argument("--many", type=int, default=5000, help="photographs of the section memory")
    parser.add_argument("--backbone", default="demo")
    parser.add_argument("--weights")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--overhead", type=float, default=0.15, help="limit of the section overhead (default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        chosen = arguments.only.split(",") if arguments.only else list(SECTIONS)
        rows = [row for name in chosen for row in SECTIONS[name](arguments, Path(folder))]
    for row in rows:
        verdict = "holds" if row.value <= row.limit else "MISSED"
        print(f"{row.name}: {row.value:.2f} {row.unit} (limit {row.limit:g}: {verdict}){f'; {row.note}' if row.note else ''}")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    return int(any(row.value > row.limit for row in rows))


if __name__ == "__main__":
    sys.exit(main())
