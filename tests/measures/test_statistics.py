"""Tests of common/measures/statistics.py: the interval covers what it says."""

import math

import numpy
import pandas
import pytest
from scipy import stats

from common.measures.statistics import interval


def test_interval_by_scipy():
    values = [0.19, 0.18, 0.195]
    low, high = stats.t(2, numpy.mean(values), stats.sem(values)).interval(0.95)
    found = interval(pandas.Series(values))
    assert (found.mean, found.low, found.high, found.n) == pytest.approx((0.565 / 3, low, high, 3))

    single = interval(pandas.Series([0.5]))
    assert (single.mean, single.n) == (0.5, 1)
    assert math.isnan(single.low) and math.isnan(single.high)


def test_it_covers_the_truth_in_95_of_100_cases_but_not_over_subsets_that_share_a_seed():
    # 1,000 experiments of 4 seeds, each with an encoder of its own, and 3 subsets of each.
    random = numpy.random.default_rng(0)
    truth = 0.3
    by_seed = random.normal(truth, 1.0, (1_000, 4, 1))
    values = by_seed + random.normal(0.0, 0.5, (1_000, 4, 3))

    def coverage(experiments: numpy.ndarray) -> float:
        covered = 0
        for experiment in experiments:
            found = interval(pandas.Series(experiment))
            covered += found.low <= truth <= found.high
        return covered / len(experiments)

    assert coverage(values.mean(axis=2)) == pytest.approx(0.95, abs=0.021)  # 3 deviations
    assert coverage(values.reshape(1_000, 12)) < 0.8
