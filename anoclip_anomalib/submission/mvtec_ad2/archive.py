"""What holds for an archive alone: one top folder with the archive's name, and harmless paths."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from anoclip_anomalib.submission.entries import Entry, unsafe_name
from anoclip_anomalib.submission.faults import Report
from anoclip_anomalib.submission.mvtec_ad2.layout import EXTENSIONS

ARCHIVE_SUFFIX = ".tar.gz"


def below_top_folder(entries: Iterable[Entry], archive: Path, report: Report) -> Iterator[tuple[Entry, str, str]]:
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
