"""Anomalib's pictures, under names of their own."""

import logging
from pathlib import Path
from typing import Any

from anomalib.data import ImageBatch, ImageItem
from anomalib.utils.path import generate_output_filename
from anomalib.visualization import ImageVisualizer
from lightning.pytorch import LightningModule, Trainer

from anoclip_anomalib.data.images import read_image
from anoclip_anomalib.evaluation.output_names import OutputNames, below_root, prediction_root

logger = logging.getLogger(__name__)


class NamedVisualizer(ImageVisualizer):
    """Anomalib's visualizer, in which no picture takes the name of another, and none leaves the output folder.

    A predicted folder's subfolders are kept: anomalib keeps only the last, so that ``line1/good/001.jpg`` and
    ``line2/good/001.jpg`` become one. The photograph is read as it was for the prediction, so that it is as upright as the map
    on it, and a very large one takes no more memory. Pictures of data sets have anomalib's names, numbered where two are equal.
    """

    _names: OutputNames | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.text_config["size"] is None:  # anomalib's own choice cuts "Image + Anomaly Map" off
            self.text_config["size"] = max(8, self.field_size[0] // 16)

    @classmethod
    def like(cls, other: ImageVisualizer) -> "NamedVisualizer":
        """A visualizer with the settings of another one."""
        settings = "fields overlay_fields field_size fields_config overlay_fields_config text_config output_dir"
        return cls(**{name: getattr(other, name) for name in settings.split()})

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the names of the run before."""
        self._names = OutputNames()

    on_predict_start = on_test_start

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: ImageBatch, *args: Any, **kwargs: Any
    ) -> None:
        """Draw the images of a batch."""
        folder = Path(self.output_dir or Path(trainer.default_root_dir) / "images")
        root = prediction_root(trainer)
        self._names = self._names or OutputNames()
        for item in batch:
            name = _wanted(trainer, item.image_path or "image.png", root)
            try:
                picture = self.visualize(_as_predicted(item) if root is not None else item)
            except OSError as error:
                logger.warning("No picture of %s: %s", name, error)  # the file has gone since it was scored
                continue
            if picture is not None:
                path = folder / self._names.unique(name)
                path.parent.mkdir(parents=True, exist_ok=True)
                picture.save(path)


def _as_predicted(item: ImageItem) -> ImageItem:
    """The item with its photograph in place of its path, which anomalib would open."""
    if item.image_path:
        half_a_step = 0.5 / 255  # anomalib cuts off what is behind the point when it makes bytes of it
        image = (read_image(item.image_path) + half_a_step).clamp(max=1)
        least = [max(2, side) for side in image.shape[1:]]  # anomalib takes a side of 1 for no side
        item.image, item.image_path = image.expand(-1, *least), None
    return item


def _wanted(trainer: Trainer, image_path: str, root: Path | None) -> Path:
    if root is not None:
        return below_root(image_path, root)
    datamodule = getattr(trainer, "datamodule", None)
    name, category = (getattr(datamodule, key, None) for key in ("name", "category"))
    return generate_output_filename(image_path, "", dataset_name=name, category=category, mkdir=False)
