"""Tests of common/report/verdicts.py and answers.py: verdicts worked by hand."""

import dataclasses

import pytest

from common.measures.names import MEASURES
from common.report import answers, verdicts
from common.report import numbers as tables
from common.report.numbers import Number
from common.report.verdicts import Claim, Comparison
from tests.report.written import write_step

Q3 = "q3_frozen_decoder"
ABOUT_09 = [0.9, 0.901, 0.899]


def numbers_of(output_dir, **values_by_model):
    """Return a table of Q3's slant_r2, values by seed."""
    count = len(next(iter(values_by_model.values())))
    for seed in range(count):
        rows = []
        for model, values in values_by_model.items():
            rows.append((model, "", "test", "slant_r2", values[seed]))
        write_step(output_dir, Q3, seed, rows)
    return tables.read(output_dir).numbers


@pytest.mark.parametrize(
    ("wanted", "q3", "verdict"),
    [
        ("lower", [0.5, 0.6, 0.55], "holds"),
        ("lower", [0.5, 0.6, 0.95], "not shown"),  # the mean is lower, the interval reaches over 0
        ("lower", [0.95, 0.96, 0.82], "not shown"),  # likewise, with the mean on the wrong side
        ("lower", [0.95, 0.94, 0.96], "refuted"),
        ("higher", [0.95, 0.94, 0.96], "holds"),
        ("higher", [0.5, 0.6, 0.55], "refuted"),
        ("lower", [0.5], "one seed"),
    ],
)
def test_a_verdict_is_by_the_whole_interval(wanted, q3, verdict, tmp_path):
    numbers = numbers_of(tmp_path, Q1=ABOUT_09[: len(q3)], Q3=q3)
    comparison = Comparison(Number(Q3, "Q3", "slant_r2"), Number(Q3, "Q1", "slant_r2"), wanted)
    judged = verdicts.compare(numbers, comparison)
    assert judged.verdict == verdict
    assert judged.difference.n == len(q3)
    assert judged.sides == pytest.approx([sum(q3) / len(q3), 0.9], abs=1e-6)
    assert judged.difference.mean == pytest.approx(sum(q3) / len(q3) - 0.9, abs=1e-6)


def test_of_two_measures_the_weaker_one_counts(tmp_path):
    numbers = numbers_of(tmp_path, low=[0.5, 0.51, 0.49], middle=[0.6, 0.9, 0.7], high=ABOUT_09)

    def below(model, other):
        after, before = Number(Q3, model, "slant_r2"), Number(Q3, other, "slant_r2")
        return Comparison(after, before, "lower")

    holds, refuted = below("low", "high"), below("high", "low")
    not_shown, not_measured = below("middle", "high"), below("low", "nobody")
    for primary, verdict in [
        ([holds, holds], "holds"),
        ([holds, not_shown], "not shown"),
        ([not_shown, refuted], "refuted"),
        ([holds, not_measured], "not measured"),
    ]:
        beside = [refuted, not_measured]
        judged = verdicts.judge(numbers, Claim("", "", primary, beside))
        assert judged.verdict == verdict
        assert len(judged.primary) == len(primary) - (not_measured in primary)
        assert len(judged.beside) == 1


def test_a_number_may_be_compared_with_a_fixed_value(tmp_path):
    numbers = numbers_of(tmp_path, Q3=ABOUT_09)
    after = Number(Q3, "Q3", "slant_r2")
    above = verdicts.compare(numbers, Comparison(after, 0.8, "higher"))
    assert above.verdict == "holds"
    assert above.sides == pytest.approx([0.9, 0.8])
    itself = verdicts.compare(numbers, Comparison(after, 0.0))
    assert itself.difference.mean == pytest.approx(0.9)
    assert itself.text().startswith("0.900 (0.898 to 0.902)")


def test_every_claim_about_the_five_questions_is_measured_by_them(trained):
    numbers = tables.read(trained).numbers
    for claim in verdicts.CLAIMS:
        for comparison in claim.primary + claim.beside:
            sides = [comparison.after, comparison.before]
            steps = [side.step for side in sides if isinstance(side, Number)]
            assert all(side.measure in MEASURES for side in sides if isinstance(side, Number))
            if all(step.startswith("q") for step in steps):
                assert verdicts.compare(numbers, comparison) is not None, comparison
    assert {judged.verdict for judged in verdicts.judge_all(numbers)} <= {
        "one seed",
        "not measured",
    }


def test_there_are_three_answers(trained):
    numbers = tables.read(trained).numbers
    answered = answers.answer_all(numbers)
    assert len(answered) == 3
    kept = numbers.query("model == 'Q1' and measure == 'deviation_kept'").value.item()
    assert f"{kept:.3f}" in answered[0][1]
    assert answers.answer_all(numbers[numbers.step != Q3]) == answered[2:]


def test_the_error_over_test_images_widens_the_interval(tmp_path):
    numbers = numbers_of(tmp_path, Q1=ABOUT_09, Q3=[0.5, 0.6, 0.55], error=[0.1, 0.1, 0.1])
    plain = Comparison(Number(Q3, "Q3", "slant_r2"), Number(Q3, "Q1", "slant_r2"))
    resampled = dataclasses.replace(plain, sampling_error=Number(Q3, "error", "slant_r2"))
    narrow = verdicts.compare(numbers, plain).difference
    wide = verdicts.compare(numbers, resampled).difference
    assert wide.mean == narrow.mean
    half = (narrow.high - narrow.mean) ** 2 + (1.959964 * 0.1) ** 2
    assert wide.high - wide.mean == pytest.approx(half**0.5) == wide.mean - wide.low
    assert "resampled" in str(resampled) and "resampled" not in str(plain)
