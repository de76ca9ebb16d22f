"""The VAND 3.0 few-shot kit's ``model.py``."""
