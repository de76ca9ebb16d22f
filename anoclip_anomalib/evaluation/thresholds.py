"""Thresholds: rules that need no labels, anomalib's adaptive one, and the natural one of a two-way softmax."""

from dataclasses import dataclass

import numpy as np
from anomalib import LearningType
from anomalib.data.utils import ValSplitMode
from anomalib.post_processing import PostProcessor

from anoclip_anomalib.evaluation.curves import UndefinedMetricError, count_scores, f1_max
from anoclip_anomalib.evaluation.reference import ScoreReference

UNDECIDED = 0.5
"""Score at which a two-way softmax is undecided."""
KINDS = ("mean_std", "quantile", "fixed", "adaptive", "natural")


@dataclass(frozen=True)
class Threshold:
    """A threshold and where it comes from.

    Attributes:
        value: Scores above it are anomalous; NaN if there is none.
        rule: In words, for result rows.
    """

    value: float
    rule: str

    def label(self, score: float) -> int | None:
        """1 anomalous, 0 normal, ``None`` without a threshold."""
        return int(score > self.value) if np.isfinite(self.value) else None


@dataclass(frozen=True)
class ThresholdRule:
    """How to choose a threshold.

    Args:
        kind: "mean_std" (mean + k standard deviations of normal images' scores; MVTec's hint for AD 2, k = 3),
            "quantile" (of normal images' scores), "fixed" (``value``), "adaptive" (anomalib's: best F1 on *labelled*
            validation images), "natural" (where the model is undecided without any data, see :func:`natural_threshold`).
        k: For "mean_std".
        q: For "quantile", 0..1.
        value: For "fixed".

    Raises:
        ValueError: Unknown kind, k not finite, q outside [0, 1], "fixed" without a value.
    """

    kind: str = "mean_std"
    k: float = 3.0
    q: float = 0.99
    value: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f'Unknown threshold rule "{self.kind}"; known: {", ".join(KINDS)}')
        if not np.isfinite(self.k):
            raise ValueError(f"k={self.k} must be a finite number")
        if not 0 <= self.q <= 1:
            raise ValueError(f"q={self.q} must lie in [0, 1]")
        if self.kind == "fixed" and (self.value is None or not np.isfinite(self.value)):
            raise ValueError(f'The threshold rule "fixed" needs a finite value, got {self.value}')

    @property
    def needs_reference(self) -> bool:
        """Whether scores of normal images are needed."""
        return self.kind in ("mean_std", "quantile")

    def fit(self, reference: ScoreReference, natural: float = UNDECIDED) -> Threshold:
        """Apply the rule to normal images' scores (not for "adaptive").

        Args:
            reference: Scores of normal images.
            natural: The model's natural threshold.

        Raises:
            UndefinedMetricError: If normal images are needed and there were none.
        """
        if self.kind == "mean_std":
            return Threshold(reference.mean + self.k * reference.std, f"mean + {self.k:g} std of normal images")
        if self.kind == "quantile":
            return Threshold(reference.quantile(self.q), f"{self.q:g} quantile of normal images")
        if self.kind == "fixed" and self.value is not None:
            return Threshold(float(self.value), f"fixed at {self.value:g}")
        if self.kind == "natural":
            where = " (two-way softmax)" if natural == UNDECIDED else ""
            return Threshold(natural, f"natural zero-shot threshold {natural:g}{where}")
        raise ValueError("The adaptive rule needs labelled scores: use adaptive_threshold")


@dataclass(frozen=True)
class NormalThreshold(Threshold):
    """A threshold from scores of normal images alone.

    Attributes:
        false_alarms: The share of good images of which scores above it are to be expected, at most.
    """

    false_alarms: float


def conformal_threshold(scores: np.ndarray, false_alarms: float = 0.05) -> NormalThreshold:
    """A conservative quantile of normal images' scores, with the correction for small samples (split conformal prediction).

    Of n + 1 scores that come in random order the new one is above the r-th smallest of the others with probability
    (n + 1 - r) / (n + 1) at most: r = ceil((n + 1) (1 - false_alarms)). Where so few images cannot promise so little, it
    is their largest score, and what that promises, 1 / (n + 1), is said.

    Args:
        scores: (n,) of normal images that the model had not seen, as left out one by one.
        false_alarms: The share of good images that may be called bad.

    Raises:
        UndefinedMetricError: If there are no scores.
        ValueError: If the share is not in (0, 1), or a score is not finite.
    """
    scores = np.sort(np.asarray(scores, dtype=np.float64).reshape(-1))
    if not 0 < false_alarms < 1:
        raise ValueError(f"The share of false alarms must lie between 0 and 1, got {false_alarms}")
    if not len(scores):
        raise UndefinedMetricError("no normal images to take a threshold from")
    if not np.isfinite(scores).all():
        raise ValueError("Scores of normal images must be finite")
    count = len(scores)
    # The small amount keeps 20 * (1 - 0.05) at 19.
    rank = min(int(np.ceil((count + 1) * (1 - false_alarms) - 1e-9)), count)
    rate = (count + 1 - rank) / (count + 1)
    which = "the largest score" if rank == count else f"score {rank}, from below,"
    rule = f"{which} of {count} normal images left out one by one; of good images at most {rate:.1%} should exceed it"
    return NormalThreshold(float(scores[rank - 1]), rule, rate)


def adaptive_threshold(scores: np.ndarray, labels: np.ndarray) -> Threshold:
    """Anomalib's F1AdaptiveThreshold: the threshold of the best F1 on labelled scores (N,), (N,).

    Raises:
        UndefinedMetricError: If one class is missing.
    """
    value = f1_max(count_scores(scores, labels).curve)[1]
    return Threshold(value, "anomalib adaptive: best F1 on labelled validation images")


def natural_threshold(model: object) -> float | None:
    """Where a model is undecided without any data: its own word, a two-way softmax' for other zero-shot ones, else ``None``."""
    undecided = UNDECIDED if getattr(model, "learning_type", None) == LearningType.ZERO_SHOT else None
    return getattr(model, "natural_threshold", undecided)


def choose_threshold(
    rule: ThresholdRule,
    reference: ScoreReference,
    natural: float | None,
    labelled: tuple[np.ndarray, np.ndarray] | None = None,
    own: Threshold | None = None,
) -> Threshold:
    """Apply a rule; where it cannot be applied, take the model's own threshold, its natural one, or none. Each is said.

    Args:
        rule: The rule asked for.
        reference: Scores of normal images (may be empty).
        natural: The model's natural threshold, if it has one.
        labelled: Validation scores and labels for the adaptive rule.
        own: What the model has from normal images that it was given.
    """
    try:
        if rule.kind == "adaptive":
            if labelled is None:
                raise UndefinedMetricError("no labelled validation images")
            return adaptive_threshold(*labelled)
        if rule.kind == "natural" and natural is None:
            raise UndefinedMetricError("without data this model is nowhere undecided")
        return rule.fit(reference) if natural is None else rule.fit(reference, natural)
    except UndefinedMetricError as error:
        if own is None and natural is not None:
            own = ThresholdRule("natural").fit(reference, natural)
        instead = own or Threshold(float("nan"), "none")
        return Threshold(instead.value, f"{instead.rule}; {rule.kind} not possible: {error}")


def is_held_out(datamodule: object | None) -> bool:
    """Whether a datamodule's validation images are other images than its test images.

    "none" is what datamodules with validation images of their own have (MVTec AD 2).
    """
    return datamodule is not None and getattr(datamodule, "val_split_mode", None) != ValSplitMode.SAME_AS_TEST


def post_processor_threshold(model: object, *, held_out: bool) -> Threshold | None:
    """The raw score beyond which anomalib's post-processor calls an image anomalous: its decision, without its scaling.

    Args:
        model: Anomalib model.
        held_out: Whether the validation images are other images than the test set's; for the words only.

    Returns:
        ``None`` if there is no post-processor, it decides nothing, or it has seen no validation images.
    """
    post = getattr(model, "post_processor", None)
    if not (isinstance(post, PostProcessor) and post.enable_thresholding and post.enable_normalization):
        return None
    low, high, threshold = (float(value) for value in (post.image_min, post.image_max, post.image_threshold))
    if np.isnan(low) or np.isnan(high):
        return None
    threshold = (low + high) / 2 if np.isnan(threshold) else threshold
    threshold += (0.5 - post.image_sensitivity) * (high - low)
    own = getattr(model, "image_threshold", None)
    if own is not None and np.isclose(float(post.image_threshold), own.value):
        return Threshold(threshold, own.rule)
    same = "" if held_out else ", which are the test images"
    return Threshold(threshold, f"anomalib's own: best F1 on validation images{same}")
