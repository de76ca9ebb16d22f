"""How often good cookies are called bad by the thresholds of 16 normal ones, and how many cracked ones are found.

python benchmarks/few_shot_false_alarms.py --root <folder of the cookies> [--draws 5] [--k 16] [--image-size 128]

Each draw takes k of the good training photographs; the other ones and the good test photographs are held out. No threshold
sees a held-out photograph. The bundled encoder, one thread.
"""

import argparse
import sys
from pathlib import Path

import torch
from torchmetrics.functional.classification import binary_auroc

from anoclip_anomalib import AnoClip
from anoclip_anomalib.data import FolderImages, read_image
from anoclip_anomalib.zeroshot.normal_images import images_of_folder
from anoclip_anomalib.zeroshot.normal_reference import NormalImage

AIM = 0.1


@torch.inference_mode()
def main() -> None:
    """Print false alarms and recall of each draw; the exit code is 1 if more than one good one in ten is called bad."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--image-size", type=int, default=128)
    args = parser.parse_args()
    torch.set_num_threads(1)
    module = AnoClip(backbone="demo", class_name="cookie", image_size=args.image_size).eval()
    model = module.model
    model.set_class("cookie")

    def read(path: Path) -> torch.Tensor:
        return module.pre_processor.transform(read_image(path)[None])

    good = images_of_folder(args.root / "train/good")
    described: list[NormalImage] = [model.describe_normal(read(path))[0] for path in good]
    tested = [FolderImages(args.root / "test" / name).image_filenames for name in ("good", "crack")]
    alarms, held_out = 0, 0
    for draw in range(args.draws):
        chosen = torch.randperm(len(good), generator=torch.Generator().manual_seed(draw))
        model.reference.remember([described[index] for index in chosen[: args.k]], [[]] * args.k, keep_copies=False)
        threshold, promised = model.reference.image_threshold.value, model.reference.image_threshold.false_alarms
        sets = ([good[index] for index in chosen[args.k :]] + tested[0], tested[1])
        fine, cracked = (torch.cat([model(read(path)).pred_score for path in paths]) for paths in sets)
        wrong, found = int((fine > threshold).sum()), int((cracked > threshold).sum())
        alarms, held_out = alarms + wrong, held_out + len(fine)
        auroc = binary_auroc(torch.cat([fine, cracked]), torch.cat([torch.zeros(len(fine)), torch.ones(len(cracked))]).long())
        print(
            f"draw {draw}: {wrong} of {len(fine)} good ones called bad (promised {promised:.1%}), "
            f"{found} of {len(cracked)} cracked ones found, image AUROC {auroc:.1%}"
        )
    print(f"{alarms} of {held_out} good ones called bad: {alarms / held_out:.1%}")
    sys.exit(0 if alarms <= AIM * held_out else 1)


if __name__ == "__main__":
    main()
