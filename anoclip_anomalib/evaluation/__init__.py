"""Fair evaluation: the field's metrics from raw scores, thresholds without labels, ``predictions.csv``.

Knows anomalib's data classes and none of our models. Names are loaded when they are first used.
"""

from anoclip_anomalib.registry import lazy

_NAMES = {
    "evaluator": "StreamingEvaluator",
    "metrics": "ImageAUROC ImageF1Max ImageAP PixelAUROC PixelF1Max PixelAP AUPRO AUPRO_paper SegF1 standard_metrics",
    "predictions": "PredictionsCsv",
    "raw_evaluation": "RawEvaluation",
    "thresholds": "Threshold ThresholdRule",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = sorted(_MODULES)
__getattr__ = lazy(__name__, _MODULES)
