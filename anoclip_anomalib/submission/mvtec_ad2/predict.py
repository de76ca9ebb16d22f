"""Predicting the images of one object with any anomalib model, as raw maps on disk at the model's own resolution.

Keeping the maps as the model gave them needs a tenth of the space of maps at original size, and makes a second pass over an
object's scores (for a range that is the same for all its images) possible without a second prediction.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from anomalib.data import MVTecAD2
from torch.utils.data import DataLoader

from anoclip_anomalib.evaluation.resolution import image_size, resize_map
from anoclip_anomalib.files import atomic_write
from anoclip_anomalib.running.collect import Collect
from anoclip_anomalib.running.engine import build_engine, learns, predict_raw, strip, undisturbed
from anoclip_anomalib.submission.images import UnlabelledImages
from anoclip_anomalib.submission.model_config import ModelConfig
from anoclip_anomalib.versions import weights_digest
from anoclip_anomalib.zeroshot.method import stated_facts


@dataclass(frozen=True)
class PredictSettings:
    """How objects are predicted.

    Attributes:
        config: Model, data and trainer.
        root: The data set's folder, resolved.
        fit: Fit the model on ``train/good`` first (one-class models without a checkpoint).
    """

    config: ModelConfig
    root: Path
    fit: bool = False

    @classmethod
    def of(cls, config: ModelConfig, fit: bool) -> "PredictSettings":
        """Those of a configuration.

        Raises:
            ValueError: If its data are not MVTec AD 2.
        """
        if not config.data_class.endswith(".MVTecAD2"):
            raise ValueError(f"The data must be MVTecAD2, not {config.data_class}; give its folder with --data.root")
        return cls(config, Path(config.data_arguments["root"]).resolve(), fit)


@dataclass(frozen=True)
class RawMap:
    """One prediction.

    Attributes:
        image: The input image.
        scores: (h, w) float32 at the model's resolution.
        image_score: The model's own image score.
    """

    image: Path
    scores: np.ndarray
    image_score: float

    def at_original_size(self) -> np.ndarray:
        """The map (H, W) float32 at the size of the image file, bilinear."""
        return resize_map(self.scores, image_size(self.image))


class RawMapStore:
    """Maps of the images below one folder, each in a file of its own; complete files survive an interruption.

    Args:
        folder: Where the maps lie.
        images: The folder that all images lie below, such as ``<root>/can``.
    """

    def __init__(self, folder: str | Path, images: str | Path) -> None:
        self.folder, self.images = Path(folder), Path(images)

    def path(self, image: str | Path) -> Path:
        """The file of an image's map.

        Raises:
            ValueError: If the image does not lie below the folder of images.
        """
        return self.folder / Path(image).relative_to(self.images).with_suffix(".npz")

    def has(self, image: str | Path) -> bool:
        """Whether the map is there."""
        return self.path(image).is_file()

    def write(self, image: str | Path, scores: np.ndarray, image_score: float) -> None:
        """Keep one prediction."""
        with atomic_write(self.path(image)) as temporary:
            np.savez(temporary, scores=np.asarray(scores, dtype=np.float32), image_score=np.float64(image_score))

    def read(self, image: str | Path) -> RawMap:
        """One prediction.

        Raises:
            ValueError: If its file is damaged.
        """
        try:
            with np.load(self.path(image), allow_pickle=False) as content:
                return RawMap(Path(image), content["scores"], float(content["image_score"]))
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise ValueError(f"{self.path(image)} is damaged ({error}); delete it and run the command again") from error


class ObjectData(MVTecAD2):
    """Anomalib's MVTecAD2 for one object, whose prediction is of chosen images.

    Args:
        images: Those to predict.
        **arguments: Anomalib's own: ``root``, ``category``, ``eval_batch_size``, ``num_workers``, ...
    """

    name = "MVTecAD2"  # as anomalib's own module has it; by default it is that of the class

    def __init__(self, images: Sequence[Path], **arguments) -> None:
        super().__init__(**arguments)
        self.images = images

    def predict_dataloader(self) -> list[DataLoader]:
        """One loader for each part, whose images are resized as anomalib resizes those that it tests, before they travel."""
        splits = groupby(self.images, key=lambda image: image.relative_to(self.root / self.category).parts[0])
        datasets = [UnlabelledImages(list(images), self.test_data.augmentations) for _, images in splits]
        return [dataset.loader(batch_size=self.eval_batch_size, num_workers=self.num_workers) for dataset in datasets]


def predict_object(
    settings: PredictSettings, object_name: str, images: Sequence[Path], store: RawMapStore, progress: Callable[[int], None]
) -> dict[str, Any] | None:
    """Predict those images of an object that the store does not hold yet, with an engine and a model of their own.

    Args:
        settings: Model, data and trainer.
        object_name: Such as ``can``; the data module's category, from which zero-shot models take the class name.
        images: Those that are wanted.
        store: Where raw maps go.
        progress: Called with numbers of finished images.

    Returns:
        The digest of the model's weights, and the facts that it states about its method (what it was trained on); ``None`` if
        there was nothing to do.

    Raises:
        ValueError: If a model that learns is given neither a checkpoint nor ``fit``, or gives no finite map.
        FileNotFoundError: If the checkpoint does not exist.
    """
    left = [image for image in images if not store.has(image)]
    progress(len(images) - len(left))
    if not left:
        return None
    model, callbacks, trainer = settings.config.build()
    checkpoint = settings.config.checkpoint(object_name)
    fits = learns(model) and checkpoint is None
    if fits and not settings.fit:
        raise ValueError(
            f"{type(model).__name__} learns from normal images: give --fit, or --ckpt_path with a checkpoint for each object "
            "('{object}' in the path stands for the object's name)"
        )
    own = ("root", "category", "test_type")
    arguments = {key: value for key, value in settings.config.data_arguments.items() if key not in own}
    data = ObjectData(left, root=settings.root, category=object_name, **arguments)
    folder = store.folder / "engine"
    keep = Collect(lambda image, score, scores: store.write(image, scores, score), maps=True, advance=progress)
    if fits:
        strip(model, keep={"post_processor"})
        with undisturbed():
            build_engine(folder, [], trainer).fit(model, datamodule=data)
    predict_raw(model, keep, callbacks, trainer, folder, datamodule=data, ckpt_path=checkpoint)
    if missing := [image for image in left if not store.has(image)]:
        raise ValueError(f"{type(model).__name__} left out {len(missing)} images, {missing[0]} among them")
    return {"weights_digest": weights_digest(model), "method": stated_facts(model, callbacks)}
