"""The result of a photograph."""

import json
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anoclip_anomalib.files import atomic_write, plain
from anoclip_anomalib.inspection.contrast import Contrast, RunContrast
from anoclip_anomalib.inspection.decision import Decision
from anoclip_anomalib.inspection.regions import Region, find_regions


class Inspection:
    """What the inspector says about a photograph.

    Args:
        path: Its file; ``None`` if it came as an array.
        score: How anomalous it is, in the model's units; NaN with a fault.
        anomaly_map: (h, w) float32 at the model's size; ``None`` with a fault.
        decision: Thresholds; ``None``: there is no verdict.
        contrast: (low, high) of the values in pictures, or what gathers it; ``None`` for the map's own.
        photograph: (H, W, 3) uint8, or a function that gives it.
        fault: Why it could not be inspected.

    Attributes:
        path: As given.
        score: As given.
        anomaly_map: As given.
        fault: As given; then the score is NaN and there is nothing else.
        is_defect: Whether it is called a defect; ``None`` without a threshold.
        threshold: Scores above it are defects; ``None``: there is none.
    """

    def __init__(
        self,
        path: Path | None,
        score: float,
        anomaly_map: np.ndarray | None,
        *,
        decision: Decision | None = None,
        contrast: Contrast | RunContrast | None = None,
        photograph: "np.ndarray | Callable[[], np.ndarray] | None" = None,
        fault: str | None = None,
    ) -> None:
        self.path, self.score, self.anomaly_map, self.fault = path, score, anomaly_map, fault
        self._contrast, self._photograph = contrast, photograph
        self._decision = judged = decision if fault is None else None
        self.threshold = None if judged is None else judged.image_threshold
        self.is_defect = None if judged is None else judged.is_defect(score)

    def __repr__(self) -> str:
        said = self.fault if self.fault else f"score={self.score:.4g}, {self.verdict or 'no verdict'}"
        return f"Inspection({str(self.path) if self.path else 'photograph'!r}: {said})"

    @property
    def verdict(self) -> str:
        """``"defect"``, ``"good"``, or ``""`` without a threshold."""
        return "" if self.is_defect is None else "defect" if self.is_defect else "good"

    @property
    def contrast(self) -> Contrast:
        """(low, high) of the values in pictures: that of the good images, or of all photographs of the run so far.

        Raises:
            ValueError: If the photograph could not be inspected.
        """
        if self.anomaly_map is None:
            raise ValueError(self.fault or "The model gave no map")
        found = self._contrast.limits if isinstance(self._contrast, RunContrast) else self._contrast
        if found is None:
            own = RunContrast()
            own.update(self.anomaly_map)
            found = own.limits
            assert found is not None
        return found

    @property
    def photograph(self) -> np.ndarray:
        """(H, W, 3) uint8, upright; of a file that is not held in memory, read again.

        Raises:
            OSError: If it has gone, or never could be read.
        """
        if self._photograph is None:
            raise OSError(self.fault or "There is no photograph")
        return self._photograph() if callable(self._photograph) else self._photograph

    def hold(self) -> None:
        """Keep the pixels of a file in memory until :meth:`release`; errors as :attr:`photograph`."""
        self._photograph = self.photograph

    def release(self) -> None:
        """Let go of the pixels of a file; :attr:`photograph` reads them again."""
        if self.path is not None and self._photograph is not None:
            _ = self.size
            self._photograph = partial(_read_again, self.path)

    @cached_property
    def size(self) -> tuple[int, int]:
        """(height, width) of the photograph in pixels."""
        height, width = self.photograph.shape[:2]
        return height, width

    @property
    def heatmap(self) -> np.ndarray:
        """(H, W) float32 at the photograph's size, in the model's units; made anew each time, so that results are small.

        Raises:
            ValueError: If the photograph could not be inspected.
        """
        from anoclip_anomalib.evaluation.resolution import resize_map

        if self.anomaly_map is None:
            raise ValueError(self.fault or "The model gave no map")
        return resize_map(self.anomaly_map, self.size)

    @cached_property
    def pixel_threshold(self) -> float | None:
        """Values of the heatmap above it are outlined on *this* photograph.

        ``None`` if it is called good, or nothing is known; see :class:`anoclip_anomalib.inspection.decision.Decision`.
        """
        return None if self._decision is None or not self.is_defect else self._decision.marked_above(self.score, self.heatmap)

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """Connected areas above the pixel threshold, highest peak first; none without one."""
        return () if self.pixel_threshold is None else find_regions(self.heatmap, self.pixel_threshold)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; what is not finite is ``None``."""
        said = {name: getattr(self, name) for name in ("path", "score", "is_defect", "threshold", "pixel_threshold")}
        return plain({**said, "regions": [region.as_dict() for region in self.regions], "fault": self.fault})

    def plot(self, caption: str | None = None) -> Image.Image:
        """The photograph beside its heat; notebooks show it, ``.show()`` opens a window.

        Args:
            caption: What to write below; ``None`` for score and verdict.
        """
        from anoclip_anomalib.inspection.pictures import composite

        return composite(self, caption=caption)

    def save(self, folder: str | Path) -> Path:
        """Write the picture of :meth:`plot`, and beside it :meth:`as_dict` as JSON.

        Nothing is overwritten: a name that is taken gets ``-2``, ``-3``, ...

        Args:
            folder: Created if needed. The names below it are that of the photograph's folder and its own.

        Returns:
            The picture's path.
        """
        picture = self.plot()
        path = _free_name(Path(folder), self.path)
        try:
            with atomic_write(path) as drawn, atomic_write(path.with_suffix(".json")) as said:
                said.write_text(json.dumps(self.as_dict(), indent=2) + "\n", encoding="utf-8")
                picture.save(drawn)
        except BaseException:
            path.unlink(missing_ok=True)  # the empty file that keeps the name
            path.with_suffix(".json").unlink(missing_ok=True)
            raise
        return path


def _read_again(path: Path) -> np.ndarray:
    from anoclip_anomalib.data.images import read_image
    from anoclip_anomalib.inspection.photographs import to_bytes

    return to_bytes(read_image(path))


def _free_name(folder: Path, photo: Path | None) -> Path:
    """Take a name that no file has, by making the file."""
    from anoclip_anomalib.evaluation.output_names import OutputNames, below_root

    names = OutputNames()
    wanted = Path("photograph") if photo is None else below_root(photo, None)
    while True:
        path = folder / names.unique(wanted, ".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            path.touch(exist_ok=False)
            return path
