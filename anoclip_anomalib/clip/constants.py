"""Numbers that every CLIP shares."""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Normalisation of RGB images in [0, 1] (openai/CLIP ``clip.py``; the same in open_clip's ``constants.py``)."""
