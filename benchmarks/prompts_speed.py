"""What an image costs with AnomalyCLIP and Crane beside AnoCLIP on the same tower: medians of paired runs, random weights.

python benchmarks/prompts_speed.py                                      # ViT-B-16-plus-240
python benchmarks/prompts_speed.py --backbone ViT-L-14-336 --size 336 --pairs 3

The exit code is 1 when a method takes more than 1.1 of AnoCLIP's time.
"""

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from anoclip_anomalib import AnoClipModel, PromptClipModel
from anoclip_anomalib.clip import load_clip
from anoclip_anomalib.promptlearning.prompt_learner import new_prompt_learner
from anoclip_anomalib.promptlearning.prompts_file import save_prompts
from anoclip_anomalib.zeroshot.learned_weights import TrainingFacts

if __package__:
    from benchmarks.speed import compare
else:  # run as a script
    from speed import compare

LIMIT = 1.1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="ViT-B-16-plus-240")
    parser.add_argument("--size", type=int, default=240)
    parser.add_argument("--pairs", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    clip = load_clip(args.backbone, "random")
    image = torch.randn(1, 3, args.size, args.size, generator=torch.Generator().manual_seed(0))
    rows = []
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        few = {"templates": ["{}"]}  # the text is no part of an image's cost
        anoclip = AnoClipModel(clip=clip, class_name="bottle", prompts=few, image_size=args.size, text_cache_dir=folder).eval()
        for method in ("anomalyclip", "crane"):
            facts = TrainingFacts(method=method, backbone=args.backbone, pretrained="random", image_size=args.size)
            path = save_prompts(Path(folder) / f"{method}.safetensors", new_prompt_learner(clip), facts)
            model = PromptClipModel(adapters=path, clip=clip, text_cache_dir=folder).eval()
            ours = partial(model, image)
            rows.append(compare(method, ours, partial(anoclip, image), limit=LIMIT, pairs=args.pairs, clock=time.process_time))
    for row in rows:
        print(f"{row.name}: {row.ours:.3f} s an image, AnoCLIP {row.theirs:.3f} s, ratio {row.ratio:.3f} (limit {row.limit})")
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
