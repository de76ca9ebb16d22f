"""Methods that learn, trained with several seeds for the bundled encoder and compared on the demonstration's data.

    python benchmarks/learned_seeds.py -o results/learned              # trains what is not there yet, hours on one core
    python benchmarks/learned_seeds.py -o results/learned --only crane # a part of it; several processes may share the folder
    python benchmarks/learned_seeds.py -o results/bundled --only "bundled recipe" --seeds 111 1 2

Trains on generated parts alone (configs/sources/demo.yaml), with and without the normal-aware loss and the knowledge term.
Data, sizes and metrics are those of configs/suites/demo.yaml; the table has mean and standard deviation over the seeds.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd
import yaml

from anoclip_anomalib.cli.main import main as anoclip

SOURCE = "configs/sources/demo.yaml"
PROMPTS = ["prompts", "--backbone", "demo", "--image-size", "128", "--accelerator", "cpu"]
STEPS = {"anomalyclip": (3, 8), "crane": (3, 8), "adaclip": (2, 4), "april-gan": (3, 8)}  # epochs of 1,000 images, batch
AACLIP = [
    *("aaclip", "--backbone", "demo", "--stage", "image", "--text", "clip", "--image-size", "192", "--accelerator", "cpu"),
    *("--image-adapters", "12", "--projections", "random", "--image.loss", "balanced", "--image.pairs", "1"),
    *("--image.batch-size", "8", "--image.lr", "1e-3", "--image.warmup", "30", "--image.schedule", "cosine"),
    *("--image.average", "0.99"),
]
SHORT = [
    *(*AACLIP, "--class-share", "0.5", "--image.detection-scale", "20", "--image.sizes", "128", "96", "128"),
    *("--image.epochs", "4"),
]
BUNDLED = [
    *(*AACLIP, "--scales", "0.667", "1", "1.333", "--class-token", "clip", "--class-share", "1", "--image-weight", "0.25"),
    *("--image.sizes", "128", "96", "128", "160", "--image.epochs", "20"),
]
"""That of the adapters that come with the package; their seed is 111."""
NORMAL_AWARE = "0.5"


def _prompts(method: str, *more: str) -> list[str]:
    epochs, batch = STEPS[method]
    return [*PROMPTS, "--method", method, "--epochs", str(epochs), "--batch-size", str(batch), *more]


TRAININGS: dict[str, list[str]] = {
    "AnomalyCLIP": _prompts("anomalyclip"),
    "AnomalyCLIP, normal-aware": _prompts("anomalyclip", "--normal-aware", NORMAL_AWARE),
    "AnomalyCLIP, knowledge": _prompts("anomalyclip", "--knowledge"),
    "Crane": _prompts("crane"),
    "Crane, normal-aware": _prompts("crane", "--normal-aware", NORMAL_AWARE),
    "AdaCLIP": _prompts("adaclip"),
    "APRIL-GAN": _prompts("april-gan"),
    "AA-CLIP, 500 steps": SHORT,
    "AA-CLIP, 500 steps, normal-aware": [*SHORT, "--image.normal-aware", NORMAL_AWARE],
    "AA-CLIP, bundled recipe": BUNDLED,
}
"""Row -> words after ``anoclip train``, but for source, seed and file."""
COLUMNS = {"image_AUROC": "image AUROC", "pixel_AUROC": "pixel AUROC", "pixel_AP": "pixel AP", "AUPRO": "AUPRO"}


def weights(out: Path, name: str, seed: int) -> Path:
    """Where a training's file is."""
    stem = "".join(letter if letter.isalnum() else "-" for letter in name.lower())
    return out.resolve() / "weights" / f"{stem}-{seed}.safetensors"


def suite_of(out: Path, seeds: list[int]) -> Path:
    """The suite of all files that are there, beside what is compared with."""
    content = yaml.safe_load(Path("configs/suites/demo.yaml").read_text(encoding="utf-8"))
    models = [row for row in content["models"] if row["name"] in ("AnoCLIP", "distance to the centre", "local contrast")]
    models.append({"name": "AA-CLIP, bundled", "class_path": "AaClip", "init_args": {"adapters": "demo"}})
    for name, words in TRAININGS.items():
        kind = "AaClip" if words[0] == "aaclip" else "PromptClip"
        for seed in seeds:
            if (file := weights(out, name, seed)).is_file():
                models.append({"name": f"{name} #{seed}", "class_path": kind, "init_args": {"adapters": str(file)}})
    path = out / "suite.yaml"
    path.write_text(yaml.safe_dump(content | {"name": "learned", "models": models}, sort_keys=False), encoding="utf-8")
    return path


def table(jobs: Path) -> str:
    """Mean over the categories, then mean and standard deviation over the seeds."""
    rows = pd.read_csv(jobs)
    rows[["model", "seed"]] = rows["model"].str.extract(r"^(.*?)(?: #(\d+))?$")
    rows["seed"] = rows["seed"].fillna("-")
    of_seeds = rows.groupby(["model", "seed"], sort=False)[list(COLUMNS)].mean() * 100
    lines = ["| model | seeds | " + " | ".join(COLUMNS.values()) + " |", "|---|---:|" + "---:|" * len(COLUMNS)]
    for name, own in of_seeds.groupby("model", sort=False):
        cells = [
            f"{own[column].mean():.1f}" + (f" ± {own[column].std(ddof=1):.1f}" if len(own) > 1 else "") for column in COLUMNS
        ]
        lines.append(f"| {name} | {len(own)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--only", help="trainings whose name contains it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--train-only", action="store_true")
    arguments = parser.parse_args()
    (arguments.out / "weights").mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        for name, words in TRAININGS.items():
            file = weights(arguments.out, name, seed)
            if file.is_file() or (arguments.only and arguments.only.lower() not in name.lower()):
                continue
            if code := anoclip(["train", *words, "--source", SOURCE, "--seed", str(seed), "--out", str(file)]):
                return code
    if arguments.train_only:
        return 0
    results = arguments.out / "results"
    if code := anoclip(["compare", str(suite_of(arguments.out, arguments.seeds)), "-o", str(results), "--threads", "1"]):
        return code
    print(table(results / "jobs.csv"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
