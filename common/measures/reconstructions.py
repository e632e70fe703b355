"""How much of an image a reconstruction gives, and how far apart reconstructed digits lie.

Images and reconstructions are arrays (N, 1, 28, 28) in [0, 1], labels (N,) 0 to 9, two images or
more of each. All is computed in float64; values that are not finite, other shapes and labels raise
ValueError.
"""

import numpy
from numpy.typing import NDArray as Array
from sklearn.decomposition import PCA

from common.measures.points import ROUNDING, as_rows, check_labels, squares_within


def errors(reconstructions: Array, images: Array) -> dict[str, float]:
    """Return "l1" and "mse" per pixel, means over images and pixels.

    The same as the metrics "l1" and "mse" in common/losses.py: a measure that is added here is to
    be added there too.
    """
    differences = as_rows(reconstructions) - as_rows(images)
    return {"l1": float(abs(differences).mean()), "mse": float((differences**2).mean())}


def variance_explained_within_digits(
    reconstructions: Array, images: Array, labels: Array, mean_images: Array
) -> float:
    """Return 1 - MSE / MSE of ``mean_images``, the ``class_means`` of the *training* images: (10,
    784).

    These are the best that the digit alone can give. From minus infinity through 0 (as good as
    these) to 1 (perfect). A reconstruction as the wrong digit counts against it; blur does not.
    """
    reconstructions, images = as_rows(reconstructions), as_rows(images)
    labels = check_labels(images, labels)
    mean_images = as_rows(mean_images)
    if mean_images.shape != (10, images.shape[1]):
        raise ValueError(f"mean_images: got {mean_images.shape}, expected {(10, images.shape[1])}")
    unexplained = ((reconstructions - images) ** 2).sum()
    return float(1 - unexplained / ((mean_images[labels] - images) ** 2).sum())


def deviation_kept_within_digits(reconstructions: Array, images: Array, labels: Array) -> float:
    """Return the standard deviation of reconstructions within digits, as a share of the images'.

    From 0 (one prototype per digit) through 1 (as varied as the images, rightly or not) upwards.
    The square root of a ratio of variances summed over pixels and digits. Sharpness raises it and
    blur lowers it: see ``deviation_correlation_within_digits``. Our own.
    """
    reconstructions, images = as_rows(reconstructions), as_rows(images)
    labels = check_labels(images, labels)
    originals = squares_within(images, labels)
    if originals.min() <= ROUNDING * (images**2).sum():
        raise ValueError(
            f"images: got one image for all of digit {originals.argmin()}, expected different ones"
        )
    return float(numpy.sqrt(squares_within(reconstructions, labels).sum() / originals.sum()))


def deviation_kept_of_each_digit(reconstructions: Array, images: Array, labels: Array) -> Array:
    """Return ``deviation_kept_within_digits`` of each digit by itself: (10,)."""
    reconstructions, images = as_rows(reconstructions), as_rows(images)
    labels = check_labels(images, labels)
    originals = squares_within(images, labels)
    if originals.min() <= ROUNDING * (images**2).sum():
        raise ValueError("images: got one image for all of a digit, expected different ones")
    return numpy.sqrt(squares_within(reconstructions, labels) / originals)


def deviation_correlation_within_digits(
    reconstructions: Array, images: Array, labels: Array
) -> float:
    """Return the correlation of a reconstruction's deviation from its digit's mean with the
    original's.

    Pearson's, over all pixels of all images; means are those of the reconstructions and of the
    images given. From -1 through 0 (the variability is there but not where the original has it) to
    1. Neither contrast nor sharpness alone can raise it. It nearly follows from variance explained
    and deviation kept, so it is no third witness.
    """
    reconstructions, images = as_rows(reconstructions), as_rows(images)
    labels = check_labels(images, labels)
    products = 0.0
    for digit in range(10):
        of_digit = labels == digit
        deviations = images[of_digit] - images[of_digit].mean(0)
        products += (deviations * reconstructions[of_digit]).sum()
    squares = []
    for points in (images, reconstructions):
        squares.append(squares_within(points, labels).sum())
        if squares[-1] <= ROUNDING * (points**2).sum():
            raise ValueError("got images that do not vary within digits, expected some that do")
    return float(products / numpy.sqrt(squares[0] * squares[1]))


def pca_reconstruct(train_images: Array, images: Array, dimensions: int) -> Array:
    """Return ``images`` reconstructed from ``dimensions`` principal components of the train images,
    same shape.

    The best linear autoencoder (Jolliffe 2002, section 6.1); fewer components where there are not
    as many images.
    """
    rows = numpy.asarray(train_images).reshape(len(train_images), -1)
    pca = PCA(min(dimensions, *rows.shape), random_state=0).fit(rows)
    codes = pca.transform(numpy.asarray(images).reshape(len(images), -1))
    return pca.inverse_transform(codes).reshape(images.shape)
