"""Where ``model.py`` files that were written before this folder had rooms look for ``Model``."""

from anoclip_anomalib.submission.vand.fewshot import Model as Model
