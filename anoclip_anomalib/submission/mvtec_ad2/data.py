"""MVTec AD 2's images for prediction: the private splits (which have no labels), and good validation images."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from anomalib.data import MVTecAD2
from torch.utils.data import DataLoader

from anoclip_anomalib.submission.images import UnlabelledImages
from anoclip_anomalib.submission.mvtec_ad2.layout import SPLIT_SUFFIXES, expected_stems

FOLDERS: Mapping[str, str] = {
    "validation": "validation/good",
    "test_public_good": "test_public/good",
    "test_public_bad": "test_public/bad",
    **{split: split for split in SPLIT_SUFFIXES},
}


def images_of(root: Path, object_name: str, part: str) -> list[Path]:
    """The images of one part (a key of ``FOLDERS``) of an object, sorted; empty if its folder is missing."""
    folder = root / object_name / FOLDERS[part]
    return sorted(path for path in folder.glob("*") if path.suffix in {".png", ".PNG"})


def check_images(root: Path, counts: Mapping[str, int]) -> None:
    """Make sure before hours of prediction that the images are those the leaderboard expects.

    Raises:
        FileNotFoundError: If objects, validation images or private images are missing; all of them are listed.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; --data.root must be MVTec AD 2's, with can/, fabric/, ... in it")
    faults = []
    for object_name, count in counts.items():
        if not images_of(root, object_name, "validation"):
            faults.append(f"{root / object_name / FOLDERS['validation']} has no PNG images (the threshold needs them)")
        for split in SPLIT_SUFFIXES:
            found = {path.stem for path in images_of(root, object_name, split)}
            if differing := sorted(found.symmetric_difference(expected_stems(split, count))):
                faults.append(
                    f"{root / object_name / split} has {len(found)} images, the leaderboard expects {count} "
                    f"({len(differing)} names differ: {', '.join(differing[:3])}, ...)"
                )
    if faults:
        raise FileNotFoundError("this is not the complete data set:\n  " + "\n  ".join(faults))


class ObjectData(MVTecAD2):
    """anomalib's MVTecAD2 for one object, whose prediction is of chosen images.

    Args:
        images: Those to predict.
        **arguments: anomalib's own: ``root``, ``category``, ``eval_batch_size``, ``num_workers``, ...
    """

    def __init__(self, images: Sequence[Path], **arguments) -> None:
        super().__init__(**arguments)
        self.images = images

    @property
    def name(self) -> str:
        """The data set's name, as anomalib's own module gives it."""
        return "MVTecAD2"

    def predict_dataloader(self) -> list[DataLoader]:
        """One loader for each part, whose images are resized as anomalib resizes those that it tests, before they travel."""
        splits = groupby(self.images, key=lambda image: image.relative_to(self.root / self.category).parts[0])
        datasets = [UnlabelledImages(list(images), self.test_data.augmentations) for _, images in splits]
        return [dataset.loader(batch_size=self.eval_batch_size, num_workers=self.num_workers) for dataset in datasets]
