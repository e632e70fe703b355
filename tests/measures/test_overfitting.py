"""Tests of common/measures/overfitting.py on curves worked by hand."""

import pandas
import pytest

from common.measures.overfitting import overfitting

LABELLED = [2.0, 0.5, 0.1, 0.01]


def history(measure: str, labelled: list[float], test: list[float]) -> pandas.DataFrame:
    """Return a history: records at steps 0, 2, 4 and 8, and a batch, which is no record."""
    rows = [(2, "train", measure, 0.3)]
    for split, values in (("labelled", labelled), ("test", test)):
        for step, value in zip((0, 2, 4, 8), values, strict=True):
            rows.append((step, split, measure, value))
    return pandas.DataFrame(rows, columns=["step", "split", "measure", "value"])


@pytest.mark.parametrize(
    ("labelled", "fitted_step", "gain"),
    [
        ([0.1, 0.9, 1.0, 1.0], 4, 0.05),
        ([0.1, 1.0, 0.9, 1.0], 8, 0.0),
        ([1.0, 1.0, 1.0, 1.0], 0, 0.65),  # from before training on
    ],
)
def test_a_classifier(labelled, fitted_step, gain):
    losses = history("cross_entropy", LABELLED, [2.0, 0.5, 0.6, 0.75])
    accuracies = history("accuracy", labelled, [0.1, 0.5, 0.7, 0.75])
    measured = overfitting(pandas.concat([losses, accuracies]), "cross_entropy")
    expected = {"lowest_loss_step": 2, "last_over_lowest_loss": 1.5}
    expected |= {"fitted_step": fitted_step, "gain_after_fitted": gain}
    assert measured == pytest.approx(expected)


def test_an_autoencoder_whose_loss_never_rises():
    measured = overfitting(history("l1", LABELLED, [0.2, 0.1, 0.08, 0.05]), "l1")
    assert measured == {"lowest_loss_step": 8, "last_over_lowest_loss": 1.0}
