"""A loaded CLIP that a model keeps beside its own weights."""

from collections.abc import Mapping
from typing import Any

from anoclip_anomalib.clip import LoadedClip, load_clip

_NAMES = ("backbone", "pretrained", "activation")


class ClipReference:
    """Keeps a loaded CLIP for later text embeddings, without being part of the model's state.

    A deep copy shares the CLIP, which nobody changes. A pickle holds its names and digest only: it is loaded again when it
    is needed, and refused if its file was replaced meanwhile.

    Args:
        clip: The loaded CLIP; ``None`` to load it when it is needed.
        names: Arguments of :func:`anoclip_anomalib.clip.load_clip`, where there is no CLIP.
        digest: SHA-256 that the CLIP must have, where there is none.
    """

    def __init__(self, clip: LoadedClip | None, names: Mapping[str, Any] | None = None, digest: str | None = None) -> None:
        self._clip = clip
        self._names = dict(names) if clip is None and names else {name: getattr(clip, name) for name in _NAMES}
        self._digest = digest if clip is None else clip.digest

    @property
    def clip(self) -> LoadedClip:
        """The CLIP.

        Raises:
            RuntimeError: If the weights that are there now are others than the model was made with.
        """
        if self._clip is None:
            clip = load_clip(**self._names)
            if clip.digest != self._digest:
                raise RuntimeError(
                    f"The weights {clip.pretrained} of {clip.backbone} were replaced since this model was made (SHA-256 "
                    f"{clip.digest}, then {self._digest}): their text would not fit the model's image tower. Make it anew"
                )
            self._clip = clip
        return self._clip

    def __deepcopy__(self, memo: dict) -> "ClipReference":
        return self

    def __reduce__(self) -> tuple:
        return ClipReference, (None, self._names, self._digest)
