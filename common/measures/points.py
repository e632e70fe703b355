"""What all measures share: points as rows of float64, labels from 0 to 9, and sums of squares
within a digit.
"""

import numpy
from numpy.typing import NDArray as Array

from common.models import CLASSES

ROUNDING = 1e-24  # differences below this share of the sum of squares are float64 rounding


def as_rows(points: Array) -> Array:
    """Return points (N, ...) as (N, D) float64. ValueError unless all are finite."""
    rows = numpy.asarray(points, numpy.float64).reshape(len(points), -1)
    if not numpy.isfinite(rows).all():
        raise ValueError(
            "points: got values that are not finite, expected numbers: has the training diverged?"
        )
    return rows


def check_labels(points: Array, labels: Array) -> Array:
    """Return labels as (N,) int64. ValueError unless there is one per point and each digit occurs
    at least twice.
    """
    labels = numpy.asarray(labels)
    if labels.shape != (len(points),):
        raise ValueError(
            f"labels: got shape {labels.shape}, expected one for each of {len(points)} points"
        )
    counts = [int((labels == digit).sum()) for digit in range(CLASSES)]
    if min(counts) < 2 or sum(counts) < len(labels):
        others = len(labels) - sum(counts)
        raise ValueError(
            f"labels: got {counts} of 0 to 9 and {others} others,"
            " expected 2 or more of each digit and no others"
        )
    return labels.astype(numpy.int64)


def squares_within(points: Array, labels: Array) -> Array:
    """Return the sum of squared distances to the class mean, for each class: (10,), from points (N,
    D).
    """
    sums = []
    for digit in range(CLASSES):
        of_digit = points[labels == digit]
        sums.append(((of_digit - of_digit.mean(0)) ** 2).sum())
    return numpy.array(sums)


def class_means(points: Array, labels: Array) -> Array:
    """Return the mean point of each class: (10, D) float64, D the number of values of a point."""
    points = as_rows(points)
    labels = check_labels(points, labels)
    return numpy.stack([points[labels == digit].mean(0) for digit in range(CLASSES)])
