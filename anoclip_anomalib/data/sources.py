"""What learned weights are trained on: a YAML that names labelled data sets. Read and checked without importing torch."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from anoclip_anomalib.checks import did_you_mean, refuse
from anoclip_anomalib.files import read_yaml


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """One anomalib image datamodule.

    Attributes:
        class_path: Short name or full path.
        init_args: Its arguments besides the category.
        categories: Those that are used; empty for all that are on disk.
    """

    class_path: str
    init_args: dict[str, Any] = field(default_factory=dict)
    categories: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GeneratedSpec:
    """Images that are drawn when they are asked for, half of them with a defect.

    Attributes:
        images: In an epoch, an even number: each part is shown as it should be and with a defect.
        photos: Whether photographed surfaces from free packages of Debian are used; they are fetched by name.
        plain: Part of them that are like those of the bundled encoder's training: one part on a quiet ground.
    """

    images: int
    photos: bool = False
    plain: float = 0.4


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source, as its YAML says it.

    Attributes:
        name: As tables shall call it, such as ``"VisA"``.
        split: Of the data sets: ``"test"`` (labelled, with masks).
        data: The data sets.
        generated: Images that are drawn, if that is a source too.
        shots: Images of each class, half of them anomalous; ``None`` for all.
        class_balanced: Draw all classes equally often.
        held_out: Part of the images, of each class and label, that is kept for choosing an epoch; 0 for none.
        seed: Of the choice of shots and of what is held out.
    """

    name: str
    split: str = "test"
    data: tuple[DataSpec, ...] = ()
    generated: GeneratedSpec | None = None
    shots: int | None = None
    class_balanced: bool = False
    held_out: float = 0.0
    seed: int = 111


def read_source(path: str | Path, *, root: str | Path | None = None) -> Source:
    """Read a source.

    Args:
        path: A YAML file, see ``configs/sources/``.
        root: Where the data lies, instead of the ``root`` in the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no source; the message says where.
    """
    path = Path(path)
    content = read_yaml(path, "source", "configs/ has examples")
    _check_keys(path, content, Source)
    data, generated = content.get("data") or [], content.get("generated")
    if not data and not generated:
        raise ValueError(f"{path} names no data: it needs `data` (a list of data sets) or `generated`")
    if not isinstance(data, list):
        raise ValueError(f"{path}: `data` must be a list of data sets")
    content["data"] = tuple(_data_spec(path, entry, root) for entry in data)
    content["generated"] = _generated_spec(path, generated) if generated else None
    content["name"] = str(content.get("name") or path.stem)
    content["split"] = str(content.get("split", Source.split))
    content["class_balanced"] = bool(content.get("class_balanced"))
    source = Source(**content)
    _check_values(path, source)
    return source


def _data_spec(path: Path, entry: Any, root: str | Path | None) -> DataSpec:
    if not isinstance(entry, dict) or not isinstance(entry.get("class_path"), str):
        wanted = "a mapping with `class_path`, `init_args` and `categories`"
        raise ValueError(f"{path}: each entry of `data` must be {wanted}; got {entry!r}")
    _check_keys(path, entry, DataSpec)
    arguments, categories = entry.get("init_args") or {}, entry.get("categories") or ()
    if not isinstance(arguments, dict) or isinstance(categories, str) or not all(isinstance(c, str) for c in categories):
        wanted = "`init_args` must be a mapping and `categories` a list of names"
        raise ValueError(f"{path}: {wanted}; got {arguments!r} and {categories!r}")
    if root is not None:
        arguments = arguments | {"root": str(root)}
    return DataSpec(class_path=entry["class_path"], init_args=arguments, categories=tuple(categories))


def _generated_spec(path: Path, entry: Any) -> GeneratedSpec:
    if not isinstance(entry, dict):
        raise ValueError(f"{path}: `generated` must be a mapping with `images`, `photos` and `plain`; got {entry!r}")
    _check_keys(path, entry, GeneratedSpec)
    images, photos, plain = entry.get("images"), entry.get("photos", False), entry.get("plain", GeneratedSpec.plain)
    share = isinstance(plain, int | float) and 0 <= plain <= 1
    if not isinstance(images, int) or images < 2 or images % 2 or not isinstance(photos, bool) or not share:
        raise ValueError(
            f"{path}: `generated` needs `images` (in an epoch, an even number), `photos` (true or false) and `plain` (a part "
            f"from 0 to 1); got {entry!r}"
        )
    return GeneratedSpec(images=images, photos=photos, plain=plain)


def _check_keys(path: Path, content: dict, kind: type) -> None:
    known = [field.name for field in fields(kind)]
    for key in content:
        if key not in known:
            hint = did_you_mean(str(key), known, f"known: {', '.join(known)}")
            raise ValueError(f"{path}: unknown key {key!r}{hint}")


def _check_values(path: Path, source: Source) -> None:
    shots, held_out = source.shots, source.held_out
    faults = {
        f"split={source.split!r} has no labels and masks; only 'test' has": source.split != "test",
        f"shots={shots!r} must be an even number of at least 2 (half normal, half anomalous)": shots is not None
        and not (isinstance(shots, int) and shots >= 2 and shots % 2 == 0),
        f"held_out={held_out!r} must lie in [0, 1)": not (isinstance(held_out, int | float) and 0 <= held_out < 1),
        f"seed={source.seed!r} must be a whole number from 0 on": not isinstance(source.seed, int) or source.seed < 0,
    }
    refuse(faults, f"{path}: ")
