"""Kaputt 2 (Codabench): a zip with one CSV, ``capture_id,pred``: ids, scores and the writer."""

import math
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from anoclip_anomalib.files import atomic_write

HEADER = ["capture_id", "pred"]
CSV_NAME = "predictions.csv"


def read_capture_ids(path: str | Path) -> list[str]:
    """The ids that must be predicted, from ``query-test.parquet`` (or a CSV with a column ``capture_id``).

    Raises:
        ValueError: If the column is missing, or an id is missing or appears twice.
        ImportError: If pyarrow, which reads parquet files, is not installed.
    """
    path = Path(path)
    table = pd.read_csv(path, dtype=str) if path.suffix == ".csv" else pd.read_parquet(path)
    if "capture_id" not in table.columns:
        raise ValueError(f"{path} has no column capture_id; it has {', '.join(map(str, table.columns))}")
    if table["capture_id"].isna().any():
        raise ValueError(f"{path} has rows without a capture_id")
    ids = [str(value) for value in table["capture_id"]]
    if len(set(ids)) != len(ids):
        raise ValueError(f"{path} holds {len(ids) - len(set(ids))} capture_ids twice")
    return ids


def to_unit_interval(scores: Mapping[str, float]) -> dict[str, float]:
    """Scores as the leaderboard wants them, in [0, 1]: unchanged if they are, else stretched linearly between their extremes.

    Ranks, which all of the leaderboard's metrics are about, are kept.

    Raises:
        ValueError: If a score is not finite; the id is named.
    """
    for capture_id, score in scores.items():
        if not math.isfinite(score):
            raise ValueError(f"The score of {capture_id} is {score}")
    low, high = min(scores.values(), default=0.0), max(scores.values(), default=1.0)
    if low >= 0.0 and high <= 1.0:
        return dict(scores)
    if low == high:
        return dict.fromkeys(scores, 0.5)
    return {capture_id: min(1.0, max(0.0, (score - low) / (high - low))) for capture_id, score in scores.items()}


def write_zip(path: str | Path, scores: Mapping[str, float], expected: Iterable[str]) -> Path:
    """Write a submission: the rows in the order of ``expected``, the same bytes for the same scores.

    Args:
        path: The zip.
        scores: One in [0, 1] for every expected id, see ``to_unit_interval``.
        expected: The ids of ``query-test.parquet``.

    Raises:
        ValueError: If ids are missing or unknown, or a score lies outside [0, 1].
    """
    expected = list(expected)
    missing, unknown = [key for key in expected if key not in scores], sorted(set(scores) - set(expected))
    if missing or unknown:
        raise ValueError(f"{len(missing)} capture_ids have no score {missing[:3]}, {len(unknown)} are unknown {unknown[:3]}")
    if outside := [key for key in expected if not 0.0 <= scores[key] <= 1.0]:
        raise ValueError(f"Scores must lie in [0, 1]; {outside[0]} has {scores[outside[0]]}")
    # All digits are kept: scores of one object may differ in the sixth decimal alone.
    rows = ((key, float(scores[key])) for key in expected)
    text = pd.DataFrame(rows, columns=HEADER).to_csv(index=False, lineterminator="\n")
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        member = zipfile.ZipInfo(CSV_NAME)  # of 1980: not of the time when it was written
        member.external_attr = 0o644 << 16
        archive.writestr(member, text, compress_type=zipfile.ZIP_DEFLATED)
    return Path(path)
