"""Predicting the images of one object with any anomalib model, as raw maps on disk."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anoclip_anomalib.running.collect import Collect
from anoclip_anomalib.running.engine import build_engine, learns, strip, undisturbed
from anoclip_anomalib.submission.model_config import ModelConfig
from anoclip_anomalib.submission.mvtec_ad2.data import ObjectData
from anoclip_anomalib.submission.mvtec_ad2.raw_maps import RawMapStore
from anoclip_anomalib.versions import weights_digest


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
        The digest of the model's weights, and the facts that it states about its method (what it was trained on); None if there
        was nothing to do.

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
    # Raw scores are all that is asked for; pictures and metrics of unlabelled images would cost time and fail.
    strip(model, keep={"post_processor"})
    own = ("root", "category", "test_type")
    arguments = {key: value for key, value in settings.config.data_arguments.items() if key not in own}
    data = ObjectData(left, root=settings.root, category=object_name, **arguments)
    folder = store.folder / "engine"
    keep = Collect(lambda image, score, scores: store.write(image, scores, score), maps=True, advance=progress)
    with undisturbed():
        if fits:
            build_engine(folder, [], trainer).fit(model, datamodule=data)
        # Zero-shot models are validated before they predict, to fit a normalisation that is not used here: no batches for it.
        engine = build_engine(folder, [keep, *callbacks], {**trainer, "limit_val_batches": 0})
        engine.predict(model, datamodule=data, ckpt_path=checkpoint, return_predictions=False)
    if missing := [image for image in left if not store.has(image)]:
        raise ValueError(f"{type(model).__name__} left out {len(missing)} images, {missing[0]} among them")
    facts = getattr(model, "method_facts", None)
    changed = {key: value for callback in callbacks for key, value in getattr(callback, "changed_facts", {}).items()}
    return {"weights_digest": weights_digest(model), "method": (asdict(facts) if facts is not None else {}) | changed}
