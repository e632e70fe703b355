"""The sentences of the course report that could have come out otherwise, and a verdict on each.

A verdict rests on one primary measure, named before looking, over independent seeds: the whole 95 %
interval lies on the side that the sentence says (*holds*), on the other one (*refuted*), or on
neither (*not shown*). A single seed has no interval. Where a sentence needs two numbers, the weaker
verdict counts. Controls stand beside it and have no verdict.
"""

import dataclasses
import math
from typing import Literal

import pandas
from scipy import stats

from common.measures.names import MEASURES
from common.measures.statistics import Interval, interval
from common.report import numbers as tables
from common.report.numbers import BALANCED, GAP, REPORT, Number

HOLDS, NOT_SHOWN, REFUTED = "holds", "not shown", "refuted"
ONE_SEED, NOT_MEASURED = "one seed", "not measured"
WEAKEST_FIRST = [NOT_MEASURED, ONE_SEED, REFUTED, NOT_SHOWN, HOLDS]

Q3, Q4, Q5 = "q3_frozen_decoder", "q4_few_shot", "q5_transfer"
CONTROLS = "studies/frozen_controls"
LOSSES = "studies/reconstruction_loss"
LABEL_CURVE = "studies/label_curve"
ARCHITECTURE = "studies/architecture"
# A test loss that ends this many times its lowest value is over-fitting. It cannot end below the
# lowest, so a bar of 1 would always be passed.
OVER_FITS = 1.05
VERY_END = 270  # step of 300


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A number minus another, or minus a fixed value; minus 0 is the number itself."""

    after: Number
    before: Number | float
    # Where the sentence wants the difference; of a control nothing is wanted.
    wanted: Literal["higher", "lower", ""] = ""
    sampling_error: Number | None = None  # a standard error over test images, to be counted too

    def __str__(self) -> str:
        """Return what is compared, in words."""
        after, before = self.after, self.before
        words = MEASURES[after.measure].words
        if after.split == GAP:
            words += ", labelled minus test images"
        if after.subset == REPORT:
            words += ", the course report's subset"
        if self.sampling_error:
            words += ", if test images are resampled too"
        if isinstance(before, Number):
            return f"{words}, {after.model} minus {before.model}"
        return f"{words}, {after.model}" + (f" minus {before:g}" if before else "")


@dataclasses.dataclass(frozen=True)
class Claim:
    """A sentence of the report, and what it is judged by."""

    name: str
    sentence: str
    primary: list[Comparison]
    beside: list[Comparison] = dataclasses.field(default_factory=list)
    reading: str = ""  # how the sentence was taken, where it could be taken otherwise

    def needs(self) -> str:
        """Return the steps whose numbers the verdict rests on."""
        steps = {}  # an ordered set
        for comparison in self.primary:
            for side in (comparison.after, comparison.before):
                if isinstance(side, Number):
                    steps[side.step] = None
        return ", ".join(steps)


@dataclasses.dataclass(frozen=True)
class Judged:
    """What came of a comparison."""

    comparison: Comparison
    sides: list[float]  # after and before: means over the seeds that have both
    difference: Interval
    verdict: str  # "" for a control

    def text(self) -> str:
        """Return the number or difference as text, with its interval over the seeds."""
        form = MEASURES[self.comparison.after.measure]
        if self.is_difference():
            return tables.interval_text(form.format_difference, self.difference)
        return tables.interval_text(form.format, self.difference)

    def sides_text(self) -> str:
        """Return both sides as text; "" if there is one."""
        if not self.is_difference():
            return ""
        form = MEASURES[self.comparison.after.measure]
        return " against ".join(form.format(side) for side in self.sides)

    def is_difference(self) -> bool:
        """Return whether something is subtracted."""
        return self.comparison.before != 0


@dataclasses.dataclass(frozen=True)
class JudgedClaim:
    """A claim with its verdict. Comparisons that were not measured are left out."""

    claim: Claim
    verdict: str
    primary: list[Judged]
    beside: list[Judged]


def q3_minus_q1(measure: str, wanted: str = "") -> Comparison:
    """Compare what Q3 gives with what Q1 gives."""
    return Comparison(Number(Q3, "Q3", measure), Number(Q3, "Q1", measure), wanted)


def with_latents(count: int, measure: str) -> Comparison:
    """Compare Q3 with Q1 where both have another number of latents."""
    of_q3 = Number(ARCHITECTURE, f"Q3, {count} latents", measure)
    return Comparison(of_q3, Number(ARCHITECTURE, f"Q1, {count} latents", measure))


def from_scratch(model: str, measure: str) -> Number:
    """Return a number of Q4 on balanced subsets."""
    return Number(Q4, model, measure, BALANCED)


def minus_scratch(model: str, changes: dict[str, str], wanted: str = "") -> Comparison:
    """Compare a classifier of Q5 with Q4's: test accuracy on balanced subsets, or ``changes``."""
    after = Number(Q5, model, "accuracy", BALANCED)
    before = from_scratch("scratch", "accuracy")
    return Comparison(
        dataclasses.replace(after, **changes), dataclasses.replace(before, **changes), wanted
    )


CLAIMS = [
    Claim(
        "(a)",
        "Q1's encoder keeps what a decoder needs for the particular features of a digit, the"
        " classifier's what gives the class probabilities.",
        primary=[q3_minus_q1("slant_r2", "lower"), q3_minus_q1("thickness_r2", "lower")],
        beside=[
            q3_minus_q1("linear_probe_accuracy"),
            Comparison(
                Number(CONTROLS, "random encoder", "slant_r2"), Number(Q3, "Q3", "slant_r2")
            ),
            Comparison(
                Number(CONTROLS, "random encoder", "thickness_r2"),
                Number(Q3, "Q3", "thickness_r2"),
            ),
            Comparison(
                Number(CONTROLS, "random encoder", "slant_ridge_r2"),
                Number(CONTROLS, "Q2", "slant_ridge_r2"),
            ),
            Comparison(
                Number(CONTROLS, "random encoder", "thickness_ridge_r2"),
                Number(CONTROLS, "Q2", "thickness_ridge_r2"),
            ),
        ],
        reading="The particular features are slant and thickness.",
    ),
    Claim(
        "(b)",
        "Variability within a digit is higher in Q1.",
        primary=[q3_minus_q1("deviation_kept", "lower")],
        beside=[
            q3_minus_q1("deviation_correlation"),
            Comparison(
                Number(LOSSES, "Q3, MSE", "deviation_kept"),
                Number(LOSSES, "Q1, MSE", "deviation_kept"),
            ),
            Comparison(
                Number(LOSSES, "Q3, BCE", "deviation_kept"),
                Number(LOSSES, "Q1, BCE", "deviation_kept"),
            ),
        ],
    ),
    Claim(
        "(b), its reason",
        "The classifier's representations give a decoder only a vector of probabilities.",
        primary=[
            Comparison(
                Number(Q3, "Q3", "variance_explained"),
                Number(CONTROLS, "probabilities", "variance_explained"),
                "lower",
            )
        ],
        beside=[
            Comparison(
                Number(CONTROLS, "logits", "variance_explained"),
                Number(CONTROLS, "probabilities", "variance_explained"),
            )
        ],
        reading="Then a decoder on the latents explains less than one on the 10 probabilities; no"
        " difference would be not shown.",
    ),
    Claim(
        "(c)",
        "Separation between digits is about the same in Q3, or slightly higher.",
        primary=[q3_minus_q1("pixel_silhouette", "higher")],
        beside=[
            q3_minus_q1("reading_accuracy"),
            dataclasses.replace(
                q3_minus_q1("reading_accuracy"),
                sampling_error=Number(Q3, "Q3", "reading_difference_error"),
            ),
            q3_minus_q1("latent_silhouette"),
            with_latents(4, "reading_accuracy"),
            with_latents(32, "reading_accuracy"),
        ],
    ),
    Claim(
        "(c), its reason, first half",
        "Q3's images are less consistent ...",
        primary=[q3_minus_q1("deviation_correlation", "lower")],
        beside=[q3_minus_q1("variance_explained")],
        reading="Less like the image that was given: they deviate less as the original does.",
    ),
    Claim(
        "(c), its reason, second half",
        "... and thus more heterogeneous.",
        primary=[q3_minus_q1("deviation_kept", "higher")],
        reading="They vary more within a digit: the opposite of (b).",
    ),
    Claim(
        "Q4, first half",
        "The classifier over-fits somewhat ...",
        primary=[
            Comparison(from_scratch("scratch", "last_over_lowest_loss"), OVER_FITS, "higher"),
        ],
        beside=[
            Comparison(from_scratch("autoencoder", "last_over_lowest_loss"), OVER_FITS),
            Comparison(from_scratch("autoencoder", "lowest_loss_step"), 0.0),
        ],
        reading=f"Its test loss ends at more than {OVER_FITS} times the lowest.",
    ),
    Claim(
        "Q4, second half",
        "... at the very end.",
        primary=[Comparison(from_scratch("scratch", "lowest_loss_step"), VERY_END, "higher")],
        reading=f"Then its test loss is lowest after step {VERY_END} of 300: when it is measured"
        " last, the time before being step 212.",
    ),
    Claim(
        "Q4, its reason",
        "The small boost of accuracy at the end comes from learning the few images.",
        primary=[Comparison(from_scratch("scratch", "gain_after_fitted"), 0.0, "lower")],
        beside=[Comparison(from_scratch("scratch", "fitted_step"), 0.0)],
        reading="Then accuracy on test images falls once all labelled ones are right; no"
        " difference would be not shown.",
    ),
    Claim(
        "Q5",
        "From Q1's encoder the classifier learns quite a bit more than from scratch.",
        primary=[
            minus_scratch("fine-tuned", {"subset": BALANCED}, "higher"),
            minus_scratch("fine-tuned", {"subset": REPORT}, "higher"),
        ],
        beside=[
            minus_scratch("frozen", {"subset": BALANCED}),
            minus_scratch("frozen", {"subset": REPORT}),
            Comparison(Number(LABEL_CURVE, "fine-tuned, 10 per digit", "worth_in_labels"), 0.0),
        ],
    ),
    Claim(
        "Q5, its reason",
        "It over-fits a lot because the weights already held structure.",
        primary=[minus_scratch("fine-tuned", {"split": GAP}, "higher")],
        beside=[minus_scratch("fine-tuned", {"measure": "last_over_lowest_loss"})],
        reading="Then the gap between labelled and test images is wider than from scratch. Where"
        " all labelled images are right it is Q5's difference with the sign turned.",
    ),
]


def verdict(difference: Interval, wanted: str) -> str:
    """Return what an interval says about a difference that is wanted higher or lower than 0."""
    if difference.n < 2:
        return ONE_SEED
    low, high = difference.low, difference.high
    if wanted == "lower":
        low, high = -high, -low
    if low > 0:
        return HOLDS
    return REFUTED if high < 0 else NOT_SHOWN


def widened(difference: Interval, sampling_error: float) -> Interval:
    """Return a 95 % interval that counts an independent standard error as well."""
    half = (difference.high - difference.low) / 2
    half = math.hypot(half, stats.norm.ppf(0.975) * sampling_error)
    return dataclasses.replace(difference, low=difference.mean - half, high=difference.mean + half)


def compare(numbers: pandas.DataFrame, comparison: Comparison) -> Judged | None:
    """Return what came of a comparison; None if no seed has both sides."""
    after, before = comparison.after, comparison.before
    differences = tables.differences(numbers, after, before)
    if differences.empty:
        return None
    mean_after = tables.per_seed(numbers, after)[differences.index].mean()
    mean_before = mean_after - differences.mean()
    difference = interval(differences)
    if comparison.sampling_error:
        errors = tables.per_seed(numbers, comparison.sampling_error)
        if errors.empty:
            return None
        difference = widened(difference, errors.mean())
    says = verdict(difference, comparison.wanted) if comparison.wanted else ""
    return Judged(comparison, [mean_after, mean_before], difference, says)


def judge(numbers: pandas.DataFrame, claim: Claim) -> JudgedClaim:
    """Return a claim's verdict, the weakest of its primary comparisons, and what it rests on."""
    primary, beside, verdicts = [], [], []
    for comparison in claim.primary:
        judged = compare(numbers, comparison)
        verdicts.append(judged.verdict if judged else NOT_MEASURED)
        primary += [judged] if judged else []
    for comparison in claim.beside:
        judged = compare(numbers, comparison)
        beside += [judged] if judged else []
    return JudgedClaim(claim, min(verdicts, key=WEAKEST_FIRST.index), primary, beside)


def judge_all(numbers: pandas.DataFrame) -> list[JudgedClaim]:
    """Return every claim with its verdict."""
    return [judge(numbers, claim) for claim in CLAIMS]
