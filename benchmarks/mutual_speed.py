"""How fast mutual scoring is beside the same formulas image pair by image pair, and how much memory it takes.

python benchmarks/mutual_speed.py                 # ratio of the times, one thread
python benchmarks/mutual_speed.py --memory 500    # 500 x 1,369 x 1,024 features, block by block from half precision

"""

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

from anoclip_anomalib.mutual.patches import Patches, groups_of_sizes
from anoclip_anomalib.mutual.scoring import counted, mean_of_lowest, one_sided, pool_scores
from anoclip_anomalib.zeroshot.neighbourhoods import feature_sets

NEIGHBOURHOODS, BLOCK, AIM = (1, 3, 5), 16, 1 / 3


def pair_by_pair(units: torch.Tensor) -> torch.Tensor:
    """The formulas word for word: Euclidean distances of each ordered pair of images, their minima, the lowest 30 %."""
    scores = []
    for index, image in enumerate(units):
        nearest = [torch.cdist(image, other).amin(dim=1) for place, other in enumerate(units) if place != index]
        scores.append(mean_of_lowest(torch.stack(nearest), counted(len(nearest))))
    return torch.stack(scores)


def seconds(action) -> tuple[float, torch.Tensor]:  # noqa: ANN001
    """CPU seconds, which other programs on the machine disturb less than wall-clock."""
    start = time.process_time()
    result = action()
    return time.process_time() - start, result


def speed(images: int, side: int, dim: int, repeats: int) -> float:
    """Print both times of one depth with all neighbourhoods, the least of several; returns their ratio."""
    levels = torch.randn(images, 1, side * side, dim, generator=torch.Generator().manual_seed(0))
    grid = (side, side)

    def ours() -> torch.Tensor:
        groups = groups_of_sizes(NEIGHBOURHOODS, dim, "cpu")
        return torch.cat(
            [pool_scores(lambda a, b, sizes=sizes: Patches.of(levels[a:b], grid, sizes), images) for sizes in groups]
        )

    def theirs() -> torch.Tensor:
        return torch.stack([pair_by_pair(units[:, 0]) for units in feature_sets(levels[None], grid, NEIGHBOURHOODS)])

    times = [(seconds(theirs), seconds(ours)) for _ in range(repeats)]
    plain, here = (min(one[index][0] for one in times) for index in (0, 1))
    difference = float((times[0][0][1] - times[0][1][1]).abs().max())
    print(f"{images} images x {side * side} patches x {dim}: pair by pair {plain:.2f} s, here {here:.2f} s")
    print(f"ratio {here / plain:.3f}; largest difference {difference:.1e}")
    return here / plain


def planned_gib(images: int, patches: int, dim: int) -> tuple[float, float, float]:
    """On paper: two blocks of tokens and units and a copy of one, the distances of a block to all images, one image's sort."""
    sets = len(NEIGHBOURHOODS)
    block = 4 * BLOCK * patches * dim * (1 + sets)
    distances = 4 * sets * images * BLOCK * patches
    return 3 * block / 2**30, distances / 2**30, 3 * distances / BLOCK / 2**30


def memory(images: int, side: int, dim: int, rows: tuple[int, ...]) -> float:
    """Print time and peak memory of scoring a block's first images against all, one depth, features in a file.

    Time grows with the rows, as each is compared with all images; the rows do not know of each other.
    """
    patches, peak = side * side, 0.0
    with tempfile.TemporaryDirectory() as folder:
        held = np.memmap(Path(folder) / "levels", dtype=np.float16, mode="w+", shape=(images, 1, patches, dim))
        for index in range(images):
            held[index] = np.random.default_rng(index).standard_normal((1, patches, dim), dtype=np.float32)
        levels = torch.from_numpy(held)

        def read(start: int, stop: int) -> Patches:
            return Patches.of(levels[start:stop], (side, side), NEIGHBOURHOODS)

        for count in rows:
            start = time.process_time()
            with Peak() as watched:
                queries = read(0, BLOCK)  # as a run does, however few of them are scored here
                nearest = queries.scales.new_zeros(images, *queries.scales.shape)
                for other in range(0, images, BLOCK):
                    found = one_sided(queries.part(0, count), read(other, min(other + BLOCK, images)))
                    nearest[other : other + BLOCK, :, :count] = found
                for index in range(count):
                    mean_of_lowest(nearest[:, :, index], counted(images - 1))
            peak = max(peak, watched.gib)
            print(f"{count} of {images} images x {patches} x {dim}: {time.process_time() - start:.1f} s, {peak:.2f} GiB more")
    return peak


def anonymous() -> int:
    """KiB in use without the pages of files, which the system takes back when it needs them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


class Peak(threading.Thread):
    """Watches the memory in use while it is entered; ``gib`` is the most that was added."""

    def __enter__(self) -> "Peak":
        self.before, self.most, self.ended = anonymous(), 0, threading.Event()
        self.start()
        return self

    def run(self) -> None:
        """Look every hundredth of a second."""
        while not self.ended.wait(0.01):
            self.most = max(self.most, anonymous() - self.before)

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.join()
        self.gib = self.most / 2**20


def main() -> None:
    """Run what was asked for; the exit code is 1 if an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", type=int, metavar="IMAGES", help="so many images of 37 x 37 patches, 1,024 wide")
    parser.add_argument("--shape", type=int, nargs=3, default=(24, 15, 896), metavar=("IMAGES", "SIDE", "DIM"))
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        if args.memory:
            planned = sum(planned_gib(args.memory, 37**2, 1024))
            print(f"planned: {planned:.2f} GiB")
            within = memory(args.memory, 37, 1024, rows=(1, 3)) <= planned
        else:
            within = speed(*args.shape, args.repeats) <= AIM
    sys.exit(0 if within else 1)


if __name__ == "__main__":
    main()
