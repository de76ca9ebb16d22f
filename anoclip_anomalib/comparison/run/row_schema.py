"""What a row holds, all of it; row.py makes rows, folder.py writes and reads them.

Rows are plain JSON mappings. What older rows may lack is marked NotRequired; what newer rows hold besides is passed over.
"""

from functools import cache
from typing import Any, Literal, TypeAlias

from pydantic import TypeAdapter, ValidationError
from typing_extensions import NotRequired, TypedDict

FORMAT = 1


class RowJob(TypedDict):
    """Names of the job's parts, as in the suite."""

    model: str
    data: str
    category: str
    seed: int


class RowThreshold(TypedDict):
    """A threshold (``None`` if there was nothing to choose it from) and its rule in words."""

    value: float | None
    rule: str


class RowCurve(TypedDict):
    """Points for drawing, both axes 0..1."""

    x: list[float]
    y: list[float]


class RowHistogram(TypedDict):
    """Image scores in equal bins: lowest and highest edge, and images in each bin; all empty without labels."""

    edges: list[float]
    normal: list[int]
    anomalous: list[int]


class RowSpeed(TypedDict, total=False):
    """Seconds for one image (median, 95th percentile), for training and for the test; images per second in batches.

    Also the cores that other processes kept busy meanwhile.
    """

    median_s: float | None
    p95_s: float | None
    timed_images: int
    warmup_images: int
    images_per_second: float | None
    batch_size: int
    fit_s: float
    test_s: float
    device: str
    threads: int
    other_load: float | None


class RowMemory(TypedDict, total=False):
    """Peak memory in MiB: of the process, above its start, and reserved on GPUs (``None`` without one)."""

    cpu_peak_mib: float
    cpu_extra_mib: float
    gpu_peak_mib: float | None


class RowProvenance(TypedDict, total=False):
    """Where the figures come from, see provenance.py."""

    method: dict[str, Any]
    preprocessing: dict[str, Any]
    learning_type: str
    weights_digest: str
    versions: dict[str, Any]
    commit: str | None
    config: dict[str, Any]
    seed: int
    hardware: dict[str, Any]
    time: str
    note: str | None


class RowError(TypedDict):
    """What ended a job."""

    type: str
    message: str
    traceback: NotRequired[str]


class _Row(TypedDict):
    """What every row holds."""

    format: int
    id: str
    job: RowJob
    duration_s: NotRequired[float]


class FailedRow(_Row):
    """The row of a job that failed."""

    status: Literal["failed"]
    error: RowError


class DoneRow(_Row):
    """The row of a finished job: metrics by the names of ``evaluation.registry``, 0..1; ``None`` is explained in ``undefined``.

    ``images``: path below the data root, score, label (-1 unknown) and AUROC inside the map; ``samples``: path, label, score
    and quality of the images in the report's pictures; ``map_scale``: the scores of a heatmap's darkest and brightest value.
    """

    status: Literal["done"]
    metrics: dict[str, float | None]
    speed: RowSpeed
    provenance: RowProvenance
    undefined: NotRequired[dict[str, str]]
    thresholds: NotRequired[dict[Literal["image", "pixel"], RowThreshold]]
    counts: NotRequired[dict[str, int]]
    map_size: NotRequired[tuple[int, int] | None]
    resolution: NotRequired[str]
    image_score: NotRequired[str]
    curves: NotRequired[dict[str, RowCurve]]
    histogram: NotRequired[RowHistogram]
    images: NotRequired[list[tuple[str, float, int, float | None]]]
    samples: NotRequired[list[tuple[str, int, float, float | None]]]
    map_scale: NotRequired[tuple[float, float] | None]
    memory: NotRequired[RowMemory]
    parameters: NotRequired[dict[str, int]]


Row: TypeAlias = DoneRow | FailedRow

_adapter = cache(TypeAdapter)


def row_fault(row: Any, job_id: str) -> str | None:
    """Why something that was read is not this job's row; ``None`` if it is."""
    if not isinstance(row, dict):
        return "no mapping"
    if row.get("format") != FORMAT:
        return f"format {row.get('format')!r}, expected {FORMAT}"
    if row.get("id") != job_id:
        return f"it is of job {row.get('id')!r}"
    if row.get("status") not in ("done", "failed"):
        return "parts are missing"
    try:
        _adapter(DoneRow if row["status"] == "done" else FailedRow).validate_python(row)
    except ValidationError as error:
        faults = [(".".join(map(str, fault["loc"])), fault["type"], fault["msg"]) for fault in error.errors(include_url=False)]
        missing = [place for place, kind, _ in faults if kind == "missing"]
        wrong = [f"{place}: {message}" for place, kind, message in faults if kind != "missing"]
        return "; ".join(([f"{', '.join(missing)} missing"] if missing else []) + wrong)
    return None
