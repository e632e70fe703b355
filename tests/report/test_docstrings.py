"""Numbers in the scripts' docstrings, and intervals in README, are those of the published run."""

import ast
import functools
import re

import pandas
import pytest

from common import run
from common.measures.names import MEASURES
from common.report import comparisons, docstrings, verdicts
from common.report import numbers as tables

ROOT = run.REPOSITORY
NUMBERS = run.read_table(ROOT / "outputs" / "reference" / "results.csv").fillna({"subset": ""})
# 99.10% ± 0.10
MEAN = re.compile(r"[\d.]+%? ± [\d.e-]+")
# +9.2 (+5.0 to +13.4), or 0.0 (-0.2 to +0.2)
INTERVAL = re.compile(r"([+-]?[\d.]+) \(([+-][\d.]+) to ([+-][\d.]+)\)")


@functools.cache
def all_compared():
    """Return every comparison that the report prints."""
    judged = []
    for claim in verdicts.judge_all(NUMBERS):
        judged += claim.primary + claim.beside
    for step in comparisons.COMPARISONS:
        judged += [one.judged for one in comparisons.of_step(NUMBERS, step)]
    return judged


def rounded(judged, digits):
    """Return a difference and its interval as text, in points where it is one of fractions."""
    scale = 100 if MEASURES[judged.comparison.after.measure].percent else 1
    found = judged.difference
    values = (found.mean, found.low, found.high)
    return tuple(signed(scale * value, digits) for value in values)


def signed(value, digits):
    """Return a value as text with its sign, 0 without one."""
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]


@functools.cache
def compared_on_other_data():
    """Return differences and their intervals as studies/other_data has them."""
    claims = pandas.read_csv(ROOT / "outputs/reference/studies/other_data/claims.csv")
    return set(INTERVAL.findall(" ".join(claims.text).replace(" points", "")))


def assert_published(text):
    """Assert that every difference with an interval is one that the report prints."""
    for texts in INTERVAL.findall(text):
        digits = len(texts[0].partition(".")[2])
        published = {rounded(judged, digits) for judged in all_compared()}
        assert texts in published | compared_on_other_data()


@pytest.mark.parametrize("step", docstrings.scripts())
def test_tables_of_a_docstring_are_published(step):
    source = docstrings.scripts()[step].read_text("utf-8")
    if step in set(NUMBERS.step):
        assert docstrings.fill(source, step, NUMBERS) == source


@pytest.mark.parametrize("step", docstrings.scripts())
def test_intervals_of_a_docstring_are_published(step):
    source = docstrings.scripts()[step].read_text("utf-8")
    assert_published(ast.get_docstring(ast.parse(source)) or "")


def test_every_study_is_in_the_list_of_studies():
    listed = re.findall(
        r"^\| \[`\w+`\]\((\w+).py\)", (ROOT / "studies/README.md").read_text(), re.M
    )
    assert sorted(listed) == sorted(path.stem for path in ROOT.glob("studies/[a-z]*.py"))


@pytest.mark.parametrize("name", ["README.md", "studies/README.md"])
def test_means_of_a_readme_are_published(name):
    pooled = tables.pool(NUMBERS).reset_index()
    published = set()
    for number in pooled.itertuples():
        published.add(MEASURES[number.measure].format_mean(number.mean, number.std))
    assert set(MEAN.findall((ROOT / name).read_text("utf-8"))) <= published


@pytest.mark.parametrize("name", ["README.md", "studies/README.md"])
def test_intervals_of_a_readme_are_published(name):
    assert_published((ROOT / name).read_text("utf-8"))


@pytest.mark.parametrize("step", comparisons.COMPARISONS)
def test_all_that_a_study_compares_is_published(step):
    if step in set(NUMBERS.step):
        assert len(comparisons.of_step(NUMBERS, step)) == len(comparisons.COMPARISONS[step])


def test_a_table_is_filled_by_its_header_and_its_models():
    columns = ["step", "model", "subset", "split", "measure", "seed", "value"]
    rows = [
        ("studies/one", "frozen", "balanced 1", "test", "accuracy", 0, 0.90),
        ("studies/one", "frozen", "balanced 2", "test", "accuracy", 0, 0.92),
        ("studies/one", "frozen", "report", "test", "accuracy", 0, 0.8),
        ("q5_transfer", "frozen", "balanced 1", "test", "accuracy", 0, 0.1),
        ("q1_autoencoder", "Q1", "", "test", "l1", 0, 0.0271),
    ]
    numbers = pandas.DataFrame(rows, columns=columns)
    source = """A question, of 9 seeds, and all 9 seeds?

              accuracy   accuracy/report  l1
    frozen    9   9
    Q1
    nobody    1

    accuracy is a word
"""
    filled = """A question, of 1 seed, and all 9 seeds?

             accuracy        accuracy/report   l1
    frozen   91.00% ± 1.41   80.00%            -
    Q1       -               -                 0.0271
    nobody   -               -                 -

    accuracy is a word
"""
    assert docstrings.fill(source, "studies/one", numbers) == filled
