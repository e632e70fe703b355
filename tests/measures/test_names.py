"""Tests of common/measures/names.py: how numbers are written and put into a table."""

import pandas
import pytest

from common.measures.names import Measure, table


@pytest.mark.parametrize(
    ("measure", "value", "text", "difference"),
    [
        (Measure("L1", 4), 0.02661, "0.0266", "+0.0266"),
        (Measure("accuracy", 1, percent=True), 0.98764, "98.8%", "+98.8 points"),
        (Measure("weights", 0), 156044, "156,044", "+156,044"),
        (Measure("R²", 2), -3.0, "-3.00", "-3.00"),
    ],
)
def test_values_and_differences_as_text(measure, value, text, difference):
    assert measure.format(value) == text
    assert measure.format_difference(value) == difference


def test_a_table_has_means_and_deviations_of_the_balanced_subsets_on_test_images():
    rows = [
        ("scratch", "report", "test", "accuracy", 0.10),
        ("scratch", "balanced 1", "test", "accuracy", 0.80),
        ("scratch", "balanced 2", "test", "accuracy", 0.90),
        ("scratch", "balanced 1", "labelled", "accuracy", 1.00),
        ("all labels", "", "test", "accuracy", 0.99),
        ("all labels", "", "test", "cross_entropy", 0.0415),
    ]
    numbers = pandas.DataFrame(rows, columns=["model", "subset", "split", "measure", "value"])
    text = table(numbers, ["scratch", "all labels"], ["accuracy", "cross_entropy"])
    heading, accuracy, cross_entropy = text.splitlines()
    assert heading.split() == ["scratch", "all", "labels"]
    assert accuracy.split() == ["accuracy", "85.00%", "±", "7.07", "99.00%"]
    assert cross_entropy.split()[-1] == "0.042"
