"""What the studies compare, over seeds, corrected for how many comparisons each study makes.

Every comparison was named before looking. Their p-values (Student's t over the seeds, two-sided)
are corrected within a study after Holm 1979: a difference is called real if the corrected one is
below 0.05.
"""

import dataclasses

import pandas
from scipy import stats

from common.report import numbers as tables
from common.report import verdicts
from common.report.numbers import BALANCED, Number
from common.report.verdicts import CONTROLS, LABEL_CURVE, LOSSES, Q3, Q4, Q5, Comparison, Judged

CLASSIFIERS = "studies/augmented_classifier"
ARCHITECTURE = "studies/architecture"
AUGMENTATION = "studies/augmentation"
PRETEXTS = "studies/pretexts"
SPREADING = "studies/label_spreading"
LEVEL = 0.05


def with_labels(step: str, model: str) -> Number:
    """Return the test accuracy of a classifier that was trained on balanced subsets."""
    return Number(step, model, "accuracy", BALANCED)


SCRATCH = with_labels(Q4, "scratch")
FINE_TUNED = with_labels(Q5, "fine-tuned")
FROZEN = with_labels(Q5, "frozen")
AUGMENTED = with_labels(AUGMENTATION, "scratch, augmented")


def between(step: str, after: str, before: str, *measures: str) -> list[Comparison]:
    """Compare two models of a step by measures of models that were trained on all images."""
    comparisons = []
    for measure in measures:
        comparisons.append(Comparison(Number(step, after, measure), Number(step, before, measure)))
    return comparisons


def chain(step: str, first: Number, *models: str) -> list[Comparison]:
    """Compare each model of a step with the one before it, the first one with ``first``."""
    comparisons = []
    before = first
    for model in models:
        after = with_labels(step, model)
        comparisons.append(Comparison(after, before))
        before = after
    return comparisons


def along_curve() -> list[Comparison]:
    """Compare Q1's encoder with random weights at each number of labels."""
    comparisons = []
    for shots in (1, 2, 5, 20, 50, 100):
        scratch = with_labels(LABEL_CURVE, f"scratch, {shots} per digit")
        for kind in ("fine-tuned", "frozen"):
            after = with_labels(LABEL_CURVE, f"{kind}, {shots} per digit")
            comparisons.append(Comparison(after, scratch))
    return comparisons


COMPARISONS: dict[str, list[Comparison]] = {
    LOSSES: [
        *between(LOSSES, "Q3, MSE", "Q3, L1", "deviation_kept", "deviation_correlation"),
        *between(LOSSES, "Q3, BCE", "Q3, L1", "deviation_kept", "deviation_correlation"),
        *between(LOSSES, "Q3, MSE", "Q1, MSE", "slant_r2", "deviation_kept", "pixel_silhouette"),
        *between(LOSSES, "Q3, BCE", "Q1, BCE", "slant_r2", "deviation_kept", "pixel_silhouette"),
    ],
    CONTROLS: [
        *between(CONTROLS, "logits", "probabilities", "variance_explained"),
        Comparison(
            Number(Q3, "Q3", "variance_explained"), Number(CONTROLS, "logits", "variance_explained")
        ),
        Comparison(
            Number(CONTROLS, "Q3, wider", "variance_explained"),
            Number(Q3, "Q3", "variance_explained"),
        ),
        Comparison(
            Number(CONTROLS, "random encoder", "variance_explained"),
            Number(Q3, "Q3", "variance_explained"),
        ),
        *between(CONTROLS, "random encoder", "Q2", "slant_r2", "thickness_r2", "size_r2"),
        *between(CONTROLS, "random encoder", "Q2", "slant_ridge_r2", "thickness_ridge_r2"),
    ],
    CLASSIFIERS: [
        *between(CLASSIFIERS, "Q2, warps", "Q2, plain", "accuracy", "calibration_error"),
        *between(CLASSIFIERS, "Q2, smoothing", "Q2, plain", "accuracy", "calibration_error"),
        *between(CLASSIFIERS, "Q3, warps", "Q3, plain", "variance_explained"),
        *between(CLASSIFIERS, "Q3, smoothing", "Q3, plain", "variance_explained"),
    ],
    ARCHITECTURE: [
        *between(ARCHITECTURE, "two, no ReLU", "two linear layers", "l1"),
        *between(ARCHITECTURE, "one linear layer", "two linear layers", "l1"),
        *between(ARCHITECTURE, "no linear layer", "two linear layers", "l1"),
        *between(ARCHITECTURE, "8 channels", "two linear layers", "l1"),
        *between(ARCHITECTURE, "Q3, 4 latents", "Q1, 4 latents", "reading_accuracy"),
        *between(ARCHITECTURE, "Q3, 12 latents", "Q1, 12 latents", "reading_accuracy"),
        *between(ARCHITECTURE, "Q3, 32 latents", "Q1, 32 latents", "reading_accuracy"),
    ],
    AUGMENTATION: [
        Comparison(AUGMENTED, SCRATCH),
        Comparison(with_labels(AUGMENTATION, "scratch, augmented, short"), SCRATCH),
        Comparison(AUGMENTED, with_labels(AUGMENTATION, "scratch, long")),
        Comparison(with_labels(AUGMENTATION, "fine-tuned, augmented"), AUGMENTED),
        Comparison(with_labels(AUGMENTATION, "fine-tuned, augmented, Q5's rate"), AUGMENTED),
        Comparison(with_labels(AUGMENTATION, "frozen, augmented"), AUGMENTED),
    ],
    PRETEXTS: [
        Comparison(FROZEN, with_labels(PRETEXTS, "nothing, frozen")),
        *chain(PRETEXTS, FROZEN, "undo warps, frozen", "two views, frozen"),
        Comparison(with_labels(PRETEXTS, "two views, frozen"), AUGMENTED),
        Comparison(with_labels(PRETEXTS, "undo warps, fine-tuned, augmented"), AUGMENTED),
        Comparison(with_labels(PRETEXTS, "two views, fine-tuned, augmented"), AUGMENTED),
    ],
    SPREADING: [
        *chain(
            SPREADING,
            AUGMENTED,
            "labels by Q4's answers",
            "labels by PCA-48",
            "labels by Q1's latents",
            "labels by un-warped latents",
            "labels by views' latents",
            "labels by pixels and views",
            "the same, from views' encoder",
        ),
        Comparison(
            with_labels(SPREADING, "labels by pixels and views"),
            with_labels(SPREADING, "labels by Q4's answers"),
        ),
        Comparison(with_labels(SPREADING, "the same, from views' encoder"), AUGMENTED),
    ],
    LABEL_CURVE: along_curve(),
}


@dataclasses.dataclass(frozen=True)
class Corrected:
    """What came of a comparison, and its p-value corrected for all of the study's."""

    judged: Judged
    p: float  # 1 if there is one seed

    @property
    def evidence(self) -> str:
        """Return a word: "real", "not shown" or "one seed"."""
        if self.judged.difference.n < 2:
            return verdicts.ONE_SEED
        return "real" if self.p < LEVEL else verdicts.NOT_SHOWN

    def p_text(self) -> str:
        """Return the corrected p-value; "" if there is none."""
        if self.judged.difference.n < 2:
            return ""
        return f"{self.p:.1g}" if self.p < 0.1 else f"{self.p:.2f}"


def p_value(differences: pandas.Series) -> float:
    """Return the p-value of independent differences from 0; 1 where they say nothing."""
    if len(differences) < 2 or not differences.std() > 0:
        return 1.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def holm(p_values: list[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979), in the same order.

    The k-th smallest of n is multiplied by n - k + 1, and none is below one that was smaller.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, p_values[index] * (len(p_values) - rank)))
        corrected[index] = highest
    return corrected


def of_step(numbers: pandas.DataFrame, step: str) -> list[Corrected]:
    """Return what came of a study's comparisons; those of which no seed has both sides are left
    out.
    """
    found, p_values = [], []
    for comparison in COMPARISONS.get(step, []):
        judged = verdicts.compare(numbers, comparison)
        if judged:
            found.append(judged)
            p_values.append(
                p_value(tables.differences(numbers, comparison.after, comparison.before))
            )
    corrected = holm(p_values)
    return [Corrected(judged, p) for judged, p in zip(found, corrected, strict=True)]
