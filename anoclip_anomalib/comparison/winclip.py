"""The former place of :mod:`anoclip_anomalib.baselines.winclip`: suites and configurations may still name it."""

from anoclip_anomalib.baselines.winclip import RepairedWinClip

__all__ = ["RepairedWinClip"]
