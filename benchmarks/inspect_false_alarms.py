"""False alarms and recall of the inspector's own threshold, on good parts that it has not seen and on defects.

python benchmarks/inspect_false_alarms.py --data datasets/cookies --product cookie --out benchmarks/results/inspect
python benchmarks/inspect_false_alarms.py --draws 2 --image-size 128 160 192 256        (generated parts)

Some good photographs are drawn as the good ones; all other good ones, of `train/good` and `test/good`, are held out.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from anoclip_anomalib import Inspector
from anoclip_anomalib.data.images import read_image
from anoclip_anomalib.demo.dataset import CATEGORIES, write_demo_dataset
from anoclip_anomalib.files import atomic_write
from anoclip_anomalib.versions import commit, machine


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))


def hit(result, mask: Path) -> bool | None:  # noqa: ANN001
    """Whether an outlined area touches the defect; ``None`` without a mask."""
    if not mask.is_file():
        return None
    truth = read_image(mask)[0].numpy() > 0
    heatmap = result.heatmap
    if truth.shape != heatmap.shape:
        return None
    return bool((truth & (heatmap > result.pixel_threshold)).any())


def encoded_once(inspector: Inspector) -> Inspector:
    """Keeps what the encoder says of each photograph, which does not depend on the draw."""
    model, known = inspector.module.model, {}
    encode = getattr(model, "encode", None)
    if encode is not None and hasattr(model, "reference"):

        def remembered(images, *, levels=None):  # noqa: ANN001, ANN202
            key = images.numpy().tobytes()
            if key not in known:
                known[key] = encode(images, levels=True)
            return known[key]

        model.encode = remembered
    return inspector


def one_draw(inspector: Inspector, root: Path, product: str, defects: list[str], count: int, seed: int) -> dict:
    good = [*files(root / "train" / "good"), *files(root / "test" / "good")]
    # The good ones are drawn from the training images, as a user would have put them aside.
    pool = files(root / "train" / "good")
    chosen = [pool[index] for index in sorted(np.random.default_rng(seed).choice(len(pool), count, replace=False))]
    inspector.use(product, good=chosen)
    held_out = list(inspector.stream([path for path in good if path not in chosen]))
    bad_files = [path for kind in defects for path in files(root / "test" / kind)]
    bad = list(inspector.stream(bad_files))
    masks = [next(iter((root / "ground_truth" / path.parent.name).glob(f"{path.stem}*")), Path()) for path in bad_files]
    hits = [hit(result, mask) for result, mask in zip(bad, masks, strict=True) if result.is_defect]
    scores = [result.score for result in (*held_out, *bad)]
    decision = inspector.decision
    quiet = [r for r in (*held_out, *bad) if not r.is_defect]
    alarmed = [r for r in (*held_out, *bad) if r.is_defect]
    return {
        "seed": seed,
        "image_auroc": float(roc_auc_score([0] * len(held_out) + [1] * len(bad), scores)),
        "threshold": decision.image_threshold,
        "expected_false_alarm_rate": decision.expected_false_alarm_rate,
        "held_out": len(held_out),
        "false_alarms": sum(bool(result.is_defect) for result in held_out),
        "defects": len(bad),
        "found": sum(bool(result.is_defect) for result in bad),
        "outline_on_defect": sum(one is True for one in hits),
        "outline_judged": sum(one is not None for one in hits),
        "called_good_with_hot_pixel": sum(bool(r.anomaly_map.max() > decision.pixel_threshold) for r in quiet),
        "called_defect_without_hot_pixel": sum(bool(r.anomaly_map.max() <= decision.pixel_threshold) for r in alarmed),
        "called_good": len(quiet),
        "called_defect": len(alarmed),
    }


def summary(draws: list[dict]) -> dict:
    total = {key: sum(draw[key] for draw in draws) for key in draws[0] if isinstance(draws[0][key], int) and key != "seed"}
    return {
        "image_auroc": float(np.mean([draw["image_auroc"] for draw in draws])),
        "false_alarm_rate": total["false_alarms"] / total["held_out"],
        "recall": total["found"] / total["defects"],
        "outline_on_defect": total["outline_on_defect"] / max(1, total["outline_judged"]),
        "called_good_with_hot_pixel": total["called_good_with_hot_pixel"] / max(1, total["called_good"]),
        "called_defect_without_hot_pixel": total["called_defect_without_hot_pixel"] / max(1, total["called_defect"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder in MVTec AD's layout; default: generated parts, drawn here")
    parser.add_argument("--product", help="its name, with --data")
    parser.add_argument("--defects", nargs="+", help="folders below test/, with --data; default: all but good")
    parser.add_argument("--good", type=int, default=16)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--image-size", type=int, nargs="+", help="default: the inspector's own")
    parser.add_argument("--model", default="AnoClip")
    parser.add_argument("--out", type=Path, help="folder for the figures as JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if args.data:
            cases = [(args.data, args.product or args.data.name)]
        else:
            root = write_demo_dataset(scratch, image_size=256, train=24, test_good=12, test_bad=6, seed=1)
            cases = [(root / category, category) for category in CATEGORIES]
        found = {}
        names = ("data", "image size", "image AUROC", "false alarms", "recall", "outline on the defect", "hot but good")
        print("|", " | ".join([*names, "defect, nothing hot"]), "|")
        print("|---|---|---|---|---|---|---|---|")
        for size in args.image_size or [None]:
            rows = []
            for root, product in cases:
                kinds = args.defects or sorted(path.name for path in (root / "test").iterdir() if path.name != "good")
                settings = {"model": args.model, "image_size": size}
                inspector = encoded_once(Inspector(product, **settings))
                draws = []
                for seed in range(args.draws):
                    draws.append(one_draw(inspector, root, product, kinds, args.good, seed))
                    print(json.dumps(draws[-1]), file=sys.stderr, flush=True)
                rows.append(summary(draws))
                found[f"{product} {size or 'default'}"] = {"summary": rows[-1], "draws": draws}
                print(
                    "|", product, "|", size or "default", *(f"| {value:.3f} " for value in rows[-1].values()), "|", flush=True
                )
            if len(rows) > 1:
                means = [np.mean([row[key] for row in rows]) for key in rows[0]]
                print("| **mean** |", size, *(f"| {value:.3f} " for value in means), "|", flush=True)
    if args.out:
        name = "generated" if args.data is None else args.data.name
        facts = {"commit": commit(), "machine": machine(), "good": args.good, "draws": args.draws, "model": args.model}
        with atomic_write(args.out / f"false_alarms_{name}.json") as temporary:
            temporary.write_text(json.dumps({"facts": facts, "results": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
