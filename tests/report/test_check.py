"""Tests of common/report/check.py: a fresh run against a published one."""

import numpy
import pandas
import pytest
from scipy import stats

from common import run
from common.report import check
from common.report import numbers as tables
from common.report.numbers import BALANCED
from common.report.verdicts import Comparison
from tests.report.written import write_step

SPREAD = [0.0, 0.003, -0.003]  # of every number over the seeds
# Not among README's main numbers.
OTHERS = [
    ("mean image", "", "test", "l1", 0.15),
    ("PCA-12", "", "test", "l1", 0.09),
]


def headline_numbers():
    """Return README's main numbers; of a difference, both sides."""
    numbers = []
    for headline in check.HEADLINES:
        if isinstance(headline, Comparison):
            numbers += [headline.after, headline.before]
        else:
            numbers.append(headline)
    return list(dict.fromkeys(numbers))


def write_run(output_dir, seed, **moved):
    """Write a run in which every number is 0.5; ``moved`` adds to numbers by their measure."""
    rows_by_step = {}
    for number in headline_numbers():
        subset = "balanced 1" if number.subset == BALANCED else number.subset
        value = 0.5 + SPREAD[seed] + moved.get(number.measure, 0.0)
        row = (number.model, subset, number.split, number.measure, value)
        rows_by_step.setdefault(number.step, []).append(row)
    for model, *others, value in OTHERS:
        rows_by_step["q1_autoencoder"].append((model, *others, value + moved.get(model, 0.0)))
    for step, rows in rows_by_step.items():
        write_step(output_dir, step, seed, rows)


@pytest.fixture
def reference(tmp_path):
    """The published results.csv."""
    for seed in range(3):
        write_run(tmp_path / "published", seed)
    path = tmp_path / "results.csv"
    tables.read(tmp_path / "published").numbers.to_csv(path, index=False)
    return path


def test_the_next_seed_is_expected_where_students_t_says_and_a_tolerance_farther():
    values = pandas.Series([0.5, 0.503, 0.497])  # deviation 0.003
    half = 4.302653 * 0.003 * (4 / 3) ** 0.5 + 0.01  # t of 2 degrees of freedom at 97.5 %
    expected = check.expected_range(values, 0.95, 0.01)
    assert (expected.low, expected.high) == pytest.approx((0.5 - half, 0.5 + half))
    assert expected.holds(0.5 + 0.999 * half) and not expected.holds(0.5 - 1.001 * half)
    assert not expected.holds(float("nan"))
    single = check.expected_range(values[:1], 0.95, 0.01)
    assert (single.low, single.high) == pytest.approx((0.49, 0.51))


def test_the_expected_range_holds_the_next_of_a_few_values_as_often_as_it_says():
    random = numpy.random.default_rng(0)
    held = 0
    for *few, following in random.normal(0.5, 0.1, (2_000, 6)):
        held += check.expected_range(pandas.Series(few), 0.9, 0.0).holds(following)
    assert stats.binomtest(held, 2_000, 0.9).pvalue > 0.001


def test_a_run_like_the_published_one_is_reproduced(tmp_path, reference, capsys):
    write_run(tmp_path / "fresh", 0, l1=0.0001)
    check.main(check.Config(output_dir=tmp_path / "fresh", reference=reference))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(check.HEADLINES) + 2
    assert not any("NOT" in line for line in lines)
    assert "4 of 4" in lines[-1]  # the accuracies too, of which README states the gains


def test_the_published_seed_itself_is_said_to_be_no_other_draw(tmp_path, reference, capsys):
    for moved, is_said in (({}, True), ({"l1": 0.0001}, False)):
        write_run(tmp_path / "fresh", 0, **moved)
        check.main(check.Config(output_dir=tmp_path / "fresh", reference=reference))
        assert ("the same draw" in capsys.readouterr().out) == is_said


def test_a_number_that_readme_states_decides_and_another_does_not(tmp_path, reference, capsys):
    write_run(tmp_path / "fresh", 0, **{"mean image": 0.1})
    check.main(check.Config(output_dir=tmp_path / "fresh", reference=reference))
    assert "others" in capsys.readouterr().out

    write_run(tmp_path / "fresh", 0, slant_r2=0.2)
    with pytest.raises(run.RunError):
        check.main(check.Config(output_dir=tmp_path / "fresh", reference=reference))
    off = [line for line in capsys.readouterr().out.splitlines() if "NOT" in line]
    assert len(off) == 2  # Q1's and Q3's


def test_a_main_number_may_lie_where_one_in_a_hundred_seeds_does(tmp_path, reference, capsys):
    # 0.003 and 2 degrees of freedom: a prediction interval of 95 % ends 0.015 from the mean, one of
    # 99.9 % 0.109.
    write_run(tmp_path / "fresh", 0, l1=0.04)
    check.main(check.Config(output_dir=tmp_path / "fresh", reference=reference))
    assert "NOT" not in capsys.readouterr().out
    write_run(tmp_path / "fresh", 0, l1=0.12)
    with pytest.raises(run.RunError):
        check.main(check.Config(output_dir=tmp_path / "fresh", reference=reference))


def test_only_the_first_seed_is_compared(tmp_path, reference):
    write_run(tmp_path / "fresh", 0)
    write_run(tmp_path / "fresh", 1, slant_r2=0.2)
    check.main(check.Config(output_dir=tmp_path / "fresh", reference=reference))


def test_a_missing_step_is_not_reproduced(tmp_path, reference, capsys):
    write_step(tmp_path / "fresh", "q2_classifier", 0, [("Q2", "", "test", "accuracy", 0.5)])
    with pytest.raises(run.RunError):
        check.main(check.Config(output_dir=tmp_path / "fresh", reference=reference))
    missing = [line for line in capsys.readouterr().out.splitlines() if "missing" in line]
    assert len(missing) == len(check.HEADLINES) - 1


@pytest.mark.parametrize(
    "change",
    [
        {"options": {"dataset": "kmnist"}},
        {"command": "python q2_classifier.py --epochs 1"},
    ],
)
def test_another_data_set_and_other_options_are_refused(change, tmp_path, reference):
    write_run(tmp_path / "fresh", 0)
    write_step(tmp_path / "fresh", "q2_classifier", 0, [], **change)
    with pytest.raises(run.InputError, match="q2_classifier"):
        check.main(check.Config(output_dir=tmp_path / "fresh", reference=reference))


def test_a_missing_reference_is_the_users_mistake(tmp_path):
    write_run(tmp_path / "fresh", 0)
    with pytest.raises(run.InputError, match="cannot read"):
        check.main(check.Config(output_dir=tmp_path / "fresh", reference=tmp_path / "nothing.csv"))
