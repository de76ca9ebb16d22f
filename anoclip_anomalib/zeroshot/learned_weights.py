"""Files of learned weights: safetensors with a header of facts, so that a trained method is zero-shot at test time."""

import json
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from anoclip_anomalib.clip import LoadedClip, load_clip
from anoclip_anomalib.clip.declared import check_declared_size
from anoclip_anomalib.clip.state_dict import WeightFileError, check_finite, state_dict_digest
from anoclip_anomalib.files import atomic_write
from anoclip_anomalib.versions import versions
from anoclip_anomalib.zeroshot.features import as_size

HEADER = "anoclip_anomalib"
DEMO = "demo"
NOT_KNOWN = "not known"
Module = TypeVar("Module", bound=torch.nn.Module)


@dataclass(frozen=True, kw_only=True)
class TrainingFacts:
    """What learned weights are and what they were trained on.

    Attributes:
        method: ``"aaclip"``, ...
        mode: Variant of the method.
        backbone: open_clip architecture that they belong to.
        pretrained: Its weights' tag.
        backbone_digest: SHA-256 of the CLIP weights that they were trained with; empty if not known (authors' files).
        activation: Of CLIP's MLPs: ``"as_trained"``, ``"gelu"`` or ``"quick_gelu"``.
        image_size: Side in pixels.
        source: Data set that they were trained on, such as ``"VisA"``.
        categories: Of the source.
        split: Of the source.
        images: How many images.
        masks: Whether masks were used.
        seed: Of the training.
        data_sets: The data sets in the source: ``class``, ``name`` and ``categories`` of each.
        image_digests: What :func:`anoclip_anomalib.data.samples.image_digest` says of each image of the source.
        settings: What else the method needs to know (taps, mixing, ...) and how it was trained.
        halves: Digest of each part of the weights; ``"image_of"``: digest of the text half that the image half was trained
            with.
        versions: Of the packages that trained.
    """

    method: str
    mode: str = "clean"
    backbone: str
    pretrained: str = NOT_KNOWN
    backbone_digest: str = ""
    activation: str = "as_trained"
    image_size: int = 0
    source: str = NOT_KNOWN
    categories: list[str] = field(default_factory=list)
    split: str = NOT_KNOWN
    images: int = 0
    masks: bool = True
    seed: int | None = None
    data_sets: list[dict[str, Any]] = field(default_factory=list)
    image_digests: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    halves: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=versions)

    @property
    def auxiliary_data(self) -> str:
        """The fact for tables, such as ``"VisA test split, with masks"``."""
        if self.source == NOT_KNOWN:
            return NOT_KNOWN
        split = f" {self.split} split" if self.split not in ("", NOT_KNOWN) else ""
        return f"{self.source}{split}, with{'' if self.masks else 'out'} masks"


@dataclass(frozen=True)
class LearnedWeights:
    """Learned weights as they were read.

    Attributes:
        tensors: Name -> tensor.
        facts: The header.
        origin: The file.
    """

    tensors: dict[str, torch.Tensor]
    facts: TrainingFacts
    origin: str

    @property
    def digest(self) -> str:
        """SHA-256 of the tensors."""
        return state_dict_digest(self.tensors)

    def check_backbone(self, backbone: str | None, activation: str | None) -> None:
        """Raise a ``ValueError`` for another backbone or activation than that of the training, before anything is loaded."""
        for what, asked in (("backbone", backbone), ("activation", activation)):
            own = getattr(self.facts, what)
            if asked not in (None, own):
                raise ValueError(
                    f"The adapters {self.origin} were trained with {what} {own!r}, not {asked!r}; leave {what} out to use it"
                )

    def clip_for(
        self, clip: LoadedClip | None, pretrained: str | None, image_size: int | tuple[int, int] | None
    ) -> tuple[LoadedClip, tuple[int, int] | None]:
        """The CLIP of the training, unless one is given, and its images' (height, width), unless a size is asked for."""
        size = as_size(image_size or self.facts.image_size or None)
        if clip is None:
            check_declared_size(self.facts.backbone, size)
            activation: Any = self.facts.activation
            clip = load_clip(self.facts.backbone, pretrained or self.facts.pretrained, activation=activation)
        return clip, size

    def check_clip(self, clip: LoadedClip) -> None:
        """Raise a ``ValueError`` if the CLIP's weights are not those of the training, as far as the header tells."""
        if self.facts.backbone_digest not in ("", clip.digest):
            raise ValueError(
                f"The adapters {self.origin} were trained with other weights of {self.facts.backbone} "
                f"(SHA-256 {self.facts.backbone_digest[:12]}...) than those loaded ({clip.digest[:12]}...)"
            )

    def part(self, name: str) -> dict[str, torch.Tensor]:
        """The tensors whose names begin with ``name.``, without it."""
        return {key.removeprefix(f"{name}."): tensor for key, tensor in self.tensors.items() if key.startswith(f"{name}.")}


def save_learned(path: str | Path, tensors: Mapping[str, torch.Tensor], facts: TrainingFacts) -> Path:
    """Write learned weights, beside and then renamed.

    Args:
        path: A ``.safetensors`` file.
        tensors: Name -> tensor.
        facts: The header.

    Raises:
        ValueError: If the file's name does not end in ``.safetensors``.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"Learned weights are kept as .safetensors, not as {path.name}")
    content = {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        save_file(content, temporary, metadata={HEADER: json.dumps(asdict(facts), sort_keys=True)})
    return path


def load_learned(path: str | Path, method: str | Collection[str]) -> LearnedWeights:
    """Read learned weights.

    Args:
        path: A ``.safetensors`` file that this package wrote, or ``"demo"`` for those bundled for the demo encoder.
        method: What they must be for, or several of which one.

    Raises:
        FileNotFoundError: If there is no such file.
        WeightFileError: If it is damaged, has no header, is for another method, or holds values that are not finite.
    """
    bundled = files("anoclip_anomalib") / "bundled" / "weights" / f"{method}_demo.safetensors"
    with ExitStack() as stack:
        found = stack.enter_context(as_file(bundled)) if str(path) == DEMO else Path(path).expanduser()
        if not found.is_file():
            raise FileNotFoundError(f"No such file of learned weights: {found}")
        try:
            file = stack.enter_context(safe_open(found, "pt"))
        except (SafetensorError, OSError, ValueError) as error:
            raise WeightFileError(
                f"{found} is no file of learned weights ({error}); it must be a .safetensors that `anoclip train` or "
                "`anoclip convert` wrote (authors' .pth files are converted by `anoclip convert`)"
            ) from error
        facts = _facts(file.metadata(), str(path), method)
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    check_finite(tensors, f"File of learned weights {path}")
    return LearnedWeights(tensors, facts, str(path))


def _facts(metadata: Mapping[str, str] | None, name: str, method: str | Collection[str]) -> TrainingFacts:
    try:
        header = json.loads((metadata or {})[HEADER])
        names = {entry.name for entry in fields(TrainingFacts)}
        facts = TrainingFacts(**{key: value for key, value in header.items() if key in names})
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise WeightFileError(
            f"{name} has no header of anoclip_anomalib that could be read: it does not say what it was trained on. "
            "`anoclip train` and `anoclip convert` write one"
        ) from error
    known = [method] if isinstance(method, str) else list(method)
    if facts.method not in known:
        raise WeightFileError(f"{name} holds weights of the method {facts.method!r}, not of {' or '.join(map(repr, known))}")
    return facts


def fill(module: Module, state: Mapping[str, torch.Tensor], fault: str) -> Module:
    """Put weights into a module.

    Args:
        module: Made for them.
        state: Name -> tensor.
        fault: What the error says before it names what does not fit.

    Returns:
        The module.

    Raises:
        WeightFileError: If tensors are missing, unknown or of another shape.
    """
    own, given = ({name: tensor.shape for name, tensor in one.items()} for one in (module.state_dict(), state))
    faults = sorted(name for name in own.keys() | given.keys() if own.get(name) != given.get(name))
    if faults:
        raise WeightFileError(f"{fault}: {', '.join(faults[:3])} missing, unknown or of another shape")
    module.load_state_dict(dict(state))
    return module
