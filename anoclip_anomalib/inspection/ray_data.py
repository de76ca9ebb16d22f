"""Photographs scored by Ray Data on one machine or many: read, scored and drawn by actors, written down by the driver."""

import logging
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anoclip_anomalib.files import atomic_write, printable
from anoclip_anomalib.inspection.contrast import Contrast
from anoclip_anomalib.inspection.photos import Photo
from anoclip_anomalib.inspection.results import COLUMNS, Row
from anoclip_anomalib.inspection.run import inspected
from anoclip_anomalib.inspection.run_folder import RESULTS, changed
from anoclip_anomalib.inspection.settings import inspector_of
from anoclip_anomalib.running.ray_cluster import connect, import_ray

_AT_ONCE = 64  # photographs that an actor is handed at once
_NUMBERS = ("score", "z", "threshold")


class OnRayData:
    """Scores photographs on Ray; rows come back as they are done, so that what is written is kept whatever happens.

    Results are those of a run without Ray: every actor has the same inspector, which is checked, and the same contrast. All
    machines must see photographs, weights and the results folder under the same paths.

    Args:
        content: Of ``run.json``: settings, and facts and decision once the run has begun.
        folder: Results folder.
        address: Of an existing cluster ("auto" or host:port); ``None`` starts one on this machine.
        workers: Actors; ``None`` for one on each GPU, or else on each CPU.

    Raises:
        ImportError: Ray is not installed.
    """

    def __init__(self, content: dict[str, Any], folder: Path, address: str | None = None, workers: int | None = None) -> None:
        self.ray = import_ray()
        self.content, self.folder, self.address, self.workers = content, folder.absolute(), address, workers

    def __call__(self, photos: Iterator[Photo], contrast: Contrast | None) -> Iterator[Row]:
        """Score photographs.

        Yields:
            A row for each, in any order.

        Raises:
            RuntimeError: If Ray gives up; the message has the reason.
        """
        # Names of files are bytes: Arrow's texts are UTF-8, which they need not be.
        items = [
            photo._asdict() | {"path": os.fsencode(photo.path), "file": os.fsencode(photo.file), "name": photo.name.as_posix()}
            for photo in photos
        ]
        if not items:
            return
        begun_here = connect(self.ray, self.address)
        try:
            yield from self._scored(items, contrast)
        except self.ray.exceptions.RayError as error:
            raise RuntimeError(f"Ray gave up: {printable(str(error).strip().splitlines()[-1])}") from error
        finally:
            if begun_here:
                self.ray.shutdown()

    def write_parquet(self) -> Path:
        """Write the results of an ended run as ``results.parquet`` too, in constant memory; missing numbers are null."""
        from pyarrow import csv, float64, int64, parquet, string

        types = {column: float64() if column in _NUMBERS else string() for column in COLUMNS} | {"rank": int64()}
        options = csv.ConvertOptions(column_types=types, strings_can_be_null=False)
        target = self.folder / "results.parquet"
        with (
            csv.open_csv(self.folder / RESULTS, convert_options=options) as rows,
            atomic_write(target) as temporary,
            parquet.ParquetWriter(temporary, rows.schema) as writer,
        ):
            for batch in rows:
                writer.write_batch(batch)
        return target

    def _scored(self, items: list[dict[str, Any]], contrast: Contrast | None) -> Iterator[Row]:
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.WARNING)
        ray.data.DataContext.get_current().enable_progress_bars = False
        resources = ray.cluster_resources()
        cpus, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
        workers = min(self.workers or gpus or cpus, -(-len(items) // _AT_ONCE))
        found = ray.data.from_items(items).map_batches(
            _Scorer,
            fn_constructor_args=(self.content, str(self.folder), contrast, max(1, cpus // workers)),
            batch_size=_AT_ONCE,
            concurrency=workers,
            num_cpus=1,
            num_gpus=min(1.0, gpus / workers) if gpus else None,
        )
        for row in found.iter_rows():
            yield {column: row[column] for column in COLUMNS}


class _Scorer:
    """An inspector in a process of its own."""

    def __init__(self, content: dict[str, Any], folder: str, contrast: Contrast | None, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        if not Path(folder, RESULTS).is_file():
            raise RuntimeError(
                f"{platform.node()} does not see the results folder {folder}: all machines must, under the same path"
            )
        self.inspector = inspector_of(content["settings"])
        decision = self.inspector.decision
        now = {**self.inspector.describe(), "decision": None if decision is None else decision.as_dict()}
        different = changed({**content["facts"], "decision": content["decision"], "device": now["device"]}, now)
        if different:
            raise RuntimeError(f"{platform.node()} would give other results: {'; '.join(different)}")
        self.folder, self.contrast = Path(folder) if content["settings"]["pictures"] else None, contrast

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Rows of a batch of photographs."""
        columns = (batch[name].tolist() for name in Photo._fields)
        photos = (
            Photo(os.fsdecode(path), os.fsdecode(file), Path(name), fault)
            for path, file, name, fault in zip(*columns, strict=True)
        )
        rows = list(inspected(self.inspector, photos, self.folder, self.contrast))
        return {column: [row[column] for row in rows] for column in COLUMNS}
