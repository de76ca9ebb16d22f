"""The file for the VAND few-shot kit with its provenance, and a try of anybody's."""

from pathlib import Path
from typing import Any

from anoclip_anomalib.submission.provenance import write_provenance
from anoclip_anomalib.submission.vand.fewshot import Model, check_model_file, write_model_file


def make_model_file(path: Path, settings: dict[str, Any]) -> tuple[list[float], Path]:
    """Write ``model.py``, try it as the kit would, and write its provenance.

    Args:
        path: Where it goes.
        settings: Arguments of ``Model``; plain data.

    Returns:
        The scores of two random images, and the provenance's path.

    Raises:
        ValueError: If the model does not take the settings.
    """
    try:
        model = Model(**settings)
    except TypeError as error:
        raise ValueError(f"AnoClip does not take these arguments: {error}") from error
    seen = check_model_file(write_model_file(path, settings))
    facts = {
        "leaderboard": "VAND 3.0 category 2 (few-shot, MVTec LOCO)",
        "settings": settings,
        "weights_digest": model.anoclip.weights_digest,
        "threshold_rule": "none: the kit measures F1-max",
    }
    return seen["scores"], write_provenance(path, facts, path)


def try_model_file(path: str | Path) -> tuple[list[float], str | None]:
    """Try a ``model.py``, whoever wrote it; this runs its code.

    Returns:
        The scores of two random images, and what is wrong with the file, if anything is.
    """
    try:
        return check_model_file(path)["scores"], None
    except Exception as error:  # noqa: BLE001 (foreign code: whatever it raises is what is wrong with it)
        return [], f"{type(error).__name__}: {error}"
