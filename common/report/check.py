"""Compare the first seed's numbers with the published run, and say which were reproduced.

    python -m common.report.check    # seconds; exit code 1 if one of README's main numbers is off

On another machine a seed is another draw, as far off as another seed. So a number is reproduced if
it lies where one more seed of the published run would (a prediction interval by Student's t), give
or take one in the last digit that is printed.
"""

import dataclasses
import math
from pathlib import Path

import pandas
from scipy import stats

from common import run
from common.measures.names import MEASURES
from common.report import numbers as tables
from common.report.numbers import Number, Published
from common.report.verdicts import Q3, Comparison, from_scratch, minus_scratch

# README's main numbers. They decide the exit code.
HEADLINES: list[Number | Comparison] = [
    Number("q1_autoencoder", "Q1", "l1"),
    Number("q2_classifier", "Q2", "accuracy"),
    Number(Q3, "Q1", "slant_r2"),
    Number(Q3, "Q3", "slant_r2"),
    Number(Q3, "Q1", "thickness_r2"),
    Number(Q3, "Q3", "thickness_r2"),
    Number(Q3, "Q1", "variance_explained"),
    Number(Q3, "Q3", "variance_explained"),
    Number(Q3, "Q3", "deviation_kept"),
    from_scratch("scratch", "accuracy"),
    minus_scratch("fine-tuned", {}),
    minus_scratch("frozen", {}),
]
LEVEL = 0.95
HEADLINE_LEVEL = 0.999  # one of many numbers is outside 95 % more often than not
UNCOUNTED = {"seconds"}  # of a machine, not of a model
# Of PCA's blurred digits two readers read up to 3 points more or less; the spread over seeds does
# not show it, since these share a reader.
TOLERANCES = {Number(Q3, "PCA-12", "reading_accuracy"): 0.03}


@dataclasses.dataclass(frozen=True)
class Range:
    """Where one more seed is expected."""

    mean: float
    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Return whether a value lies in it; nan, which is no value, does not."""
        return self.low <= value <= self.high


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    output_dir: Path = run.REPOSITORY / "outputs"
    """Folder of the results to compare."""
    reference: Path = run.REPOSITORY / "outputs" / "reference" / "results.csv"
    """Numbers of the published run."""


def expected_range(values: pandas.Series, level: float, tolerance: float) -> Range:
    """Return where the next of these values by seed lies, by Student's t; widened by a tolerance.

    A single value tells no spread: then the tolerance is all.
    """
    n = len(values)
    half = tolerance
    if n > 1:
        half += stats.t.ppf((1 + level) / 2, n - 1) * values.std() * math.sqrt(1 + 1 / n)
    return Range(values.mean(), values.mean() - half, values.mean() + half)


def values_of(numbers: pandas.DataFrame, number: Number | Comparison) -> pandas.Series:
    """Return a number or a difference by seed."""
    if isinstance(number, Comparison):
        return tables.differences(numbers, number.after, number.before)
    return tables.per_seed(numbers, number)


def compare_headline(
    number: Number | Comparison, fresh: pandas.DataFrame, reference: pandas.DataFrame
) -> tuple[str, bool]:
    """Return a line about one of README's main numbers, and whether it was reproduced."""
    published, here = values_of(reference, number), values_of(fresh, number)
    if published.empty or here.empty:
        where = "in the published run" if published.empty else "here"
        return f"{number}: missing {where}", False

    if isinstance(number, Comparison):
        form = MEASURES[number.after.measure]
        write = form.format_difference
    else:
        form = MEASURES[number.measure]
        write = form.format
    expected = expected_range(published, HEADLINE_LEVEL, form.last_digit)
    is_reproduced = expected.holds(here.mean())
    line = f"{number}: {write(here.mean())}, published {write(expected.mean)}"
    line += f", expected {write(expected.low)} to {write(expected.high)}"
    return line + ("" if is_reproduced else ": NOT REPRODUCED"), is_reproduced


def count_others(fresh: pandas.DataFrame, reference: pandas.DataFrame) -> tuple[int, int]:
    """Return how many of the other numbers lie in their ranges, and how many there are."""
    inside = total = 0
    for step, model, subset, split, measure in tables.pool(reference).index:
        number = Number(step, model, measure, subset, split)
        if number in HEADLINES or measure in UNCOUNTED or step not in set(fresh.step):
            continue
        tolerance = TOLERANCES.get(number, MEASURES[measure].last_digit)
        expected = expected_range(tables.per_seed(reference, number), LEVEL, tolerance)
        inside += expected.holds(tables.per_seed(fresh, number).mean())
        total += 1
    return inside, total


def is_the_same(fresh: pandas.DataFrame, reference: pandas.DataFrame) -> bool:
    """Return whether a seed's numbers are all those published for it, to the digits published."""
    both = fresh.merge(reference, on=[*tables.KEY, "seed"], suffixes=("", "_published"))
    both = both[~both.measure.isin(UNCOUNTED)]
    is_close = (both.value - both.value_published).abs() <= 1e-5 * both.value_published.abs()
    return bool(len(both) and is_close.all())


def refuse_others(published: Published) -> None:
    """Raise InputError unless all results are of MNIST, by the scripts' own options."""
    for step, result in published.firsts.items():
        dataset = result.config["options"]["dataset"]
        if dataset != "mnist":
            raise run.InputError(
                f"{result.folder}: got results of {dataset}, expected mnist, as in the published"
                " run"
            )
        command = result.config["command"]
        default = run.command(run.REPOSITORY / f"{step}.py", run.Options(seed=result.seed))
        if command != default:
            raise run.InputError(
                f"{result.folder}: got results of `{command}`, expected `{default}`, as in the"
                " published run"
            )


def main(config: Config) -> None:
    """Print the comparison; RunError if one of README's main numbers was not reproduced."""
    results = tables.read(config.output_dir)
    refuse_others(results)
    reference = run.read_table(config.reference)
    first_seed = next(iter(results.firsts.values())).seed
    fresh = results.numbers[results.numbers.seed == first_seed]

    reproduced = 0
    for number in HEADLINES:
        line, is_reproduced = compare_headline(number, fresh, reference)
        reproduced += is_reproduced
        print(line)

    print(f"{reproduced} of the {len(HEADLINES)} main numbers of README were reproduced")
    inside, total = count_others(fresh, reference)
    print(
        f"of the others {inside} of {total} lie where one more seed would;"
        f" by chance about {LEVEL * total:.0f} would"
    )
    if is_the_same(fresh, reference):
        print(f"every number is the published seed {first_seed}'s own: the same draw, no other one")
    if reproduced < len(HEADLINES):
        raise run.RunError("not every main number of README was reproduced")


if __name__ == "__main__":
    run.command_line(main, Config)
