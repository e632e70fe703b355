"""What latents keep of a digit and of how it was written, and how far apart digits lie in them.

Points are arrays (N, ...), latents or images; labels (N,) are 0 to 9, two points or more of each.
All is computed in float64. *Scale-free* measures do not change when all points are multiplied by
one number, so that networks may be compared by them. Values that are not finite, other shapes and
labels raise ValueError.
"""

import dataclasses

import numpy
from numpy.typing import NDArray as Array
from sklearn.base import RegressorMixin
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from common.measures.points import ROUNDING, as_rows, check_labels, squares_within
from common.models import CLASSES

SILHOUETTE_POINTS = 2_000  # its time grows with the square


@dataclasses.dataclass(frozen=True)
class Coded:
    """Latents (N, D) of some images and their labels (N,)."""

    latents: Array
    labels: Array


def silhouette(points: Array, labels: Array, seed: int = 0) -> float:
    """Return the mean of (b - a) / max(a, b) over at most 2,000 points, sampled by ``seed``
    (Rousseeuw 1987).

    a is the mean distance to the others of the same class, b that to the nearest other class. From
    -1 to 1 (collapsed classes); higher means better separated. Scale-free.
    """
    points = as_rows(points)
    labels = check_labels(points, labels)
    sample = min(SILHOUETTE_POINTS, len(points))
    return float(silhouette_score(points, labels, sample_size=sample, random_state=seed))


def linear_probe_accuracy(train: Coded, test: Coded) -> float:
    """Return the test accuracy of logistic regression on standardised latents (Alain and Bengio
    2016). Scale-free.
    """
    train_labels = check_labels(train.latents, train.labels)
    test_labels = check_labels(test.latents, test.labels)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000))
    probe.fit(as_rows(train.latents), train_labels)
    return float(probe.score(as_rows(test.latents), test_labels))


def r2_within_digits(
    probe: RegressorMixin, train: Coded, train_targets: Array, test: Coded, test_targets: Array
) -> float:
    """Return the R^2 within digits of targets (N,) predicted from latents by ``probe``, fitted anew
    to each digit.

    R^2 = 1 - SSE / SST, summed over the digits, SST about the mean of the digit's targets. From
    minus infinity through 0 (no better than that mean) to 1. Latents are standardised by the
    digit's train latents, so it is scale-free.

    One probe per digit, because the digit itself must not help to predict; and a single one would
    have to be blind to the class means: where these are far apart a ridge finds nothing. ValueError
    if no digit's targets vary.
    """
    train_latents, test_latents = as_rows(train.latents), as_rows(test.latents)
    train_labels = check_labels(train_latents, train.labels)
    test_labels = check_labels(test_latents, test.labels)
    train_targets = as_rows(numpy.reshape(train_targets, (-1, 1)))[:, 0]
    test_targets = as_rows(numpy.reshape(test_targets, (-1, 1)))[:, 0]

    total = squares_within(test_targets[:, None], test_labels).sum()
    if total <= ROUNDING * (test_targets**2).sum():
        raise ValueError("targets: got one value per digit, expected ones that vary within a digit")
    squared_error = 0.0
    for digit in range(CLASSES):
        of_train = train_labels == digit
        of_test = test_labels == digit
        fitted = make_pipeline(StandardScaler(), probe).fit(
            train_latents[of_train], train_targets[of_train]
        )
        predicted = fitted.predict(test_latents[of_test])
        squared_error += ((test_targets[of_test] - predicted) ** 2).sum()
    return float(1 - squared_error / total)
