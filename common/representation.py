"""What a representation keeps, how much it varies within a digit, and how far apart it puts the digits.

Points are rows: latents (N, D) or images (N, 1, 28, 28), (N, 784), float32 or float64; labels (N,) are the integers
0 to 9, at least two points of each. Everything is computed in float64. *Scale-free* measures stay the same when all
points are multiplied by one number, *rotation-free* ones when all points are rotated or mirrored together: only
scale-free ones may be compared between networks. Each class has its own mean, and a variance is the mean squared
distance to a mean, summed over dimensions and divided by the number of points.

A mismatch of shapes, a class with fewer than two points, a label other than 0 to 9 and a value that is not finite
raise ValueError.
"""

from typing import NamedTuple

import numpy
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import silhouette_score
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from common.models import CLASSES, IMAGE_SHAPE

PIXEL_CLASSIFIER_IMAGES = 10_000  # enough to read 90 % of the test images, fitted in seconds
SILHOUETTE_POINTS = 2_000  # its time grows with the square
HANDWRITING_BATCH = 1_000  # images in float64 that fit a processor's cache
ROUNDING = 1e-12  # of the largest coordinate: smaller differences between float64 numbers are none
RESOLUTION = 1e-6  # of the widest: class means that differ less along an axis, near float32's precision, do not differ


class ClassStatistics(NamedTuple):
    """What the measures of separation need to know of a labelled cloud of points, from ``class_statistics``.

    K is 10, and R the number of dimensions that the class means span, at most 9: whatever lies between classes lies
    in these. Their axes are the principal axes of the between-class scatter.
    """

    shares: NDArray  # (K,) fraction of the points in each class
    offsets: NDArray  # (K, R) class means minus the mean of all points
    variances: NDArray  # (K,) within-class variances, over all D dimensions
    covariances: NDArray  # (K, R, R) within-class covariances on the R axes


def class_statistics(points: NDArray, labels: NDArray) -> ClassStatistics:
    """Compute the class statistics of points (N, ...), once for all measures that take them.

    Raises ValueError if all points are the same.
    """
    labels, means, residuals = _centred(points, labels)
    shares = numpy.bincount(labels) / len(labels)
    offsets = means - shares @ means
    _, widths, axes = numpy.linalg.svd(numpy.sqrt(shares)[:, None] * offsets, full_matrices=False)
    axes = axes[widths > max(RESOLUTION * widths[0], ROUNDING * numpy.abs(means).max())]  # (R, D)
    variances = _class_averages((residuals**2).sum(1), labels)
    if not len(axes) and not variances.any():
        raise ValueError("points: got the same point everywhere, expected different ones: has the encoder collapsed?")
    projected = residuals @ axes.T  # (N, R)
    groups = [projected[labels == digit] for digit in range(CLASSES)]
    covariances = numpy.stack([group.T @ group / len(group) for group in groups])
    return ClassStatistics(shares, offsets @ axes.T, variances, covariances)


def within_class_share(statistics: ClassStatistics) -> float:
    """Return the share of the variance that lies within classes: trace(S_W) / (trace(S_W) + trace(S_B)).

    S_W is the average over all points of (x - class mean)(x - class mean)^T, S_B of (class mean - mean)(class mean -
    mean)^T; they add up to the covariance of all points. From 0 (collapsed classes) to 1 (class means coincide);
    higher means more variability within a digit. Scale-free and rotation-free. One minus the correlation ratio
    (Pearson 1905).
    """
    within = statistics.shares @ statistics.variances
    between = statistics.shares @ (statistics.offsets**2).sum(1)
    return float(within / (within + between))


def fisher_ratio(statistics: ClassStatistics) -> float:
    """Return the between-class over the within-class variance: trace(S_B) / trace(S_W), as ``within_class_share``.

    From 0 (class means coincide) to inf (collapsed classes); higher means better separated. Scale-free and
    rotation-free. The within-class share in another form: 1 / share - 1. Fukunaga 1990, chapter 10.2, criterion J4.
    """
    share = within_class_share(statistics)
    return 1 / share - 1 if share else float("inf")


def nc1(statistics: ClassStatistics) -> float:
    """Return the within-class scatter where the class means differ: trace(S_W pinv(S_B)) / K, as ``fisher_ratio``.

    From 0 (collapsed classes) upwards; higher means worse separated. Only the K - 1 directions or fewer in which the
    class means differ count, and the one in which they differ least may dominate; inf if there is none, although the
    formula's pseudo-inverse says 0 there. Scale-free and rotation-free. Papyan, Han and Donoho 2020, "Prevalence of
    neural collapse", (NC1); their classes are equally large, here each point weighs the same.
    """
    within = numpy.einsum("k,krr->r", statistics.shares, statistics.covariances)
    between = statistics.shares @ statistics.offsets**2  # S_B is diagonal on these axes
    return float((within / between).sum() / CLASSES) if len(between) else float("inf")


def cdnv(statistics: ClassStatistics) -> float:
    """Return the class-distance normalised variance: the mean over pairs of (Var_i + Var_j) / (2 |mean_i - mean_j|^2).

    From 0 (collapsed classes) upwards; higher means worse separated; inf if the means of two classes coincide.
    Scale-free and rotation-free. Galanti, Gyorgy and Hutter 2021, "On the role of neural collapse in transfer
    learning", section 3.
    """
    first, second = numpy.triu_indices(CLASSES, 1)
    return _over_pairs(statistics, statistics.variances[first] + statistics.variances[second])


def directional_cdnv(statistics: ClassStatistics) -> float:
    """Return CDNV's directional variant: only the variance along the line that joins the two means counts.

    The mean over pairs of u^T (S_i + S_j) u / (2 |mean_i - mean_j|^2), where u is the unit vector from one mean to the
    other and S the classes' covariances. From 0 to CDNV itself; higher means more overlap of neighbours; inf if the
    means of two classes coincide. Scale-free and rotation-free. The variation along the line between class centres of
    Luthra, Yang and Galanti 2025, averaged over both classes as in CDNV.
    """
    first, second = numpy.triu_indices(CLASSES, 1)
    lines = statistics.offsets[first] - statistics.offsets[second]  # (45, R)
    lines /= numpy.maximum(numpy.linalg.norm(lines, axis=1, keepdims=True), numpy.finfo(float).tiny)
    covariances = statistics.covariances[first] + statistics.covariances[second]
    return _over_pairs(statistics, numpy.einsum("pr,prs,ps->p", lines, covariances, lines))


def silhouette(points: NDArray, labels: NDArray, *, seed: int = 0) -> float:
    """Return the mean over points of (b - a) / max(a, b), on at most 2,000 points that ``seed`` draws.

    a is the mean distance to the other points of the own class, b that to the points of the nearest other class. From
    -1 to 1 (collapsed classes); 0 for identical clouds; higher means better separated. Scale-free and rotation-free.
    Rousseeuw 1987, by scikit-learn.
    """
    points, labels = _checked(points, labels)
    return float(silhouette_score(points, labels, sample_size=SILHOUETTE_POINTS, random_state=seed))


def separation(points: NDArray, labels: NDArray, *, seed: int = 0) -> dict[str, float]:
    """Measure the separation of points (N, ...): every measure that is fit for latents and pixels alike, by name."""
    statistics = class_statistics(points, labels)
    measures = (nc1, cdnv, directional_cdnv, fisher_ratio)
    return {measure.__name__: measure(statistics) for measure in measures} | {
        "silhouette": silhouette(points, labels, seed=seed)
    }


def linear_probe_accuracy(train_points: NDArray, train_labels: NDArray, points: NDArray, labels: NDArray) -> float:
    """Return the accuracy of logistic regression, fitted on the train points, each dimension standardised by these.

    A fraction, 0 to 1; higher means that hyperplanes tell more of the digits. Scale-free; not rotation-free, by the
    standardisation. Alain and Bengio 2016; scikit-learn with its default penalty.
    """
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000))
    return _accuracy(probe, train_points, train_labels, points, labels)


def knn_accuracy(train_points: NDArray, train_labels: NDArray, points: NDArray, labels: NDArray) -> float:
    """Return the accuracy of a majority vote of the 5 nearest train points by Euclidean distance.

    A fraction, 0 to 1; higher means that close points more often share the digit. Scale-free and rotation-free. Cover
    and Hart 1967, by scikit-learn.
    """
    return _accuracy(KNeighborsClassifier(5, algorithm="brute"), train_points, train_labels, points, labels)


def class_mean_accuracy(train_points: NDArray, train_labels: NDArray, points: NDArray, labels: NDArray) -> float:
    """Return the accuracy of the nearest mean of the train points' classes by Euclidean distance.

    A fraction, 0 to 1; higher means rounder classes, further apart. Scale-free and rotation-free. (NC4) of Papyan, Han
    and Donoho 2020, here against the true labels; by scikit-learn.
    """
    return _accuracy(NearestCentroid(), train_points, train_labels, points, labels)


def pixel_classifier(train_images: NDArray, train_labels: NDArray) -> LogisticRegression:
    """Fit logistic regression on the pixels of at most 10,000 images (N, 1, 28, 28), in the order given.

    An independent reader of reconstructions, which shares nothing with the networks: ``reading_accuracy``.
    """
    few = slice(PIXEL_CLASSIFIER_IMAGES)
    # A penalty of 1 / 0.01 and a loose tolerance: on all 784 pixels the default takes minutes to converge.
    return LogisticRegression(C=0.01, tol=1e-3).fit(_rows(train_images[few]), train_labels[few])


def reading_accuracy(classifier: LogisticRegression, reconstructions: NDArray, labels: NDArray) -> float:
    """Return the accuracy of ``pixel_classifier`` on reconstructions.

    A fraction, 0 to 1; higher means that more of them look like the digit they were made from. Not scale-free: pixels
    in [0, 1] are expected. A classification accuracy score (Ravuri and Vinyals 2019), turned round: fitted on real
    images and scored on reconstructions.
    """
    return float(classifier.score(_rows(reconstructions), labels))


def ridge_r2(train_latents: NDArray, train_targets: NDArray, latents: NDArray, targets: NDArray) -> float:
    """Return R^2 of targets (N,) predicted by ridge regression (penalty 1) on latents standardised by the train ones.

    R^2 = 1 - sum (target - predicted)^2 / sum (target - mean target)^2, from minus infinity through 0 (no better than
    the mean) to 1; higher means that more can be read off linearly. Scale-free; not rotation-free, by the penalty and
    the standardisation, but nearly so with many points. Hoerl and Kennard 1970, by scikit-learn.
    """
    for name, points, values in (("train targets", train_latents, train_targets), ("targets", latents, targets)):
        if numpy.shape(values) != (len(points),) or not numpy.ptp(values) > 0:  # true for nan
            raise ValueError(
                f"{name}: got shape {numpy.shape(values)} for {len(points)} latents, expected one finite number"
                " each, not all the same: pass the targets of these latents"
            )
    probe = make_pipeline(StandardScaler(), Ridge(1.0))
    probe.fit(_rows(train_latents), numpy.asarray(train_targets, numpy.float64))
    return float(probe.score(_rows(latents), numpy.asarray(targets, numpy.float64)))


def handwriting(images: NDArray) -> dict[str, NDArray]:
    """Measure how each digit was written: "slant", "thickness" and "size", (N,) each, none changed by a shift.

    The moments of an image are those of its ink, a pixel being a unit square of even density, with x to the right and
    y *up*; ink is the sum of the pixels, so that none of the three changes with contrast (Hu 1962 for the moments).

    - slant: mu11 / mu02, the shear of the rows: pixels to the right per pixel upwards. Positive leans to the right, as
      italics do; 0 is upright; shearing a digit by s adds s.
    - thickness: 2 * ink / outline, in pixels, where outline is the length of the edges: the sum of the absolute
      gradient (total variation) by Roberts' cross, sqrt(((p00 - p11)^2 + (p01 - p10)^2) / 2) on each 2x2 block. A long
      stroke gives its width, a bar of length l and width w about l w / (l + w); lines thinner than 2 pixels read
      thicker than they are.
    - size: sqrt(mu20 + mu02), the radius of gyration in pixels: proportional to the digit's linear size.

    Raises ValueError for an image without ink, where they are undefined.
    """
    images, side = _rows(images), IMAGE_SHAPE[-1]
    if images.shape[1] != side * side:
        raise ValueError(f"images: got {images.shape[1]} pixels each, expected {side * side}: pass (N, 1, 28, 28)")
    blank = numpy.flatnonzero(images.sum(1) <= 0)
    if len(blank):
        raise ValueError(f"images: got {len(blank)} without ink, the first is {blank[0]}, expected ink: leave them out")
    coordinates = numpy.arange(side) - (side - 1) / 2
    x, y = numpy.tile(coordinates, side), numpy.repeat(-coordinates, side)
    powers = numpy.stack([x**0, x, y, x * x, x * y, y * y], axis=1)  # (784, 6)

    def measure(batch: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        ink, *sums = (batch @ powers).T
        x_mean, y_mean, xx, xy, yy = sums / ink
        mu20, mu11, mu02 = xx - x_mean**2 + 1 / 12, xy - x_mean * y_mean, yy - y_mean**2 + 1 / 12  # 1/12: a unit square
        padded = numpy.pad(batch.reshape(-1, side, side), ((0, 0), (1, 1), (1, 1)))
        falling = padded[:, :-1, :-1] - padded[:, 1:, 1:]
        rising = padded[:, :-1, 1:] - padded[:, 1:, :-1]
        outline = numpy.sqrt((falling**2 + rising**2) / 2).sum((1, 2))
        return mu11 / mu02, 2 * ink / outline, numpy.sqrt(mu20 + mu02)

    batches = numpy.split(images, range(HANDWRITING_BATCH, len(images), HANDWRITING_BATCH))
    slant, thickness, size = numpy.concatenate([measure(batch) for batch in batches], axis=1)
    return {"slant": slant, "thickness": thickness, "size": size}


def deviations(values: NDArray, labels: NDArray) -> NDArray:
    """Return values (N,) minus the mean value of the own class: what the class does not tell."""
    return _centred(values, labels)[2][:, 0]


def latent_measures(
    train_latents: NDArray,
    train_labels: NDArray,
    train_writing: dict[str, NDArray],
    latents: NDArray,
    labels: NDArray,
    writing: dict[str, NDArray],
    *,
    seed: int = 0,
) -> dict[str, float]:
    """Measure latents, by name: the three accuracies, the within-class share, the separation, and for each entry of
    ``writing``, from ``handwriting``, R^2 of its deviations from the digit's mean ("slant_within_digit_r2").
    """
    accuracies = (linear_probe_accuracy, knn_accuracy, class_mean_accuracy)
    measures = {measure.__name__: measure(train_latents, train_labels, latents, labels) for measure in accuracies}
    for name in writing:
        train_targets, targets = deviations(train_writing[name], train_labels), deviations(writing[name], labels)
        measures[f"{name}_within_digit_r2"] = ridge_r2(train_latents, train_targets, latents, targets)
    measures["within_class_share"] = within_class_share(class_statistics(latents, labels))
    return measures | separation(latents, labels, seed=seed)


def variance_kept(reconstructions: NDArray, images: NDArray) -> float:
    """Return the variance of the reconstructions between instances over that of the images, summed over pixels.

    From 0 (one image for all) through 1 (all of it); more than 1 means more than the images had. Higher means more
    variability kept, rightly placed or not, within and between digits. Unchanged when both are scaled or rotated
    alike. For a PCA it is the explained variance (Jolliffe 2002, section 6.1).
    """
    reconstructions, images = _pair(reconstructions, images)
    if (images == images[0]).all():
        raise ValueError("images: got the same image everywhere, expected different ones")
    return float(reconstructions.var(0).sum() / images.var(0).sum())


def within_class_std_ratio(reconstructions: NDArray, images: NDArray, labels: NDArray) -> tuple[NDArray, float]:
    """Return the reconstructions' standard deviation within digits over the images': per digit (10,), and overall.

    A digit's standard deviation is the root of the mean squared distance to the digit's mean image, over its images;
    overall, that mean is over all images. From 0 (one prototype per digit) through 1 (all of the variability kept)
    upwards; higher means more variability within a digit, rightly placed or not. Unchanged when both are scaled or
    rotated alike. This repository's own. Raises ValueError if the images of a digit are all the same.
    """
    reconstructions, images = _pair(reconstructions, images)
    squares = []
    for points in (reconstructions, images):
        labels, _, residuals = _centred(points, labels)
        squares.append((residuals**2).sum(1))
    kept, originals = (numpy.append(_class_averages(values, labels), values.mean()) for values in squares)
    if not originals.all():
        raise ValueError(f"images: got the same image for all of digit {originals.argmin()}, expected different ones")
    ratios = numpy.sqrt(kept / originals)
    return ratios[:-1], float(ratios[-1])


def class_mean_distance_ratio(reconstructions: NDArray, images: NDArray, labels: NDArray) -> tuple[NDArray, float]:
    """Return each reconstruction's distance to its digit's mean *original* image over the original's own distance to
    it: averaged over each digit's images (10,), and over all.

    From 0 (the mean image) through 1 (as untypical as the original) upwards; higher means further from the typical
    digit, in whatever direction. Unchanged when both are scaled or rotated alike. This repository's own. Raises
    ValueError if an image is its digit's mean image.
    """
    reconstructions, images = _pair(reconstructions, images)
    labels, means, residuals = _centred(images, labels)
    own = numpy.linalg.norm(residuals, axis=1)
    if not own.all():
        raise ValueError(f"images: image {own.argmin()} is its digit's mean image, expected a distance: leave it out")
    ratios = numpy.linalg.norm(reconstructions - means[labels], axis=1) / own
    return _class_averages(ratios, labels), float(ratios.mean())


def reconstruction_measures(
    reconstructions: NDArray, images: NDArray, labels: NDArray, *, seed: int = 0
) -> dict[str, float]:
    """Measure reconstructions, by name: variance kept, both ratios, overall and per digit ("name/0" to "name/9"), and
    the separation in pixel space, to be compared with ``separation(images, labels)``.
    """
    measures = {"variance_kept": variance_kept(reconstructions, images)}
    for measure in (within_class_std_ratio, class_mean_distance_ratio):
        per_digit, measures[measure.__name__] = measure(reconstructions, images, labels)
        measures |= {f"{measure.__name__}/{digit}": float(value) for digit, value in enumerate(per_digit)}
    return measures | separation(reconstructions, labels, seed=seed)


def _rows(points: NDArray) -> NDArray:
    """Return points as (N, D) float64, all finite."""
    points = numpy.asarray(points, numpy.float64).reshape(len(points), -1)
    if not numpy.isfinite(points).all():
        raise ValueError("points: got values that are not finite, expected numbers: has the training diverged?")
    return points


def _pair(reconstructions: NDArray, images: NDArray) -> tuple[NDArray, NDArray]:
    reconstructions, images = _rows(reconstructions), _rows(images)
    if reconstructions.shape != images.shape:
        raise ValueError(f"reconstructions: got {reconstructions.shape}, expected {images.shape}, as the images")
    return reconstructions, images


def _checked(points: NDArray, labels: NDArray) -> tuple[NDArray, NDArray]:
    """Return points (N, D) float64 and labels (N,) int64, or raise what the module's docstring says."""
    points, labels = _rows(points), numpy.asarray(labels)
    if labels.shape != (len(points),):
        raise ValueError(f"labels: got shape {labels.shape}, expected ({len(points)},), one for each point")
    counts = [int((labels == digit).sum()) for digit in range(CLASSES)]
    if min(counts) < 2 or sum(counts) < len(labels):
        raise ValueError(
            f"labels: got {counts} points of the classes 0 to {CLASSES - 1} and {len(labels) - sum(counts)} others,"
            " expected two or more of each class and no others: pass more points, or drop the others"
        )
    return points, labels.astype(numpy.int64)


def _class_averages(values: NDArray, labels: NDArray) -> NDArray:
    """Average values (N, ...) over the points of each class: (K, ...)."""
    return numpy.stack([values[labels == digit].mean(0) for digit in range(CLASSES)])


def _centred(points: NDArray, labels: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Check, and return labels (N,), class means (K, D) and points minus class means (N, D), rounding errors as 0."""
    points, labels = _checked(points, labels)
    means = _class_averages(points, labels)
    residuals = points - means[labels]
    residuals[numpy.abs(residuals) <= ROUNDING * numpy.abs(points).max()] = 0
    return labels, means, residuals


def _over_pairs(statistics: ClassStatistics, spreads: NDArray) -> float:
    """Average spreads (45,), variances of a pair's two classes together, over twice their squared distances."""
    first, second = numpy.triu_indices(CLASSES, 1)
    distances = ((statistics.offsets[first] - statistics.offsets[second]) ** 2).sum(1)
    apart = distances > RESOLUTION**2 * distances.max()
    return float(numpy.mean(spreads / (2 * distances))) if apart.all() else float("inf")


def _accuracy(classifier, train_points: NDArray, train_labels: NDArray, points: NDArray, labels: NDArray) -> float:
    return float(classifier.fit(*_checked(train_points, train_labels)).score(*_checked(points, labels)))
