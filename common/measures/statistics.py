"""Intervals over independent seeds."""

import dataclasses

import pandas
from scipy import stats


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean of n independent values, and its 95 % interval; low and high are nan for a single
    value.
    """

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.4g} ({self.low:.4g} to {self.high:.4g})"


def interval(values: pandas.Series) -> Interval:
    """Return mean and 95 % interval of independent values by Student's t: one value per seed.

    Values that share an encoder, such as the subsets of one seed, are not independent: average them
    first.
    """
    values = pandas.Series(values, dtype=float)
    n = len(values)
    if n < 2:
        return Interval(values.mean(), float("nan"), float("nan"), n)
    half = stats.t.ppf(0.975, n - 1) * values.sem()
    return Interval(values.mean(), values.mean() - half, values.mean() + half, n)
