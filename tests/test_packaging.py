"""What is not Python code must be packaged as well: an installed package without it fails where a checkout does not."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "anoclip_anomalib"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_every_file_of_the_package_is_packaged() -> None:
    import tomllib

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["anoclip_anomalib"]
    packaged = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert len(files) >= 5
    assert sorted(str(path.relative_to(ROOT)) for path in files - packaged) == []


@pytest.mark.parametrize("name", ["report.css", "report.js", "report.html.jinja"])
def test_the_report_has_its_parts(name: str) -> None:
    assert (PACKAGE / "comparison" / "report" / name).is_file()
