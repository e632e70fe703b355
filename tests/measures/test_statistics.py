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


def test_a_single_value_has_no_interval():
    found = interval(pandas.Series([0.5]))
    assert (found.mean, found.n) == (0.5, 1)
    assert math.isnan(found.low) and math.isnan(found.high)


def test_it_covers_the_truth_in_95_of_100_cases_but_not_over_subsets_that_share_a_seed():
    # 1,500 experiments of 4 seeds, each with an encoder of its own, and 3 subsets of each.
    random = numpy.random.default_rng(0)
    truth = 0.3
    by_seed = random.normal(truth, 1.0, (1_500, 4, 1))
    values = by_seed + random.normal(0.0, 0.5, (1_500, 4, 3))

    def coverage(experiments: numpy.ndarray) -> float:
        covered = 0
        for experiment in experiments:
            found = interval(pandas.Series(experiment))
            covered += found.low <= truth <= found.high
        return covered / len(experiments)

    assert coverage(values.mean(axis=2)) == pytest.approx(0.95, abs=0.017)  # 3 deviations
    assert coverage(values.reshape(1_500, 12)) < 0.8
