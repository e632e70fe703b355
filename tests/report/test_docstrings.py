"""Numbers in the scripts' docstrings, and intervals in README, are those of the published run."""

import ast
import re

import pandas
import pytest

from common import run
from common.measures.names import MEASURES
from common.report import comparisons, verdicts
from common.report import numbers as tables

ROOT = run.REPOSITORY
SCRIPTS = sorted([*ROOT.glob("q[1-9]_*.py"), *ROOT.glob("studies/*.py")])
NUMBERS = run.read_table(ROOT / "outputs" / "reference" / "results.csv").fillna({"subset": ""})
CELL = re.compile(r"-?[\d.,]+( ± [\d.e-]+)?")
# +9.2 (+5.0 to +13.4)
INTERVAL = re.compile(r"([+-][\d.]+) \(([+-][\d.]+) to ([+-][\d.]+)\)")


def step_of(script):
    return script.relative_to(ROOT).with_suffix("").as_posix()


def table_rows(docstring, models):
    """Return the rows of a docstring's tables: (model, cells). A row is indented, and begins with a
    model's name and two spaces.
    """
    rows = []
    for line in docstring.splitlines():
        for model in models:
            if line.startswith(f"    {model}  "):
                cells = re.split(r"  +", line.removeprefix(f"    {model}").strip())
                if all(CELL.fullmatch(cell) for cell in cells):
                    rows.append((model, cells))
    return rows


def published_texts(step, model):
    """Return what may be written of a model: means, with and without their deviations."""
    of_model = NUMBERS[NUMBERS.model == model]
    if step in set(of_model.step):
        of_model = of_model[of_model.step == step]
    texts = set()
    for (*_, measure), row in tables.pool(of_model).iterrows():
        text = tables.mean_text(MEASURES[measure], row["mean"], row["std"]).replace("%", "")
        texts |= {text, text.partition(" ± ")[0]}
    return texts


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
    return tuple(f"{scale * value:+.{digits}f}" for value in values)


def assert_published(text):
    """Assert that every difference with an interval is one that the report prints."""
    for texts in INTERVAL.findall(text):
        digits = len(texts[0].partition(".")[2])
        assert texts in {rounded(judged, digits) for judged in all_compared()}


@pytest.mark.parametrize("script", SCRIPTS, ids=step_of)
def test_numbers_of_docstrings_are_published(script):
    docstring = ast.get_docstring(ast.parse(script.read_text("utf-8"))) or ""
    for model, cells in table_rows(docstring, NUMBERS.model.unique()):
        assert set(cells) <= published_texts(step_of(script), model), model
    assert_published(docstring)


@pytest.mark.parametrize("name", ["README.md", "studies/README.md"])
def test_intervals_of_a_readme_are_published(name):
    assert_published((ROOT / name).read_text("utf-8"))


def test_studies_have_a_table_in_their_docstring():
    published = {name for name in NUMBERS.step if name.startswith("studies/")}
    for step in published - {"studies/label_curve", "studies/other_data"}:
        docstring = ast.get_docstring(ast.parse((ROOT / f"{step}.py").read_text("utf-8")))
        assert table_rows(docstring, NUMBERS.model.unique()), step


@pytest.mark.parametrize("step", comparisons.COMPARISONS)
def test_all_that_a_study_compares_is_published(step):
    if step in set(NUMBERS.step):
        assert len(comparisons.of_step(NUMBERS, step)) == len(comparisons.COMPARISONS[step])


def test_a_wrong_number_is_found():
    number = pandas.Series({"model": "Q1"})
    ((_, cells),) = table_rows("    Q1  9.9999\n    Q1, or not\n", [number.model])
    assert not set(cells) <= published_texts("q1_autoencoder", "Q1")
