"""A run over photographs: scored, drawn and written down one after the other, ranked at the end."""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import UnidentifiedImageError

from anoclip_anomalib.evaluation.output_names import path_cell
from anoclip_anomalib.files import printable
from anoclip_anomalib.inspection.contrast import Contrast
from anoclip_anomalib.inspection.inspection import Inspection
from anoclip_anomalib.inspection.inspector import Inspector
from anoclip_anomalib.inspection.photos import Photo, Photos, spread
from anoclip_anomalib.inspection.places import readable
from anoclip_anomalib.inspection.results import Results, Row, fault_row, read_rows, row_of
from anoclip_anomalib.inspection.run_folder import PAGE, PICTURES, RunFolder, RunFolderError, changed
from anoclip_anomalib.progress import Progress

logger = logging.getLogger(__name__)

SAMPLE = 24
"""Without good images the contrast of all pictures comes from so many photographs, spread over the whole list."""
RANKED = 200
"""Without verdicts the pictures of so many, the most unusual ones, have their rank on them."""
WORKERS = 4
"""Photographs that are read, scored and drawn side by side, at most; each may take a gigabyte."""
_TOLD = 20  # faults that are logged one by one

Scored = tuple[Photo, Inspection]
Executor = Callable[[Iterator[Photo], Contrast | None], Iterator[Row]]


@dataclass
class FolderRun:
    """What a run is about.

    Args:
        inspector: Scores the photographs.
        photos: The photographs.
        total: How many there are.
        folder: Where results go; what is there already is kept.
        content: Of ``run.json`` so far: at least ``"settings"``; a run that goes on has more. It is changed.
        progress: Told what is done.
        execute: Scores the photographs elsewhere; default: here.
    """

    inspector: Inspector
    photos: Photos
    total: int
    folder: RunFolder
    content: dict[str, Any]
    progress: Progress | None = None
    execute: Executor | None = None

    def __call__(self) -> None:
        """Inspect what is left.

        Whatever ends the run, the results so far stay valid: they are ranked and shown if the disk takes it.

        Raises:
            RunFolderError: If the run is complete, another process is at work on it, or its results would not fit together.
            OSError: If results cannot be written.
        """
        self.folder.check_open(self.content)
        with self.folder.held():
            self._compare_facts()
            self._begun, self._earlier = time.monotonic(), float(self.content.get("seconds") or 0)
            self.content.setdefault("started", datetime.now(timezone.utc).isoformat(timespec="seconds"))
            self._write(complete=False)
            with closing(Results(self.folder.results)) as results:
                try:
                    self._inspect(results)
                    self._end(results, complete=True)
                except BaseException:
                    with suppress(OSError):  # a full disk; the rows are there
                        self._end(results, complete=False)
                    raise

    def _compare_facts(self) -> None:
        """Make sure that a run that goes on gives the results that it would have given."""
        decision = self.inspector.decision
        now = {"facts": self.inspector.describe(), "decision": None if decision is None else decision.as_dict()}
        different = [
            line for key, value in now.items() if key in self.content for line in changed(self.content[key] or {}, value or {})
        ]
        if different:
            raise RunFolderError(
                f"{printable(self.folder.path)} cannot be resumed, its results would not fit together: {'; '.join(different)}"
            )
        self.content |= now

    def _inspect(self, results: Results) -> None:
        done = results.take_up()
        kept = sum(done.values())
        progress = self.progress or Progress(quiet=True)
        progress.start(f"inspecting, {kept} done before" if kept else "inspecting", max(0, self.total - kept))
        told = 0
        for row in self._rows(done):
            results.add(row)
            progress.advance()
            if row["fault"]:
                told += 1
                if told <= _TOLD:
                    logger.warning("Not inspected: %s", row["fault"])
        if told > _TOLD:
            logger.warning("%d more could not be inspected, see %s", told - _TOLD, printable(self.folder.results))
        progress.close()

    def _rows(self, done: Counter[str]) -> Iterator[Row]:
        self.inspector.use(self.inspector.product)  # what it has seen before is of no account
        contrast = self.content.get("contrast") or self.inspector.contrast
        first: list[Scored] = []
        if contrast is None and self.content["settings"]["pictures"]:
            for photo, inspection in scored(self.inspector, spread(self.photos, self.total, SAMPLE)):
                inspection.release()
                first.append((photo, inspection))
            contrast = self.inspector.contrast
        self.content["contrast"] = None if contrast is None else list(contrast)
        self._write(complete=False)
        done.update(path_cell(photo.path) for photo, _ in first)
        left = (photo for photo in self.photos if not _take(done, path_cell(photo.path)))
        folder = self.folder.path if self.content["settings"]["pictures"] else None
        yield from rows_of(([one] for one in first), folder, contrast)
        yield from self.execute(left, contrast) if self.execute else inspected(self.inspector, left, folder, contrast)

    def _end(self, results: Results, *, complete: bool) -> None:
        counts = results.finish()
        self.content["counts"] = {**counts, "left": max(0, self.total - counts["inspected"] - counts["unreadable"])}
        if complete and self.content["decision"] is None:
            self._draw_ranks(counts["inspected"])
        self._write(complete=complete)
        if counts["inspected"] or counts["unreadable"]:
            from anoclip_anomalib.inspection.page import write_page

            write_page(self.folder.path)

    def _draw_ranks(self, count: int) -> None:
        """Without a verdict the rank says how unusual a photograph is."""
        from anoclip_anomalib.inspection.picture_files import add_line

        for row in islice(read_rows(self.folder.results), RANKED):
            if row["picture"]:
                try:
                    add_line(self.folder.path / row["picture"], f"rank {row['rank']} of {count}, z {row['z']}")
                except (FileNotFoundError, UnidentifiedImageError) as error:  # somebody's doing; the results are whole
                    logger.warning("No rank is drawn on a picture: %s", printable(str(error)))

    def _write(self, *, complete: bool) -> None:
        self.content |= {"complete": complete, "seconds": round(self._earlier + time.monotonic() - self._begun, 1)}
        self.folder.write(self.content)


def scored(inspector: Inspector, photos: Iterable[Photo]) -> Iterator[Scored]:
    """Photographs with their results, one after the other."""
    photos = iter(photos)
    while batch := [(photo, _opened(photo)) for photo in islice(photos, inspector.batch_size)]:
        files = [found for _, found in batch if not isinstance(found, Inspection)]
        results = inspector.stream(files, faults=True, fill=True)
        yield from ((photo, found if isinstance(found, Inspection) else next(results)) for photo, found in batch)


def _opened(photo: Photo) -> Any:
    """What the inspector takes for a photograph; the result if it cannot even be opened."""
    try:
        if photo.fault:
            raise OSError(photo.fault)
        return readable(photo.file)
    except OSError as error:
        return Inspection(None, float("nan"), None, fault=str(error))


def inspected(inspector: Inspector, photos: Iterator[Photo], folder: Path | None, contrast: Contrast | None) -> Iterator[Row]:
    """Score and draw photographs, several of them side by side.

    On the CPU each has a core for itself from reading to drawing: cores that work on one photograph together would wait for
    each other, and for what only one of them can do.

    Args:
        inspector: Scores them.
        photos: The photographs.
        folder: Results folder for the pictures; ``None`` for none.
        contrast: Of all pictures.

    Yields:
        A row for each, in order, once its pictures are written.

    Raises:
        OSError: If pictures cannot be written.
    """
    import torch

    threads = torch.get_num_threads()
    workers = min(WORKERS if inspector.batch_size == 1 else 2, threads)
    batches = iter(lambda: list(islice(photos, inspector.batch_size)), [])
    torch.set_num_threads(threads // workers)  # of each worker
    try:
        yield from rows_of((scored(inspector, batch) for batch in batches), folder, contrast, workers)
    finally:
        torch.set_num_threads(threads)


def rows_of(
    batches: Iterable[Iterable[Scored]], folder: Path | None, contrast: Contrast | None, workers: int = 2
) -> Iterator[Row]:
    """Draw results, each batch in a thread, which also makes its results if they come from a generator; in constant memory.

    Args:
        batches: Any number.
        folder: Results folder for the pictures; ``None`` for none.
        contrast: Of all pictures.
        workers: Threads.

    Yields:
        A row for each, in order, once its pictures are written.

    Raises:
        OSError: If pictures cannot be written.
    """

    def work(batch: Iterable[Scored]) -> list[Row]:
        return [_finished(photo, inspection, folder, contrast) for photo, inspection in batch]

    pending: deque[Future[list[Row]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for batch in batches:
                pending.append(pool.submit(work, batch))
                if len(pending) > 2 * workers:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _finished(photo: Photo, inspection: Inspection, folder: Path | None, contrast: Contrast | None) -> Row:
    """Write a photograph's pictures; its row."""
    picture = ""
    if folder is not None and contrast is not None and not inspection.fault:
        from anoclip_anomalib.inspection.picture_files import write_pictures

        try:
            inspection.hold()
        except OSError as error:  # gone since it was scored
            return fault_row(photo.path, str(error))
        picture = f"{PICTURES}/{photo.name.as_posix()}.jpg"
        write_pictures(inspection, contrast, folder / picture, folder / PAGE / photo.name)
        inspection.release()
    return row_of(photo.path, inspection, picture)


def _take(done: Counter[str], path: str) -> bool:
    """Whether a photograph is among those that are done, each of which counts once."""
    found = done[path] > 0  # what is not there is not added
    if found:
        done[path] -= 1
    return found
