"""Tests of common/measures/overfitting.py on curves worked by hand."""

import pandas
import pytest

from common.measures.overfitting import overfitting


def history(curves: dict[tuple[str, str], list[float]]) -> pandas.DataFrame:
    """Return a history from values at steps 0, 2, 4 and 8 by split and measure."""
    rows = [(2, "train", "accuracy", 0.3)]  # of a batch, which does not count
    for (split, measure), values in curves.items():
        for step, value in zip((0, 2, 4, 8), values, strict=True):
            rows.append((step, split, measure, value))
    return pandas.DataFrame(rows, columns=["step", "split", "measure", "value"])


def test_a_classifier():
    curves = {
        ("labelled", "accuracy"): [0.1, 1.0, 0.9, 1.0],
        ("labelled", "cross_entropy"): [2.0, 0.5, 0.1, 0.01],
        ("test", "accuracy"): [0.1, 0.5, 0.7, 0.75],
        ("test", "cross_entropy"): [2.0, 0.5, 0.6, 0.75],
    }
    expected = {"lowest_loss_step": 2, "last_over_lowest_loss": 1.5}
    measured = overfitting(history(curves), "cross_entropy")
    assert measured == expected | {"fitted_step": 8, "gain_after_fitted": 0.0}

    curves["labelled", "accuracy"] = [0.1, 0.9, 1.0, 1.0]
    measured = overfitting(history(curves), "cross_entropy")
    assert measured["fitted_step"] == 4
    assert measured["gain_after_fitted"] == pytest.approx(0.05)

    curves["labelled", "accuracy"] = [1.0, 1.0, 1.0, 1.0]  # from before training on
    measured = overfitting(history(curves), "cross_entropy")
    assert measured["fitted_step"] == 0
    assert measured["gain_after_fitted"] == pytest.approx(0.65)


def test_an_autoencoder_whose_loss_never_rises():
    curves = {("labelled", "l1"): [0.2, 0.1, 0.05, 0.01], ("test", "l1"): [0.2, 0.1, 0.08, 0.05]}
    measured = overfitting(history(curves), "l1")
    assert measured == {"lowest_loss_step": 8, "last_over_lowest_loss": 1.0}
