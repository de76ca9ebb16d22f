from dataclasses import replace

import pytest

from anoclip_anomalib.comparison.suite.suite import jobs_of, select_jobs
from tests.comparison.suites import ROOT, small_suite


def test_jobs_are_models_times_categories_times_seeds(tmp_path):
    suite = small_suite(tmp_path, categories=("b", "a"), extra="seeds: [0, 7]\n")
    jobs = jobs_of(suite)
    assert [(job.model.name, job.category, job.seed) for job in jobs] == [
        (model, category, seed) for category in ("a", "b") for seed in (0, 7) for model in ("bright", "dim")
    ]
    assert len({job.id for job in jobs}) == 8


def test_id_follows_what_decides_the_result_only(tmp_path):
    job = jobs_of(small_suite(tmp_path))[0]
    spec = job.data.spec
    moved = replace(job, data=replace(job.data, spec=replace(spec, init_args=spec.init_args | {"root": "/elsewhere"})))
    assert moved.id == job.id
    assert replace(job, model=replace(job.model, cpus=4, provenance={"auxiliary_data": "x"})).id == job.id
    other_split = replace(spec, init_args=spec.init_args | {"val_split_ratio": 0.1})
    for changed in (
        replace(job, seed=1),
        replace(job, category="other"),
        replace(job, protocol=replace(job.protocol, resolution="original")),
        replace(job, data=replace(job.data, spec=other_split)),
        replace(job, model=replace(job.model, trainer={"max_epochs": 1})),
    ):
        assert changed.id != job.id


def test_only_and_shard(tmp_path):
    jobs = jobs_of(small_suite(tmp_path, categories=("a", "b"), extra="seeds: [0, 1]\n"))
    assert len(select_jobs(jobs, ["bright"])) == 4
    assert len(select_jobs(jobs, ["bright", "dim", "a", "seed=1"])) == 2
    assert len(select_jobs(jobs, ["b*"])) == 4  # a pattern means models first
    shards = [select_jobs(jobs, shard=(i, 3)) for i in (1, 2, 3)]
    assert sorted(job.id for shard in shards for job in shard) == sorted(job.id for job in jobs)
    with pytest.raises(ValueError, match='"brigth" matches nothing; there are: a, b, bright'):
        select_jobs(jobs, ["brigth"])
    with pytest.raises(ValueError, match="1 <= i <= n"):
        select_jobs(jobs, shard=(4, 3))


def test_rows_from_before_a_model_moved_stay_valid(tmp_path):
    from anoclip_anomalib.comparison.suite.load_suite import load_suite

    suite = load_suite(ROOT / "configs" / "suites" / "cookies.yaml", {"cookies": str(tmp_path)})
    ids = {job.model.name: job.id for job in jobs_of(suite)}
    assert ids["AnoCLIP"] == "11354aaeecc3ce30"
    assert ids["WinCLIP"] == "c5a4ef59a1e458e9"
