"""studies/label_curve.py: a small run beside Q4 and Q5, and what labels are worth."""

import json
import math
import shutil

import pandas
import pytest

from studies.label_curve import worth_in_labels
from tests import helpers


def test_trains_with_other_numbers_of_labels_and_reads_q4s(pretrained, data_dir, tmp_path):
    outputs = shutil.copytree(pretrained, tmp_path / "outputs")
    done = helpers.run_module(
        "studies.label_curve",
        *("--dataset", "own", "--data-dir", data_dir, "--output-dir", outputs),
        *("--shots", 1, 3),
    )
    assert done.returncode == 0, done.stderr

    folder = outputs / "studies" / "label_curve"
    assert (folder / "curve.png").exists()
    numbers = pandas.read_csv(folder / "numbers.csv", keep_default_na=False)
    accuracy = numbers[numbers.measure == "accuracy"].set_index("model").value
    options = json.loads((outputs / "q4_few_shot" / "config.json").read_text())["options"]
    for shots in (1, 3):
        for start in ("scratch", "fine-tuned", "frozen", "two views, frozen"):
            assert len(accuracy[[f"{start}, {shots} per digit"]]) == options["subsets"]
    # Those with Q4's number of labels are in Q4's and Q5's results.
    assert f"scratch, {options['shots']} per digit" not in accuracy


def test_worth_lies_on_a_straight_line_over_the_logarithm():
    scratch = pandas.Series({1: 0.2, 10: 0.4, 100: 0.8})
    assert worth_in_labels(0.3, scratch) == pytest.approx(math.sqrt(10))
    assert worth_in_labels(0.4, scratch) == pytest.approx(10)
    assert worth_in_labels(0.7, scratch) == pytest.approx(10 ** (1 + 0.3 / 0.4))


def test_worth_where_scratch_falls_is_read_off_its_highest_value_so_far():
    scratch = pandas.Series({1: 0.2, 10: 0.6, 100: 0.4, 1_000: 0.8})
    assert worth_in_labels(0.4, scratch) == pytest.approx(math.sqrt(10))
    assert worth_in_labels(0.7, scratch) == pytest.approx(10**2.5)


def test_worth_outside_of_what_was_tried_is_not_known():
    scratch = pandas.Series({1: 0.2, 10: 0.4})
    assert math.isnan(worth_in_labels(0.1, scratch))
    assert math.isnan(worth_in_labels(0.5, scratch))
