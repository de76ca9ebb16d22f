"""A validator of MVTec AD 2 submissions, written from the format's rules: every fault in one pass, folder or archive."""

import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from anoclip_anomalib.submission.entries import DAMAGED_ARCHIVE, Entry, archive_entries, folder_entries, unsafe_name
from anoclip_anomalib.submission.faults import Report
from anoclip_anomalib.submission.mvtec_ad2.contents import check_map, check_mask
from anoclip_anomalib.submission.mvtec_ad2.layout import EXTENSIONS, IMAGES_PER_SPLIT, MAPS, SPLIT_SUFFIXES, expected_stems

MAX_FILE_BYTES = 1 << 28
ARCHIVE_SUFFIX = ".tar.gz"

ImageSize = Callable[[str, str, str], tuple[int, int] | None]
"""(object, split, stem) -> (height, width) of the original image, ``None`` if there is no such image."""


def validate(
    path: str | Path,
    *,
    counts: Mapping[str, int] = IMAGES_PER_SPLIT,
    image_size: ImageSize | None = None,
    require_masks: bool = True,
    contents: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Check a submission folder or ``.tar.gz`` archive.

    Args:
        path: The folder ``<name>/`` or the archive ``<name>.tar.gz``; an archive is streamed, nothing is unpacked.
        counts: Objects that must be there, with the number of images in each of their splits. Other objects of the
            leaderboard are passed over.
        image_size: Looks up the size of the original image; without it a mask is only compared with its map.
        require_masks: Whether the thresholded maps' absence is an error (SegF1 needs them) or a warning, as for the
            website's checker.
        contents: Whether files are opened; False checks names and counts alone.
        progress: Called with the path of each file.

    Returns:
        The report with all faults.

    Raises:
        FileNotFoundError: If there is nothing at ``path``.
    """
    path = Path(path)
    if not path.exists() and not path.is_symlink():
        raise FileNotFoundError(f"There is no submission at {path}")
    report = Report(str(path))
    check = _Check(report, counts, image_size, require_masks, contents, progress)
    if path.is_dir():
        if path.is_symlink():
            report.add("link", str(path), "the submission folder is a symbolic link; give the folder itself")
        check.prefix = f"{path}/"
        for entry in folder_entries(path):
            check.entry(entry, entry.path)
    elif _is_gzip(path):
        try:
            for entry, check.prefix, below_top in _below_top_folder(archive_entries(path), path, report):
                check.entry(entry, below_top)
        except DAMAGED_ARCHIVE as error:
            report.add("truncated", str(path), f"the archive is truncated or damaged ({error}); pack it anew")
    else:
        report.add("wrong-format", str(path), "neither a folder nor a gzip-compressed tar archive")
        return report
    check.finish()
    return report


def _is_gzip(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _below_top_folder(entries: Iterable[Entry], archive: Path, report: Report) -> Iterator[tuple[Entry, str, str]]:
    """Strip the top folder, which must be the only one and bear the archive's name; path tricks and doubles are reported.

    Yields:
        The entry, its top folder with a slash (empty where it is missing), and its path below that.
    """
    expected = archive.name.removesuffix(ARCHIVE_SUFFIX) if archive.name.endswith(ARCHIVE_SUFFIX) else None
    if expected is None:
        report.add("wrong-format", str(archive), f"the archive's name must end in {ARCHIVE_SUFFIX}")
    top: str | None = None
    foreign: set[str] = set()
    seen: set[str] = set()
    for entry in entries:
        if entry.path in {".", "./"}:
            continue
        name = entry.path.removeprefix("./")
        if reason := unsafe_name(name):
            report.add("path-trick", entry.path, reason)
            continue
        name = name.rstrip("/")
        if name in seen and entry.kind != "folder":
            report.add("duplicate", entry.path, "the archive holds this path twice")
        seen.add(name)
        first, _, rest = name.partition("/")
        is_inside = bool(rest) or entry.kind == "folder"
        if first in EXTENSIONS:
            # Packed from inside the folder: the content can still be checked.
            if first not in foreign:
                foreign.add(first)
                report.add("wrong-top-folder", first, f"must lie in a top folder '{expected or '<name>'}/'")
            yield entry, "", name
            continue
        if top is None and is_inside:
            top = first
            if expected is not None and top != expected:
                report.add("wrong-top-folder", first, f"the top folder must bear the archive's name, '{expected}/'")
        if first == top and is_inside:
            if rest:
                yield entry, f"{top}/", rest
        elif entry.kind == "link":
            report.add("link", entry.path, "a symbolic or hard link; only plain files may be submitted")
        elif not is_inside:
            report.add("extra-file", entry.path, "superfluous: the archive's top holds one folder and nothing else")
        elif first not in foreign:
            foreign.add(first)
            report.add("wrong-top-folder", first, f"a second folder at the top, beside '{top}/'")


@dataclass
class _Check:
    """State of one validation: what has been seen, to tell in the end what is missing."""

    report: Report
    counts: Mapping[str, int]
    image_size: ImageSize | None
    require_masks: bool
    contents: bool
    progress: Callable[[str], None] | None
    prefix: str = ""
    folders: dict[tuple[str, ...], list[str]] = field(default_factory=dict)  # stems in a split's folder, "" for a wrong one
    sizes: dict[tuple[str, ...], tuple[int, int]] = field(default_factory=dict)

    def entry(self, entry: Entry, path: str) -> None:
        """Check one entry; ``path`` is relative to the submission folder."""
        shown, parts = self.prefix + path, tuple(path.split("/"))
        if entry.kind in {"link", "special"}:
            what = "a symbolic or hard link" if entry.kind == "link" else "neither a file nor a folder"
            self.report.add(entry.kind, shown, f"{what}; only plain files may be submitted")
        elif entry.kind == "folder":
            self._folder(parts)
        else:
            self.report.files += 1
            if self.progress:
                self.progress(shown)
            # An archive need not list its folders, so they are known from the files too.
            for depth in range(1, len(parts)):
                self._folder(parts[:depth])
            if not self._is_superfluous(parts[:-1]):
                self._file(entry, parts, shown)

    def _folder(self, parts: tuple[str, ...]) -> None:
        if parts in self.folders:
            return
        self.folders[parts] = []
        if self._is_superfluous(parts) and not self._is_superfluous(parts[:-1]):
            self.report.add("extra-folder", self.prefix + "/".join(parts), "superfluous, with all that is in it")

    def _is_superfluous(self, folder: tuple[str, ...]) -> bool:
        allowed: tuple[Container[str], ...] = (EXTENSIONS, {*self.counts, *IMAGES_PER_SPLIT}, SPLIT_SUFFIXES)
        return len(folder) > 3 or any(part not in names for part, names in zip(folder, allowed, strict=False))

    def _file(self, entry: Entry, parts: tuple[str, ...], shown: str) -> None:
        if len(parts) != 4:
            self.report.add("extra-file", shown, "superfluous file: nothing may lie here")
            return
        kind, object_name, split, name = parts
        if object_name not in self.counts:
            return
        stem, suffix, count = name.removesuffix(EXTENSIONS[kind]), SPLIT_SUFFIXES[split], self.counts[object_name]
        if stem == name:
            self.report.add("extra-file", shown, f"superfluous file: only {EXTENSIONS[kind]} files may lie here")
            return
        fault = None
        if not re.fullmatch(rf"[0-9]{{3}}_{suffix}", stem):
            fault = f"the name must be NNN_{suffix}{EXTENSIONS[kind]} with three digits"
        elif int(stem[:3]) >= count:
            fault = f"numbers run from 000 to {count - 1:03d} in {object_name}/{split}"
        if fault:
            self.report.add("wrong-stem", shown, fault)
        self.folders[parts[:3]].append("" if fault else stem)
        if self.contents and entry.size > MAX_FILE_BYTES:
            self.report.add("implausible-size", shown, f"{entry.size} bytes are too many for one image")
        elif self.contents:
            size, faults = (check_map if kind == MAPS else check_mask)(entry.read())
            for rule, message in faults:
                self.report.add(rule, shown, message)
            if size is not None:
                self.sizes[kind, object_name, split, stem] = size
                original = self.image_size(object_name, split, stem) if self.image_size else None
                if original not in (None, size):
                    self.report.add("wrong-size", shown, f"{_by(size)}, but the original image is {_by(original)}")

    def finish(self) -> None:
        """Report what is missing, and masks whose size differs from their map's."""
        for kind in EXTENSIONS:
            if (kind,) in self.folders:
                for object_name, count in self.counts.items():
                    self._finish_object(kind, object_name, count)
            else:
                is_error = kind == MAPS or self.require_masks
                self.report.add("missing-folder", f"{self.prefix}{kind}", "this folder is missing", is_error=is_error)
        for (kind, *place), size in self.sizes.items():
            map_size = self.sizes.get((MAPS, *place), size)
            if map_size != size:
                shown = f"{self.prefix}{'/'.join((kind, *place))}{EXTENSIONS[kind]}"
                self.report.add("wrong-size", shown, f"{_by(size)}, but its map is {_by(map_size)}")

    def _finish_object(self, kind: str, object_name: str, count: int) -> None:
        if (kind, object_name) not in self.folders:
            self.report.add("missing-object", f"{self.prefix}{kind}/{object_name}", f"object '{object_name}' is missing")
            return
        for split in SPLIT_SUFFIXES:
            found, folder = self.folders.get((kind, object_name, split)), f"{self.prefix}{kind}/{object_name}/{split}"
            if found is None:
                self.report.add("missing-split", folder, f"split '{split}' of '{object_name}' is missing")
                continue
            if len(found) != count:
                self.report.add("wrong-count", folder, f"{len(found)} {EXTENSIONS[kind]} files, {count} are expected")
            for stem in sorted(set(expected_stems(split, count)).difference(found)) if found else ():
                self.report.add("missing-file", f"{folder}/{stem}{EXTENSIONS[kind]}", "this file is missing")


def _by(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]} pixels"
