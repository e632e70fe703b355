"""Tests of common/measures/reconstructions.py: worked by hand, and PCA by the SVD."""

from math import sqrt

import numpy
import pytest

from common.measures import reconstructions as measures
from common.measures.points import class_means

DIGITS = numpy.arange(10)
LABELS = numpy.arange(300) % 10
IMAGES = numpy.random.default_rng(0).normal(size=(300, 20)) + LABELS[:, None]


def test_one_pixel_worked_by_hand():
    # Digit c lies at 10 c +- 2. Reconstructions at 10 c + 2 +- 1: 1 from the first and 3 from the
    # second. Digit 0 has two of each, and 2 +- 3: 3 and 1 away. The mean images are 1 too high:
    # 1 and 3 from the images.
    labels = numpy.array([0, 0, *DIGITS, *DIGITS])
    signs = numpy.array([1, -1, *[1] * 10, *[-1] * 10])
    images = (10 * labels + 2 * signs)[:, None]
    drawn = (10 * labels + 2 + numpy.where(labels == 0, 3, 1) * signs)[:, None]
    mean_images = 10 * DIGITS[:, None] + 1
    squares = 2 * (9 + 1) + 9 * (1 + 9)
    deviations = 4 * 9 + 18 * 1  # of the reconstructions; of the images 22 * 4

    assert measures.errors(drawn, images) == pytest.approx({"l1": 2, "mse": squares / 22})
    explained = measures.variance_explained_within_digits(drawn, images, labels, mean_images)
    assert explained == pytest.approx(1 - squares / (11 * (1 + 9)))
    kept = measures.deviation_kept_within_digits(drawn, images, labels)
    assert kept == pytest.approx(sqrt(deviations / (22 * 4)))
    kept = measures.deviation_kept_of_each_digit(drawn, images, labels)
    assert kept == pytest.approx([3 / 2, *[1 / 2] * 9])
    correlation = measures.deviation_correlation_within_digits(drawn, images, labels)
    products = 4 * 2 * 3 + 18 * 2 * 1
    assert correlation == pytest.approx(products / sqrt(22 * 4 * deviations))


def test_perfect_mean_and_opposite_reconstructions():
    means = class_means(IMAGES, LABELS)
    opposite = 2 * means[LABELS] - IMAGES
    for drawn, explained, kept in ((IMAGES, 1, 1), (means[LABELS], 0, 0), (opposite, -3, 1)):
        result = measures.variance_explained_within_digits(drawn, IMAGES, LABELS, means)
        assert result == pytest.approx(explained)
        result = measures.deviation_kept_within_digits(drawn, IMAGES, LABELS)
        assert result == pytest.approx(kept, abs=1e-7)
    for drawn, correlation in ((5 * IMAGES, 1), (opposite, -1)):
        result = measures.deviation_correlation_within_digits(drawn, IMAGES, LABELS)
        assert result == pytest.approx(correlation)


def test_pca_is_the_svds():
    random = numpy.random.default_rng(0)
    train, images = random.random((30, 1, 10, 10)), random.random((5, 1, 10, 10))
    mean = train.reshape(30, -1).mean(0)
    components = numpy.linalg.svd(train.reshape(30, -1) - mean, full_matrices=False)[2][:12]
    expected = mean + (images.reshape(5, -1) - mean) @ components.T @ components
    drawn = measures.pca_reconstruct(train, images, 12)
    numpy.testing.assert_allclose(drawn, expected.reshape(images.shape), atol=1e-10)
    # As many as there are images give all that these can.
    again = measures.pca_reconstruct(train, train, 100)
    numpy.testing.assert_allclose(again, train, atol=1e-10)


def test_what_no_measure_takes():
    diverged = numpy.where(numpy.arange(300)[:, None] == 5, numpy.nan, IMAGES)
    same = numpy.full_like(IMAGES, 0.3)
    without_3 = numpy.where(LABELS == 3, 4, LABELS)
    other_digit = numpy.where(numpy.arange(300) == 3, 10, LABELS)
    for drawn, images, labels in (
        (diverged, IMAGES, LABELS),
        (IMAGES, diverged, LABELS),
        (IMAGES, same, LABELS),
        (IMAGES, IMAGES, LABELS[1:]),
        (IMAGES, IMAGES, without_3),
        (IMAGES, IMAGES, other_digit),
    ):
        with pytest.raises(ValueError):
            measures.deviation_kept_within_digits(drawn, images, labels)
