"""What a comparison is made of: suite, models, data, jobs. The types are what a suite file may hold, see load_suite."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from pydantic_core import core_schema

from anoclip_anomalib.evaluation.thresholds import ThresholdRule


class _Strict:
    """What a file says must be an option."""

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Must:
    """What a value of a suite file must be, in words, for the message about one that is not."""

    be: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return core_schema.custom_error_schema(handler(source), "must_be", custom_error_message=self.be)


def _folder_name(name: str) -> str:
    """A name of which results and generated data make a folder."""
    if not name.strip() or name.startswith(".") or len(name) > 100 or any(c in "/\\" or ord(c) < 32 for c in name):
        raise ValueError(name)
    return name


def _threshold(options: Any) -> Any:
    try:
        return ThresholdRule(**options) if isinstance(options, dict) else options
    except TypeError as error:
        raise ValueError(str(error)) from error


def _different(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds={list(seeds)} must be a list of different numbers")
    return seeds


Text = Annotated[str, Field(coerce_numbers_to_str=True), Must("text")]
_NAME = Must("a name for a folder: 1 to 100 characters without slashes, not beginning with a dot")
FolderName = Annotated[str, Field(coerce_numbers_to_str=True), AfterValidator(_folder_name), _NAME]
Count = Annotated[int, Field(strict=True, ge=0), Must("a whole number of at least 0")]
Number = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False), Must("a number of at least 0")]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**32), Must("a whole number of at least 0 and below 2^32")]
Category = Annotated[str, AfterValidator(_folder_name), Must("the name of a folder (quote numbers)")]
Mapping = Annotated[dict[str, Any], Must("a mapping")]


@dataclass(frozen=True)
class ClassSpec(_Strict):
    """A class by its full path, and the arguments it is called with."""

    class_path: Annotated[str, Must("the name or path of a class")]
    init_args: Mapping = field(default_factory=dict)


@dataclass(frozen=True)
class ModelEntry(_Strict):
    """A model of the suite.

    Attributes:
        name: Its name in tables, unique in the suite.
        spec: Class and arguments.
        callbacks: Lightning callbacks that belong to the method (test-time adaptation, early stopping).
        trainer: Arguments of the Trainer, e.g. max_epochs.
        cpus, gpus: What a job needs (used by the Ray runner; cpus also limits torch's threads if not ``None``).
        provenance: Facts about the method that override the known ones, see provenance.yaml.
    """

    name: Text
    spec: ClassSpec
    callbacks: tuple[ClassSpec, ...] = ()
    trainer: Mapping = field(default_factory=dict)
    cpus: Count | None = None
    gpus: Number = 0.0
    provenance: Mapping = field(default_factory=dict)


@dataclass(frozen=True)
class DataEntry(_Strict):
    """A data set of the suite.

    Attributes:
        name: Its name in tables, unique in the suite.
        spec: Datamodule class and arguments (without category).
        categories: The categories; () for a datamodule that knows none.
        class_name: Product name handed to models that take one.
    """

    name: FolderName
    spec: ClassSpec
    categories: tuple[Category, ...] = ()
    class_name: Text | None = None


@dataclass(frozen=True)
class Protocol(_Strict):
    """How every model is measured.

    Attributes:
        resolution: The size at which maps and masks are compared.
        threshold: Rule for labels and SegF1.
        timed_images: Images whose latency is measured, one at a time.
        warmup_images: Images before them whose latency is not counted.
        sample_images: At most so many images of a category are kept as thumbnails for the report.
    """

    resolution: Annotated[Literal["model", "original"], Must('"model" or "original"')] = "model"
    threshold: Annotated[ThresholdRule, BeforeValidator(_threshold)] = field(default_factory=ThresholdRule)
    timed_images: Count = 20
    warmup_images: Count = 3
    sample_images: Count = 24


@dataclass(frozen=True)
class Suite(_Strict):
    """Models x data x categories x seeds."""

    name: FolderName
    models: tuple[ModelEntry, ...]
    data: tuple[DataEntry, ...]
    seeds: Annotated[tuple[Seed, ...], AfterValidator(_different)] = (0,)
    protocol: Protocol = field(default_factory=Protocol)
    description: Text = ""


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
            # None stood for generated data once: older rows keep their ids.
            "data": [self.data.name, self.data.spec.class_path, data_args, self.data.class_name, None],
            "category": self.category,
            "seed": self.seed,
            "protocol": asdict(self.protocol),
        }
        text = json.dumps(content, sort_keys=True, default=str)
        # As rows that are older than its move have it.
        text = text.replace('"anoclip_anomalib.baselines.winclip.', '"anoclip_anomalib.comparison.winclip.')
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """For people: model, data, category, seed."""
        return f"{self.model.name} | {self.data.name} / {self.category} | seed {self.seed}"


def jobs_of(suite: Suite) -> list[Job]:
    """All jobs of a suite: categories outermost, so that the first categories are soon complete for every model."""
    places = [(data, category) for data in suite.data for category in data.categories or (data.name,)]
    order = product(places, suite.seeds, suite.models)
    return [Job(model, *place, seed, suite.protocol) for place, seed, model in order]


def select_jobs(jobs: list[Job], only: list[str] | None = None, shard: tuple[int, int] | None = None) -> list[Job]:
    """Jobs that match all ``only`` terms (a model, data set, category, or ``seed=N``; glob patterns), then a shard of them.

    Terms of the same kind are alternatives: ``--only AnoClip --only WinClip --only bottle`` means either model on bottle.

    Args:
        jobs: All jobs.
        only: Terms, see above.
        shard: (i, n), 1 <= i <= n: every n-th job beginning with the i-th.

    Raises:
        ValueError: If a term matches nothing at all, or the shard is out of range.
    """
    kinds: dict[str, list[str]] = {}
    for term in only or []:
        kind = next((kind for kind, text in KINDS.items() if any(fnmatchcase(text(job), term) for job in jobs)), None)
        if kind is None:
            names = sorted({text(job) for text in KINDS.values() for job in jobs})
            raise ValueError(f'--only "{term}" matches nothing; there are: {", ".join(names)}')
        kinds.setdefault(kind, []).append(term)
    for kind, terms in kinds.items():
        jobs = [job for job in jobs if any(fnmatchcase(KINDS[kind](job), term) for term in terms)]
    if shard is not None:
        index, count = shard
        if not 1 <= index <= count:
            raise ValueError(f"A shard is i/n with 1 <= i <= n, got {index}/{count}")
        jobs = jobs[index - 1 :: count]
    return jobs


KINDS: dict[str, Any] = {
    "model": lambda job: job.model.name,
    "data": lambda job: job.data.name,
    "category": lambda job: job.category,
    "seed": lambda job: f"seed={job.seed}",
}
