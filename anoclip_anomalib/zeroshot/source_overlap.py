"""Whether a test is about what learned weights were trained on."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anoclip_anomalib.data.samples import image_digest
from anoclip_anomalib.zeroshot.learned_weights import NOT_KNOWN, TrainingFacts

_GENERAL = {"", "folder", "folder3d", "tabular", "datumaro", "predict", "notknown"}
"""Datamodules that say nothing about the data set."""


def source_overlap(facts: TrainingFacts, datamodule: Any, images: Sequence[str]) -> str | None:
    """What a test has in common with a source, if anything.

    A data set is recognised by its datamodule's class or name, whatever the category: its other categories were taken by
    the same camera. A source of several data sets is written "MVTec AD + ColonDB". Under another name, and in a plain
    folder, images are recognised by the digest of their files.

    Args:
        facts: What the weights were trained on.
        datamodule: Of the test; ``None`` if there is none.
        images: Paths of the test images.

    Returns:
        The overlap in words; ``None`` if there is none that could be seen.
    """
    sources = {_plain(name) for name in re.split(r"[+,;&]| and ", facts.source)} if facts.source != NOT_KNOWN else set()
    for one in facts.data_sets:
        sources |= {_plain(str(one.get("class", "")).rpartition(".")[2]), _plain(str(one.get("name", "")))}
    names = (type(datamodule).__name__, getattr(datamodule, "name", "")) if datamodule is not None else ()
    if sources & {_plain(str(name)) for name in names} - _GENERAL:
        return f"the data set {facts.source}"
    known = set(facts.image_digests)
    same = sum(image_digest(path) in known for path in images if Path(path).is_file()) if known else 0
    return f"{same} of the {len(images)} images" if same else None


def _plain(name: str) -> str:
    """Letters and digits alone: "MVTec AD" is MVTecAD, and "MVTec", as papers say, too."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return "mvtecad" if plain == "mvtec" else plain
