"""Two Ray workers against one process on a suite of equal jobs, each job held to one thread.

    python benchmarks/ray_speed.py                 # needs Ray, and two cores that have nothing else to do

Jobs are AnoClip with the bundled encoder on one category of the demo data, one for each seed. Times are those of the whole
command, start of Python, of Ray and of its workers included.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SUITE = """
name: equal jobs
seeds: [{seeds}]
models:
  - {{class_path: AnoClip, init_args: {{backbone: demo, views: 22}}}}
data:
  - name: demo
    class_path: GeneratedParts
    init_args:
      {{root: {folder}/data, train_good: 4, test_good: {images}, test_bad: 4,
                num_workers: 0, eval_batch_size: 8, val_split_mode: from_train}}
    categories: [button]
protocol: {{timed_images: 0, sample_images: 4}}
"""


def run(suite: Path, output: Path, *options: str) -> float:
    """Seconds of one `anoclip compare`."""
    code = "import sys; from anoclip_anomalib.cli.compare import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-W", "ignore", "-c", code, str(suite), "-o", str(output), "--threads", "1", "--no-report"]
    start = time.monotonic()
    subprocess.run(
        [*command, *options],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"},
        stdout=subprocess.DEVNULL,
    )
    return time.monotonic() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--images", type=int, default=60, help="good test images of a job; more images, longer jobs")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        suite = Path(folder) / "suite.yaml"
        suite.write_text(SUITE.format(seeds=", ".join(map(str, range(args.jobs))), images=args.images, folder=folder))
        here = run(suite, Path(folder) / "here")
        ray = run(suite, Path(folder) / "ray", "--runner", "ray", "--workers", "2")
    load = f"load {os.getloadavg()[1]:.1f} over 5 minutes" if hasattr(os, "getloadavg") else ""
    print(f"{args.jobs} jobs: one process {here:.1f} s, two Ray workers {ray:.1f} s, ratio {here / ray:.2f}; {load}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
