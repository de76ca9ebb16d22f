"""Fair evaluation: the field's metrics from raw scores, thresholds without labels, `predictions.csv`.

Knows anomalib's data classes and none of our models. Names are loaded when they are first used.
"""

import importlib
from typing import Any

_WHERE = {
    "AUPRO": "metrics",
    "AUPRO_paper": "metrics",
    "ImageAP": "metrics",
    "ImageAUROC": "metrics",
    "ImageF1Max": "metrics",
    "PixelAP": "metrics",
    "PixelAUROC": "metrics",
    "PixelF1Max": "metrics",
    "SegF1": "metrics",
    "StreamingEvaluator": "evaluator",
    "standard_metrics": "evaluator",
    "PredictionsCsv": "predictions",
    "RawEvaluation": "raw_evaluation",
    "Threshold": "thresholds",
    "ThresholdRule": "thresholds",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
