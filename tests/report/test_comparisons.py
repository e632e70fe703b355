"""Tests of common/report/comparisons.py: corrections worked by hand."""

import pytest
from scipy import stats

from common.report import comparisons, verdicts
from common.report import numbers as tables
from common.report.comparisons import COMPARISONS, CONTROLS
from tests.report.written import write_step


def test_holm_against_an_example_worked_by_hand():
    # 4 x .005, 3 x .01, 2 x .03, and .04 may not fall below the one before.
    assert comparisons.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert comparisons.holm([0.6, 0.5]) == pytest.approx([1.0, 1.0])
    assert comparisons.holm([]) == []


def write_controls(output_dir, seeds):
    """Write seeds in which logits explain much more than probabilities, and a random encoder
    predicts slant a little better than Q2.
    """
    logits, probabilities = [0.30, 0.31, 0.32], [0.01, 0.0, 0.02]
    random, q2 = [0.60, 0.55, 0.52], [0.50, 0.53, 0.55]
    for seed in range(seeds):
        rows = [
            ("logits", "", "test", "variance_explained", logits[seed]),
            ("probabilities", "", "test", "variance_explained", probabilities[seed]),
            ("random encoder", "", "test", "slant_r2", random[seed]),
            ("Q2", "", "test", "slant_r2", q2[seed]),
        ]
        write_step(output_dir, CONTROLS, seed, rows)
    return tables.read(output_dir).numbers


def test_what_is_measured_is_corrected_for_its_number(tmp_path):
    compared = comparisons.of_step(write_controls(tmp_path, seeds=3), CONTROLS)
    first, second = compared  # the study's others were not measured
    p = stats.ttest_1samp([0.29, 0.31, 0.30], 0).pvalue
    assert (first.p, first.evidence) == (pytest.approx(2 * p, rel=1e-3), "real")
    assert second.evidence == "not shown" and second.p > 0.05
    assert first.judged.difference.mean == pytest.approx(0.30)


def test_one_seed_shows_nothing(tmp_path):
    compared = comparisons.of_step(write_controls(tmp_path, seeds=1), CONTROLS)
    assert {one.evidence for one in compared} == {verdicts.ONE_SEED}
    assert {one.p_text() for one in compared} == {""}


def test_a_question_has_no_comparisons(tmp_path):
    assert comparisons.of_step(write_controls(tmp_path, seeds=1), "q1_autoencoder") == []
    assert all(step.startswith("studies/") for step in COMPARISONS)
