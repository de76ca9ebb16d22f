import copy
import json

import pytest

from anoclip_anomalib.comparison.run.row import failed_row
from anoclip_anomalib.comparison.run.row_schema import row_fault
from anoclip_anomalib.comparison.run.run_job import run_job
from anoclip_anomalib.comparison.suite.suite import jobs_of
from tests.comparison.suites import small_suite


@pytest.fixture(scope="module")
def row(tmp_path_factory):
    folder = tmp_path_factory.mktemp("row")
    row, _ = run_job(jobs_of(small_suite(folder))[0])
    return json.loads(json.dumps(row))


def test_rows_of_jobs_fit(row, tmp_path):
    assert row_fault(row, row["id"]) is None
    failed = failed_row(jobs_of(small_suite(tmp_path))[0], ValueError("x"))
    assert row_fault(failed, failed["id"]) is None
    assert row_fault(row | {"something": "new"}, row["id"]) is None


def test_every_part_of_a_row_is_in_the_schema(row):
    from anoclip_anomalib.comparison.run import row_schema

    assert set(row) <= set(row_schema.DoneRow.__annotations__)
    assert set(row["speed"]) <= set(row_schema.RowSpeed.__annotations__)
    assert set(row["provenance"]) <= set(row_schema.RowProvenance.__annotations__)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("metrics", "AUPRO"), "high", "metrics.AUPRO: Input should be a valid number"),
        (("job", "seed"), None, "job.seed: Input should be a valid integer"),
        (("speed",), [], "speed: Input should be a valid dictionary"),
        (("curves", "image_roc", "x"), "0", "curves.image_roc.x: Input should be a valid list"),
        (("thresholds", "image"), {}, "thresholds.image.value, thresholds.image.rule missing"),
        (("samples",), [["a.png"]], "samples.0.1"),
        (("status",), "odd", "parts are missing"),
    ],
)
def test_a_part_of_another_kind_is_named(row, path, value, words):
    changed = copy.deepcopy(row)
    part = changed
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    assert words in row_fault(changed, row["id"])
