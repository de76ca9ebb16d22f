"""anomalib's pictures, under names of their own."""

from pathlib import Path
from typing import Any

from anomalib.data import ImageBatch
from anomalib.utils.path import generate_output_filename
from anomalib.visualization import ImageVisualizer
from lightning.pytorch import LightningModule, Trainer

from anoclip_anomalib.evaluation.output_names import OutputNames, below_root, prediction_root


class NamedVisualizer(ImageVisualizer):
    """anomalib's visualizer, in which no picture takes the name of another, and none leaves the output folder.

    A predicted folder's subfolders are kept: anomalib keeps only the last, so that `line1/good/001.jpg` and
    `line2/good/001.jpg` become one. Pictures of data sets have anomalib's names, numbered where two are equal.
    """

    _names: OutputNames | None = None

    @classmethod
    def like(cls, other: ImageVisualizer) -> "NamedVisualizer":
        """A visualizer with the settings of another one."""
        return cls(
            fields=other.fields,
            overlay_fields=other.overlay_fields,
            field_size=other.field_size,
            fields_config=other.fields_config,
            overlay_fields_config=other.overlay_fields_config,
            text_config=other.text_config,
            output_dir=other.output_dir,
        )

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the names of the run before."""
        self._names = OutputNames()

    on_predict_start = on_test_start

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: ImageBatch, *args: Any, **kwargs: Any
    ) -> None:
        """Draw the images of a batch."""
        folder = Path(self.output_dir or Path(trainer.default_root_dir) / "images")
        self._names = self._names or OutputNames()
        for item in batch:
            picture = self.visualize(item)
            if picture is not None:
                path = folder / self._names.unique(_wanted(trainer, item.image_path or "image.png"))
                path.parent.mkdir(parents=True, exist_ok=True)
                picture.save(path)


def _wanted(trainer: Trainer, image_path: str) -> Path:
    root = prediction_root(trainer)
    if root is not None:
        return below_root(image_path, root)
    datamodule = getattr(trainer, "datamodule", None)
    name, category = (getattr(datamodule, key, None) for key in ("name", "category"))
    return generate_output_filename(image_path, "", dataset_name=name, category=category, mkdir=False)
