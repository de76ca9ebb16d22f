"""Fair evaluation: the field's metrics from raw scores, thresholds without labels, `predictions.csv`.

Knows anomalib's data classes and none of our models. Names are loaded when they are first used.
"""

import importlib
from typing import Any

_NAMES = {
    "evaluator": ("StreamingEvaluator",),
    "metrics": (
        *("ImageAUROC", "ImageF1Max", "ImageAP", "PixelAUROC", "PixelF1Max", "PixelAP"),
        *("AUPRO", "AUPRO_paper", "SegF1", "standard_metrics"),
    ),
    "predictions": ("PredictionsCsv",),
    "raw_evaluation": ("RawEvaluation",),
    "thresholds": ("Threshold", "ThresholdRule"),
}
__all__ = sorted(name for names in _NAMES.values() for name in names)


def __getattr__(name: str) -> Any:
    for module, names in _NAMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
