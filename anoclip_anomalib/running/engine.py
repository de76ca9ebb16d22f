"""An anomalib model and its Engine, set up so that nothing but the model's own work is done and measured."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anomalib import LearningType
from anomalib.engine import Engine
from anomalib.models import AnomalibModule
from lightning.pytorch import Callback

from anoclip_anomalib.running.quiet import quiet
from anoclip_anomalib.running.signals import interruptible

_PARTS = ("post_processor", "visualizer", "evaluator", "raw_evaluator")


def learns(model: AnomalibModule) -> bool:
    """Whether a model must be fitted before it can be tested."""
    return model.learning_type not in (LearningType.ZERO_SHOT, LearningType.FEW_SHOT)


def strip(model: AnomalibModule, keep: Collection[str] = ()) -> None:
    """Take away what changes, draws or measures a model's scores: it costs time and memory, and hides the raw scores.

    Args:
        model: Changed in place.
        keep: Parts that stay: ``evaluator`` where early stopping watches its metrics, ``post_processor`` where a checkpoint
            holds its state.
    """
    for part in _PARTS:
        if part not in keep and hasattr(model, part):
            setattr(model, part, None)


def build_engine(
    folder: str | Path, callbacks: Sequence[Callback], trainer: dict[str, Any] | None = None, *, keeps_nothing: bool = False
) -> Engine:
    """An Engine without logger, bar and summary.

    Args:
        folder: Where it may write.
        callbacks: Ours first; they run before the model's own, so that they see raw scores.
        trainer: More arguments of the Trainer.
        keeps_nothing: Nothing is learned: no checkpoint with all weights, no logging.
    """
    options = dict(trainer or {})
    if keeps_nothing:
        options = {key: value for key, value in options.items() if not key.startswith("enable_")} | {"barebones": True}
    else:
        options = {"enable_model_summary": False} | options | {"enable_progress_bar": False}
    return Engine(callbacks=list(callbacks), default_root_dir=folder, logger=False, **options)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Around what an Engine does: other packages are quiet, and signals end it as they should."""
    with quiet(), interruptible():
        yield


def predict_raw(
    model: AnomalibModule, collect: Callback, callbacks: Sequence[Callback], trainer: dict[str, Any], folder: Path, **given: Any
) -> None:
    """Raw scores and nothing else: pictures and metrics of unlabelled images would cost time and fail.

    Args:
        model: Stripped of all but its post-processor, whose state a checkpoint may hold.
        collect: Gets each image's score and map, before the model's own callbacks change them.
        callbacks: The model's own, such as test-time adaptation.
        trainer: More arguments of the Trainer.
        folder: Where the Engine may write.
        **given: Data and checkpoint, as ``Engine.predict`` takes them.
    """
    strip(model, keep={"post_processor"})
    # Zero-shot models are validated before they predict, to fit a normalisation that is not used here: no batches for it.
    engine = build_engine(folder, [collect, *callbacks], {**trainer, "limit_val_batches": 0})
    with undisturbed():
        engine.predict(model, return_predictions=False, **given)
