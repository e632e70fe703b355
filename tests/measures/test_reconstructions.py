"""Tests of common/measures/reconstructions.py and points.py: worked by hand, and by numpy."""

from math import sqrt

import numpy
import pytest

from common.measures import reconstructions as measures
from common.measures.points import class_means

DIGITS = numpy.arange(10)


def clouds(dimensions: int, count: int = 300) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return ten overlapping clouds of unequal sizes, points (N, D) and labels (N,)."""
    random = numpy.random.default_rng(0)
    drawn = random.choice(10, count - 20, p=(DIGITS + 1) / 55)
    labels = random.permutation(numpy.concatenate([DIGITS, DIGITS, drawn]))
    centres = random.normal(5, 2, (10, dimensions))
    return centres[labels] + random.normal(size=(count, dimensions)), labels


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

    assert measures.errors(drawn, images) == pytest.approx({"l1": 2, "mse": squares / 22})
    explained = measures.variance_explained_within_digits(drawn, images, labels, mean_images)
    assert explained == pytest.approx(1 - squares / (11 * (1 + 9)))
    kept = measures.deviation_kept_within_digits(drawn, images, labels)
    assert kept == pytest.approx(sqrt((4 * 9 + 18 * 1) / (22 * 4)))
    # Deviations of 2 with ones of 3 in digit 0, of 1 in the others.
    correlation = measures.deviation_correlation_within_digits(drawn, images, labels)
    products = 4 * 2 * 3 + 18 * 2 * 1
    assert correlation == pytest.approx(products / sqrt(22 * 4 * (4 * 9 + 18 * 1)))


def test_class_means_worked_by_hand():
    labels = DIGITS.repeat(2)
    points = numpy.stack([labels + numpy.tile([-1, 1], 10), 3 * labels], axis=1)
    assert class_means(points, labels).tolist() == [[digit, 3 * digit] for digit in DIGITS]


def test_perfect_mean_and_opposite_reconstructions():
    images, labels = clouds(20)
    means = class_means(images, labels)
    opposite = 2 * means[labels] - images
    for drawn, explained, kept in ((images, 1, 1), (means[labels], 0, 0), (opposite, -3, 1)):
        result = measures.variance_explained_within_digits(drawn, images, labels, means)
        assert result == pytest.approx(explained)
        result = measures.deviation_kept_within_digits(drawn, images, labels)
        assert result == pytest.approx(kept, abs=1e-7)
    for drawn, correlation in ((images, 1), (5 * images, 1), (opposite, -1)):
        result = measures.deviation_correlation_within_digits(drawn, images, labels)
        assert result == pytest.approx(correlation)


def test_correlation_is_numpys_of_all_deviations():
    images, labels = clouds(20)
    drawn = numpy.tanh(images) + 0.3 * clouds(20)[0][::-1]
    deviations = []
    for points in (images, drawn):
        deviations.append((points - class_means(points, labels)[labels]).ravel())
    result = measures.deviation_correlation_within_digits(drawn, images, labels)
    assert result == pytest.approx(numpy.corrcoef(deviations)[0, 1])
    assert abs(result) < 0.9


def test_pca_is_the_svds():
    random = numpy.random.default_rng(0)
    train, images = random.random((30, 1, 28, 28)), random.random((5, 1, 28, 28))
    mean = train.reshape(30, -1).mean(0)
    components = numpy.linalg.svd(train.reshape(30, -1) - mean, full_matrices=False)[2][:12]
    expected = mean + (images.reshape(5, -1) - mean) @ components.T @ components
    drawn = measures.pca_reconstruct(train, images, 12)
    numpy.testing.assert_allclose(drawn, expected.reshape(images.shape), atol=1e-10)
    # More than there are images give all that these can.
    again = measures.pca_reconstruct(train, train, 100)
    numpy.testing.assert_allclose(again, train, atol=1e-10)


@pytest.mark.parametrize(
    "measure",
    [measures.deviation_kept_within_digits, measures.deviation_correlation_within_digits],
)
def test_what_no_measure_takes(measure):
    images, labels = clouds(4)
    diverged = numpy.where(images == images[5, 2], numpy.nan, images)
    once = (labels != 3) | (numpy.arange(300) == (labels == 3).argmax())
    refused = [
        (diverged, images, labels),
        (images, diverged, labels),
        (images, images, labels[1:]),
        (images, images, numpy.where(numpy.arange(300) == 0, 10, labels)),
        (images[once], images[once], labels[once]),
        (images, numpy.where(labels[:, None] < 10, 0.3, images), labels),  # all the same
    ]
    measure(images, images, labels)
    for arguments in refused:
        with pytest.raises(ValueError):
            measure(*arguments)


def test_mean_images_of_another_shape_are_refused():
    images, labels = clouds(4)
    for wrong in (numpy.zeros((9, 4)), numpy.zeros((10, 1))):
        with pytest.raises(ValueError):
            measures.variance_explained_within_digits(images, images, labels, wrong)
