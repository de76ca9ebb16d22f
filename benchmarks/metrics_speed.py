"""Time and memory of the metric suite against anomalib's, on the same maps, in one run.

    python benchmarks/metrics_speed.py                     # 200 maps of 518 x 518
    python benchmarks/metrics_speed.py --images 50 --size 256

Each suite runs in a process of its own, so that its peak memory is its own. Both get the maps in batches of 8.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np
import torch
from anomalib.data import ImageBatch


def batches(images: int, size: int, batch_size: int = 8):
    """Batches of maps near 0.5 with up to three defects in every second image; the same ones for equal arguments."""
    import cv2

    for start in range(0, images, batch_size):
        count = min(batch_size, images - start)
        maps = np.empty((count, size, size), dtype=np.float32)
        masks = np.zeros((count, size, size), dtype=bool)
        for i in range(count):
            rng = np.random.default_rng(start + i)
            if (start + i) % 2:
                for y, x, h, w in rng.integers([0, 0, 5, 5], [size - 60, size - 60, 60, 60], (3, 4)):
                    masks[i, y : y + h, x : x + w] = True
            coarse = rng.normal(size=(size // 14, size // 14)).astype(np.float32)
            noise = rng.normal(scale=0.05, size=(size, size)).astype(np.float32)
            maps[i] = 0.5 + 1e-3 * (cv2.resize(coarse, (size, size)) + 1.2 * masks[i] + noise)
        labels = torch.from_numpy(masks.any(axis=(1, 2)))
        yield ImageBatch(
            image=torch.zeros(count, 3, size, size),
            anomaly_map=torch.from_numpy(maps),
            gt_mask=torch.from_numpy(masks),
            pred_score=torch.from_numpy(maps.max(axis=(1, 2))),
            gt_label=labels,
        )


def ours():
    """This project's nine metrics."""
    from anoclip_anomalib.evaluation import StreamingEvaluator

    return list(StreamingEvaluator().test_metrics)


def anomalibs():
    """Anomalib's seven metrics of the same names."""
    from anomalib.metrics import AUPR, AUPRO, AUROC, F1Max

    image, pixel = ["pred_score", "gt_label"], ["anomaly_map", "gt_mask"]
    suite = [kind(fields=fields, prefix=prefix) for fields, prefix in ((image, "image_"), (pixel, "pixel_"))
             for kind in (AUROC, F1Max, AUPR)]  # fmt: skip
    return [*suite, AUPRO(fields=pixel, prefix="pixel_")]


def measure(suite: str, images: int, size: int) -> dict:
    """Seconds in update and compute, memory beyond the start, and values of a suite."""
    metrics = {"ours": ours, "anomalib": anomalibs, "nothing": list}[suite]()
    seconds = 0.0
    for batch in batches(images, size):
        start = time.perf_counter()
        for metric in metrics:
            metric.update(batch)
        seconds += time.perf_counter() - start
    start = time.perf_counter()
    values = {metric.name: float(metric.compute()) for metric in metrics}
    seconds += time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"suite": suite, "seconds": seconds, "peak_mib": peak, "values": values}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--size", type=int, default=518)
    parser.add_argument("--suite", choices=("ours", "anomalib", "nothing"), help="measure one, print JSON")
    args = parser.parse_args()
    if args.suite:
        print(json.dumps(measure(args.suite, args.images, args.size)))
        return 0
    results = {}
    for suite in ("nothing", "ours", "anomalib"):
        command = [sys.executable, __file__, "--suite", suite, "--images", str(args.images), "--size", str(args.size)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        results[suite] = json.loads(output.splitlines()[-1])
    base = results["nothing"]["peak_mib"]
    print(f"{args.images} maps of {args.size} x {args.size}, {torch.get_num_threads()} threads")
    for suite in ("ours", "anomalib"):
        row = results[suite]
        values = ", ".join(f"{name} {value:.5f}" for name, value in row["values"].items())
        print(f"{suite:9s} {row['seconds']:7.2f} s  {row['peak_mib'] - base:7.0f} MiB beyond {base:.0f}   {values}")
    print(f"time ratio {results['ours']['seconds'] / results['anomalib']['seconds']:.4f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
