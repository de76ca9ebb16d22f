"""How fast mutual scoring is beside the same formulas image pair by image pair, and how much memory it takes.

python benchmarks/mutual_speed.py                 # ratio of the times, one thread
python benchmarks/mutual_speed.py --memory        # 500 x 1,369 x 1,024 features, block by block from half precision

"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from anoclip_anomalib.mutual.scoring import counted, mean_of_lowest, one_sided, pool_scores


def pair_by_pair(features: torch.Tensor) -> torch.Tensor:
    """The formulas word for word: Euclidean distances of each ordered pair of images, their minima, the lowest 30 %."""
    scores = []
    for index, image in enumerate(features):
        nearest = [torch.cdist(image, other).amin(dim=1) for place, other in enumerate(features) if place != index]
        scores.append(mean_of_lowest(torch.stack(nearest), counted(len(nearest))))
    return torch.stack(scores)


def seconds(action) -> tuple[float, torch.Tensor]:  # noqa: ANN001
    """CPU seconds, which other programs on the machine disturb less than wall-clock."""
    start = time.process_time()
    result = action()
    return time.process_time() - start, result


def speed(images: int, patches: int, dim: int, repeats: int) -> None:
    """Print both times and their ratio, the least of several."""
    features = F.normalize(torch.randn(images, patches, dim, generator=torch.Generator().manual_seed(0)), dim=-1)
    plain, ours = [], []
    for _ in range(repeats):
        time_plain, expected = seconds(lambda: pair_by_pair(features))
        time_ours, found = seconds(lambda: pool_scores(lambda a, b: features[a:b], images, patches))
        plain.append(time_plain)
        ours.append(time_ours)
    difference = float((expected - found).abs().max())
    print(f"{images} images x {patches} patches x {dim}: pair by pair {min(plain):.2f} s, here {min(ours):.2f} s")
    print(f"ratio {min(ours) / min(plain):.3f}; largest difference {difference:.1e}")


def memory(images: int, patches: int, dim: int, rows: int, block: int) -> None:
    """Print the peak memory of scoring the first rows against all others, features in a half-precision file."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        held = np.memmap(Path(folder) / "levels", dtype=np.float16, mode="w+", shape=(images, patches, dim))
        for index in range(images):
            held[index] = np.random.default_rng(index).standard_normal((patches, dim), dtype=np.float32)
        levels = torch.from_numpy(held)

        def read(start: int, stop: int) -> torch.Tensor:
            return F.normalize(levels[start:stop].float(), dim=-1)

        queries = read(0, rows)
        nearest = queries.new_empty(images, rows, patches)
        start = time.process_time()
        for other in range(0, images, block):
            nearest[other : other + block] = one_sided(queries, read(other, min(other + block, images)))
        mean_of_lowest(nearest[rows:], counted(images - 1))
        taken = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{rows} of {images} images x {patches} x {dim}: {taken:.1f} s, peak {(peak - before) / 2**20:.2f} GiB more")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--shape", type=int, nargs=3, default=(40, 225, 896), metavar=("IMAGES", "PATCHES", "DIM"))
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        if args.memory:
            memory(500, 1369, 1024, rows=2, block=16)
        else:
            speed(*args.shape, args.repeats)


if __name__ == "__main__":
    main()
