"""What a comparison is made of: suite, models, data, jobs. Plain data without behaviour of its own."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from anoclip_anomalib.evaluation.thresholds import ThresholdRule


@dataclass(frozen=True)
class ClassSpec:
    """A class by its full path, and the arguments it is called with."""

    class_path: str
    init_args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelEntry:
    """A model of the suite.

    Attributes:
        name: its name in tables, unique in the suite.
        spec: class and arguments.
        callbacks: Lightning callbacks that belong to the method (test-time adaptation, early stopping).
        trainer: arguments of the Trainer, e.g. max_epochs.
        cpus, gpus: what a job needs (used by the Ray runner; cpus also limits torch's threads if not None).
        provenance: facts about the method that override the known ones, see provenance.yaml.
    """

    name: str
    spec: ClassSpec
    callbacks: tuple[ClassSpec, ...] = ()
    trainer: dict[str, Any] = field(default_factory=dict)
    cpus: int | None = None
    gpus: float = 0.0
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DataEntry:
    """A data set of the suite.

    Attributes:
        name: its name in tables, unique in the suite.
        spec: datamodule class and arguments (without category).
        categories: the categories; () for a datamodule that knows none.
        class_name: product name handed to models that take one.
    """

    name: str
    spec: ClassSpec
    categories: tuple[str, ...] = ()
    class_name: str | None = None


@dataclass(frozen=True)
class Protocol:
    """How every model is measured.

    Attributes:
        resolution: "model" or "original": the size at which maps and masks are compared.
        threshold: rule for labels and SegF1.
        timed_images: images whose latency is measured, one at a time.
        warmup_images: images before them whose latency is not counted.
        sample_images: at most so many images of a category are kept as thumbnails for the report.
    """

    resolution: str = "model"
    threshold: ThresholdRule = field(default_factory=ThresholdRule)
    timed_images: int = 20
    warmup_images: int = 3
    sample_images: int = 24


@dataclass(frozen=True)
class Suite:
    """Models x data x categories x seeds."""

    name: str
    models: tuple[ModelEntry, ...]
    data: tuple[DataEntry, ...]
    seeds: tuple[int, ...] = (0,)
    protocol: Protocol = field(default_factory=Protocol)
    description: str = ""


@dataclass(frozen=True)
class Job:
    """One model on one category with one seed."""

    model: ModelEntry
    data: DataEntry
    category: str
    seed: int
    protocol: Protocol

    @property
    def id(self) -> str:
        """Hash of everything that decides the result; where the data lie and how they are loaded does not."""
        data_args = {key: value for key, value in self.data.spec.init_args.items() if key not in ("root", "num_workers")}
        content = {
            "model": asdict(replace(self.model, cpus=None, gpus=0.0, provenance={})),
            "data": [
                self.data.name,
                self.data.spec.class_path,
                data_args,
                self.data.class_name,
                None,
            ],  # None: ids of rows made before stay
            "category": self.category,
            "seed": self.seed,
            "protocol": asdict(self.protocol),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """For people: model, data, category, seed."""
        return f"{self.model.name} | {self.data.name} / {self.category} | seed {self.seed}"


def jobs_of(suite: Suite) -> list[Job]:
    """All jobs of a suite: categories outermost, so that the first categories are soon complete for every model."""
    return [
        Job(model, data, category, seed, suite.protocol)
        for data in suite.data
        for category in (data.categories or (data.name,))
        for seed in suite.seeds
        for model in suite.models
    ]


def select_jobs(jobs: list[Job], only: list[str] | None = None, shard: tuple[int, int] | None = None) -> list[Job]:
    """Jobs that match all `only` terms (a model, data set, category, or `seed=N`; glob patterns), then a shard of them.

    Terms of the same kind are alternatives: `--only AnoClip --only WinClip --only bottle` means either model on bottle.

    Args:
        jobs: all jobs.
        only: terms, see above.
        shard: (i, n), 1 <= i <= n: every n-th job beginning with the i-th.

    Raises:
        ValueError: if a term matches nothing at all, or the shard is out of range.
    """
    from fnmatch import fnmatchcase

    for kind_terms in _terms_by_kind(jobs, only or []):
        jobs = [job for job in jobs if any(fnmatchcase(text, term) for text, term in _pairs(job, kind_terms))]
    if shard is not None:
        index, count = shard
        if not 1 <= index <= count:
            raise ValueError(f"a shard is i/n with 1 <= i <= n, got {index}/{count}")
        jobs = jobs[index - 1 :: count]
    return jobs


KINDS: dict[str, Any] = {
    "model": lambda job: job.model.name,
    "data": lambda job: job.data.name,
    "category": lambda job: job.category,
    "seed": lambda job: f"seed={job.seed}",
}


def _terms_by_kind(jobs: list[Job], terms: list[str]) -> list[tuple[str, list[str]]]:
    from fnmatch import fnmatchcase

    found: dict[str, list[str]] = {}
    for term in terms:
        kind = next((kind for kind, text in KINDS.items() if any(fnmatchcase(text(job), term) for job in jobs)), None)
        if kind is None:
            names = sorted({text(job) for text in KINDS.values() for job in jobs})
            raise ValueError(f'--only "{term}" matches nothing; there are: {", ".join(names)}')
        found.setdefault(kind, []).append(term)
    return list(found.items())


def _pairs(job: Job, kind_terms: tuple[str, list[str]]) -> list[tuple[str, str]]:
    kind, terms = kind_terms
    return [(KINDS[kind](job), term) for term in terms]
