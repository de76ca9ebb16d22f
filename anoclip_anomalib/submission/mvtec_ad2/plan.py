"""What an MVTec AD 2 submission is made of, and where its parts lie."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from anoclip_anomalib.evaluation.thresholds import ThresholdRule
from anoclip_anomalib.submission.mvtec_ad2.layout import IMAGES_PER_SPLIT
from anoclip_anomalib.submission.mvtec_ad2.predict import PredictSettings
from anoclip_anomalib.submission.provenance import check_name


@dataclass(frozen=True)
class Submission:
    """What to submit and where to write it.

    Attributes:
        name: Name of the folder and of the archive.
        out: The folder that both go to.
        predict: Model and data.
        threshold: The rule for the PNGs, fitted on good validation images.
        linear_share: See ``fit_rank_map``.
        counts: Objects and images per split; the leaderboard's by default.
        compression: TIFF compression, or None.
        compression_level: The archive's.
        keep_raw: Keep the raw maps when all is done.
        poll: Seconds between two looks at what other processes do.
    """

    name: str
    out: Path
    predict: PredictSettings
    threshold: ThresholdRule = field(default_factory=ThresholdRule)
    linear_share: float = 0.5
    counts: Mapping[str, int] = field(default_factory=lambda: dict(IMAGES_PER_SPLIT))
    compression: str | None = None
    compression_level: int = 6
    keep_raw: bool = False
    poll: float = 2.0

    def __post_init__(self) -> None:
        check_name(self.name)

    @property
    def folder(self) -> Path:
        """The submission folder."""
        return self.out / self.name

    @property
    def work(self) -> Path:
        """Raw maps, claims and finished objects' figures, beside the submission folder."""
        return self.out / f"{self.name}.work"

    @property
    def archive(self) -> Path:
        """The packed submission."""
        return self.out / f"{self.name}.tar.gz"

    @property
    def is_open(self) -> bool:
        """Whether the work folder is there; it goes when all is packed."""
        return (self.work / "settings.json").is_file()

    def figures_path(self, object_name: str) -> Path:
        """The file that tells that an object is done."""
        return self.work / "done" / f"{object_name}.json"

    def left(self) -> list[str]:
        """Objects that are not done."""
        return [name for name in self.counts if not self.figures_path(name).is_file()]

    def settings(self) -> dict[str, Any]:
        """What decides the result, as plain data."""
        return {
            "configuration": self.predict.config.result_settings(),
            "fit": self.predict.fit,
            "threshold": asdict(self.threshold),
            "linear_share": self.linear_share,
            "compression": self.compression,
        }
