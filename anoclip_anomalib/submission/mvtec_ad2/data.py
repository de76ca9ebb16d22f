"""MVTec AD 2's images for prediction: the private splits (which have no labels), and good validation images."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from anomalib.data import MVTecAD2
from anomalib.data.datasets.base import AnomalibDataset
from torch.utils.data import DataLoader

from anoclip_anomalib.submission.mvtec_ad2.layout import SPLIT_SUFFIXES, expected_stems

FOLDERS: Mapping[str, str] = {
    "train": "train/good",
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
    """anomalib's MVTecAD2 for one object, whose prediction covers several parts and skips images that are done.

    Args:
        parts: Keys of ``FOLDERS`` to predict; ``test_public_good`` and ``test_public_bad`` come together.
        skip: Tells which images are done.
        **arguments: anomalib's own: ``root``, ``category``, ``eval_batch_size``, ``num_workers``, ...
    """

    def __init__(self, parts: Sequence[str], skip: Callable[[str], bool], **arguments) -> None:
        super().__init__(**arguments)
        self.parts, self.skip = parts, skip
        self.predicted: list[AnomalibDataset] = []

    @property
    def name(self) -> str:
        """The data set's name, as anomalib's own module gives it."""
        return "MVTecAD2"

    def _setup(self, _stage: str | None = None) -> None:
        super()._setup(_stage)
        available = {
            "validation": self.val_data,
            "test_private": self.test_private_data,
            "test_private_mixed": self.test_private_mixed_data,
            "test_public_good": self.test_public_data,
            "test_public_bad": self.test_public_data,
        }
        self.predicted = []
        for dataset in {id(available[part]): available[part] for part in self.parts}.values():
            left = [number for number, path in enumerate(dataset.samples.image_path) if not self.skip(path)]
            if left:
                chosen = dataset.subsample(left)
                chosen.samples.attrs.update(dataset.samples.attrs)
                self.predicted.append(chosen)

    def _update_augmentations(self) -> None:
        super()._update_augmentations()
        # anomalib gives the model's resize to its three standard subsets only; without it several megapixels of every
        # private image would travel through the loader.
        for dataset in self.predicted:
            dataset.augmentations = self.test_data.augmentations

    def predict_dataloader(self) -> list[DataLoader]:
        """One loader for each part, so that labelled and unlabelled images do not meet in a batch."""
        options = {"batch_size": self.eval_batch_size, "num_workers": self.num_workers}
        return [DataLoader(dataset, collate_fn=dataset.collate_fn, **options) for dataset in self.predicted]
