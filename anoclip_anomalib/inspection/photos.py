"""Which photographs a person means who names files and folders. Listed without torch, one folder at a time."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from anoclip_anomalib.checks import closest
from anoclip_anomalib.evaluation.output_names import OutputNames
from anoclip_anomalib.files import COMPANION, IMAGE_SUFFIXES, OTHER_IMAGES, is_photograph, printable
from anoclip_anomalib.inspection.places import absolute, entries, exists, is_folder

MASK_FOLDERS = ("ground_truth", "groundtruth", "gt", "mask", "masks")
GOOD = "of the good ones, which are the reference"
_MASK_STEM = re.compile(r"(.+)[_.-](mask|gt|ground_truth)", re.IGNORECASE)
_KINDS = 20  # so many reasons for leaving something out are told apart


class Photo(NamedTuple):
    """A photograph to inspect.

    Attributes:
        path: As the user would write it: what was given, and the way from there.
        file: The file itself, whatever folder the process is in.
        name: Relative path, without a suffix, of what is written about it; no two photographs share one.
        fault: Why it cannot be inspected, if that is clear already.
    """

    path: str
    file: str
    name: Path
    fault: str = ""


class Photos:
    """The photographs in files and folders, in the order of their names.

    Iterating walks the folders anew each time, so that millions of files take no more memory than the names of the largest
    single folder. By the rules of :class:`anoclip_anomalib.data.FolderImages`: subfolders are read, links to files are
    followed, links to folders are not. A file that is named is taken whatever its suffix is; what is named twice is taken once.

    Left out and counted are: masks beside photographs (``x_mask.png`` beside ``x.jpg``, a folder ``ground_truth`` or
    ``masks``), what earlier runs have written, and files of other kinds.

    Args:
        given: Files and folders.
        base: The folder that relative ones start from; default: the current one.
        without: Files to leave out: the good ones, which are no photographs to inspect.

    Attributes:
        left_out: What the last complete walk has left out: reason -> number of files.

    Raises:
        FileNotFoundError: If one of them does not exist; the message has the nearest name.
    """

    def __init__(self, given: Iterable[str | Path], base: str | Path | None = None, without: Iterable[str | Path] = ()) -> None:
        self.given = [str(path) for path in given]
        self.base = str(base or Path.cwd())
        self.without = {absolute(self.base, str(file)) for file in without}
        self.left_out: Counter[str] = Counter()
        self._named: dict[str, tuple[str, bool]] = {}  # place -> as given, whether it is a folder
        for path in self.given:
            place = absolute(self.base, path)
            if not exists(place):
                raise FileNotFoundError(_missing(path, place))
            self._named.setdefault(place, (path, is_folder(place)))

    def __iter__(self) -> Iterator[Photo]:
        """List the photographs."""
        return self._listed(named=True)

    def count(self) -> int:
        """How many there are just now."""
        return sum(1 for _ in self._listed(named=False))

    def _listed(self, *, named: bool) -> Iterator[Photo]:
        left_out: Counter[str] = Counter()
        top = OutputNames()
        roots: dict[str, _Names] = {}
        for place, (path, whole) in self._named.items():
            if self._is_inside_another(place):
                continue
            folder = place if whole else os.path.dirname(place)
            if folder not in roots:
                roots[folder] = _Names(top.unique(Path(os.path.basename(folder) or "images")), named)
            names = roots[folder]
            if whole:
                yield from self._walk(path, place, names, left_out)
            elif place in self.without:
                left_out[GOOD] += 1
            else:
                yield Photo(path, place, names.unique(os.path.basename(place), ""))
        self.left_out = left_out

    def _is_inside_another(self, place: str) -> bool:
        above = os.path.dirname(place)
        while above != place:
            if self._named.get(above, ("", False))[1]:
                return True
            place, above = above, os.path.dirname(above)
        return False

    def _walk(self, root: str, place: str, names: "_Names", left_out: Counter[str]) -> Iterator[Photo]:
        """A folder and its subfolders; only names of one folder, and of those above it, are in memory."""
        waiting = [("", names, entries(place))]
        while waiting:
            below, names, listing = waiting[-1]
            entry = next(listing, None)
            if entry is None:
                waiting.pop()
                continue
            if isinstance(entry, OSError):
                path, folder = (os.path.join(start, below) if below else start for start in (root, place))
                fault = f"Cannot read folder {printable(path)}: {entry.strerror or type(entry).__name__}"
                yield Photo(path, folder, names.folder, fault)
                continue
            name = entry.rstrip("/")
            inner = os.path.join(below, name)
            path, file = os.path.join(root, inner), os.path.join(place, inner)
            named = file in self._named
            if entry.endswith("//"):
                left_out["links to folders"] += 1
            elif entry.endswith("/"):
                if name.lower() in MASK_FOLDERS and not named:
                    left_out["masks"] += sum(1 for _ in self._walk(path, file, _Names(Path(), wanted=False), Counter()))
                elif _is_results(file):
                    left_out["results folders of earlier runs"] += 1
                else:
                    waiting.append((inner, names.below(name), entries(file)))
            elif file in self.without:
                left_out[GOOD] += 1
            elif named or is_photograph(name):
                if _is_mask(file) and not named:
                    left_out["masks"] += 1
                else:
                    yield Photo(path, file, names.unique(name, ""))
            else:
                left_out[_kind(name, left_out)] += 1


class _Names:
    """Names in one output folder; equal ones are numbered, see :class:`OutputNames`. They take time: not to be had unwanted."""

    def __init__(self, folder: Path, wanted: bool) -> None:  # noqa: FBT001
        self.folder, self._names = folder, OutputNames() if wanted else None

    def unique(self, name: str, suffix: str | None = None) -> Path:
        return self.folder if self._names is None else self.folder / self._names.unique(Path(name), suffix)

    def below(self, name: str) -> "_Names":
        return _Names(self.unique(name), self._names is not None)


def _kind(name: str, left_out: Counter[str]) -> str:
    suffix = printable(os.path.splitext(name)[1].lower()) or "no suffix"
    reason = (
        f"companions of files from macOS ({COMPANION}*)" if name.startswith(COMPANION) else f"files of another kind ({suffix})"
    )
    return reason if reason in left_out or len(left_out) < _KINDS else "files of other kinds"


def spread(photos: Photos, count: int, wanted: int) -> Iterator[Photo]:
    """At most ``wanted`` of ``count`` photographs, at equal distances."""
    step = max(1, -(-count // wanted))
    return (photo for photo in islice(photos, 0, None, step) if not photo.fault)


def _is_mask(file: str) -> bool:
    """Whether a file's name is that of a mask of a photograph beside it."""
    folder, name = os.path.split(os.path.splitext(file)[0])
    found = _MASK_STEM.fullmatch(name)
    return found is not None and any(
        exists(os.path.join(folder, found[1] + suffix))
        for known in (*IMAGE_SUFFIXES, *OTHER_IMAGES)
        for suffix in (known, known.upper())
    )


def _is_results(folder: str) -> bool:
    return all(exists(os.path.join(folder, name)) for name in ("results.csv", "run.json"))


def _missing(path: str, place: str) -> str:
    """What to say of a path that does not exist: the nearest name in the part of it that does."""
    folder, name = os.path.split(place)
    while folder != os.path.dirname(folder) and not is_folder(folder):
        folder, name = os.path.split(folder)
    beside = [entry.rstrip("/") for entry in islice(entries(folder), 10_000) if isinstance(entry, str)]
    near = closest(name, beside)
    hint = f"did you mean {os.path.join(folder, near)}?" if near else f"{folder} has no {name}"
    return printable(f"No such photograph or folder: {path}; {hint}")
