"""What latents keep of a digit and of how it was written, how far apart digits lie, and what reconstructions keep.

Points are rows, latents (N, D) or images (N, 1, 28, 28); labels (N,) are 0 to 9, two points or more of each. All is
computed in float64. *Scale-free* measures do not change when all points are multiplied by one number, and may be
compared between networks. Other shapes and classes, and values that are not finite, raise ValueError.
"""

import numpy
from numpy.typing import NDArray as Array
from sklearn.base import RegressorMixin
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import silhouette_score
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn import Module
from tqdm import tqdm

from common import reader
from common.data import Dataset
from common.models import CLASSES, IMAGE_SHAPE

Coded = tuple[Array, Array]  # latents and labels
Writing = dict[str, Array]  # what ``handwriting`` returns
Measures = dict[str, float]
SILHOUETTE_POINTS = 2_000  # its time grows with the square
READER_SEED = 1_000_003  # of no run, so that the reader is independent of what it judges
HANDWRITING_BATCH = 1_000  # images in float64 that fit a processor's cache
ROUNDING = 1e-24  # of the sum of squares: a smaller sum of squared differences between float64 numbers is none

# Figure -> the report's claim, and measure -> its words and how Q3's must compare with Q1's for the claim to hold. What
# stands before a colon is a panel of the figure.
CLAIMS = {
    "claim_a.png": ("(a) Q1's latents keep how a digit was written, Q3's which digit it is", {
        "within_digit_variance_explained": ["variance within a digit explained (1 is all)", "lower"],
        "slant_neighbours_r2": ["how it was written, within a digit (neighbours, R²): slant", "lower"],
        "thickness_neighbours_r2": ["how it was written, within a digit (neighbours, R²): thickness", "lower"],
        "linear_probe_accuracy": ["which digit (linear probe, accuracy)", "higher"],
    }),
    "claim_b.png": ("(b) Variability within a digit is higher in Q1", {
        "within_class_std_ratio": ["standard deviation within digits that reconstructions keep (1 is all)", "lower"],
        "latent_within_class_share": ["share of the latents' variance that lies within digits", "lower"],
    }),
    "claim_c.png": ("(c) Digits are about as well separated in Q3, or slightly better", {
        "reading_accuracy": ["reconstructions read rightly by an independent reader", "about the same or higher"],
        "latent_silhouette": ["silhouette of the latents (1 is far apart)", "about the same or higher"],
    }),
    None: ("The reason given for (c): Q3 is more heterogeneous", {
        "within_class_std_ratio": ["standard deviation within digits that reconstructions keep (1 is all)", "higher"],
    }),
}  # fmt: skip


def class_means(points: Array, labels: Array) -> Array:
    """Return the mean point of each class: (10, D) float64, D the number of values of a point."""
    points, labels = _checked(points, labels)
    return numpy.stack([points[labels == digit].mean(0) for digit in range(CLASSES)])


def within_class_share(points: Array, labels: Array) -> float:
    """Return the share of the variance that lies within classes: trace(S_W) / (trace(S_W) + trace(S_B)).

    S_W and S_B are the scatters of the points about their class means and of these about the mean of all. From 0
    (collapsed classes) to 1 (class means coincide). Scale-free. One minus the correlation ratio (Pearson 1905).
    """
    points, labels = _checked(points, labels)
    total = ((points - points.mean(0)) ** 2).sum()
    if total <= ROUNDING * (points**2).sum():
        raise ValueError("points: got the same point everywhere, expected different ones: has the encoder collapsed?")
    return float(_squares_within(points, labels).sum() / total)


def silhouette(points: Array, labels: Array, *, seed: int = 0) -> float:
    """Return the mean of (b - a) / max(a, b) over at most 2,000 points, sampled by ``seed`` (Rousseeuw 1987): a is the
    mean distance to the others of the same class, b that to the nearest other class. From -1 to 1 (collapsed classes);
    higher means better separated. Scale-free.
    """
    points, labels = _checked(points, labels)
    return float(silhouette_score(points, labels, sample_size=SILHOUETTE_POINTS, random_state=seed))


def linear_probe_accuracy(train_points: Array, train_labels: Array, points: Array, labels: Array) -> float:
    """Return the accuracy of logistic regression on standardised points (Alain and Bengio 2016). Scale-free."""
    train, test = _checked(train_points, train_labels), _checked(points, labels)
    return float(make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000)).fit(*train).score(*test))


def r2_within_digit(
    probe: RegressorMixin, train: tuple[Array, Array, Array], test: tuple[Array, Array, Array]
) -> float:
    """Return R^2 within a digit of targets (N,), read off the latents by ``probe``, fitted anew to each digit.

    ``train`` and ``test`` are latents, labels and targets. R^2 = 1 - SSE / SST, summed over the digits, SST about the
    mean of the digit's targets. From minus infinity through 0 (no better than that mean) to 1; higher means that more
    can be read off. One probe for all digits would have to be blind to the class means: where these are far apart a
    ridge finds nothing. Standardised by the digit's train latents. Raises ValueError if no digit's targets vary.
    """
    (train_latents, train_labels), (latents, labels) = _checked(*train[:2]), _checked(*test[:2])
    train_targets, targets = (_checked(numpy.reshape(split[2], (-1, 1)), split[1])[0][:, 0] for split in (train, test))
    total = _squares_within(targets[:, None], labels).sum()
    if total <= ROUNDING * (targets**2).sum():
        raise ValueError("targets: got one value per digit, expected different ones: pass what varies within a digit")
    squares = 0.0
    for digit in range(CLASSES):
        fitted, scored = train_labels == digit, labels == digit
        model = make_pipeline(StandardScaler(), probe).fit(train_latents[fitted], train_targets[fitted])
        squares += ((targets[scored] - model.predict(latents[scored])) ** 2).sum()
    return float(1 - squares / total)


def handwriting(images: Array) -> Writing:
    """Measure how each digit was written: "slant", "thickness" and "size", (N,) each; shift and contrast do not count.

    - slant: mu11 / mu02, pixels to the right per pixel upwards: 0 is upright, positive leans to the right, as italics
      do. The moments are those of the ink, a pixel being a unit square (Hu 1962).
    - thickness: 2 * ink / outline, in pixels, outline being the total variation by Roberts' cross, the sum of
      sqrt(((p00 - p11)^2 + (p01 - p10)^2) / 2) over 2x2 blocks. Lines thinner than 2 pixels read thicker than they are.
    - size: sqrt(mu20 + mu02), the radius of gyration in pixels. Raises ValueError for an image without ink.
    """
    images, side = _rows(images), IMAGE_SHAPE[-1]
    if images.shape[1] != side * side:
        raise ValueError(f"images: got {images.shape[1]} pixels each, expected {side * side}: pass (N, 1, 28, 28)")
    if (total := images.sum(1)).min() <= 0:
        raise ValueError(f"images: got no ink in image {total.argmin()}, expected some in every one: leave it out")
    coordinates = numpy.arange(side) - (side - 1) / 2
    x, y = numpy.tile(coordinates, side), numpy.repeat(-coordinates, side)  # y is up
    powers = numpy.stack([x**0, x, y, x * x, x * y, y * y], axis=1)  # (784, 6)
    values = []
    for batch in numpy.split(images, range(HANDWRITING_BATCH, len(images), HANDWRITING_BATCH)):
        ink, *sums = (batch @ powers).T
        x_mean, y_mean, xx, xy, yy = sums / ink
        mu20, mu11, mu02 = xx - x_mean**2 + 1 / 12, xy - x_mean * y_mean, yy - y_mean**2 + 1 / 12  # 1/12: a unit square
        padded = numpy.pad(batch.reshape(-1, side, side), ((0, 0), (1, 1), (1, 1)))
        falling, rising = padded[:, :-1, :-1] - padded[:, 1:, 1:], padded[:, :-1, 1:] - padded[:, 1:, :-1]
        outline = numpy.sqrt((falling**2 + rising**2) / 2).sum((1, 2))
        values.append((mu11 / mu02, 2 * ink / outline, numpy.sqrt(mu20 + mu02)))
    return dict(zip(("slant", "thickness", "size"), numpy.concatenate(values, axis=1), strict=True))


def latent_measures(train: Coded, train_writing: Writing, test: Coded, writing: Writing, *, seed: int) -> Measures:
    """Measure latents, by name; the R^2 of what was written are by a ridge (Hoerl and Kennard 1970) and by the mean of
    20 neighbours (Stone 1977), without information about -1/20.
    """
    measures = {
        "linear_probe_accuracy": linear_probe_accuracy(*train, *test),
        "latent_silhouette": silhouette(*test, seed=seed),
        "latent_within_class_share": within_class_share(*test),
    }
    for name, targets in writing.items():
        for kind, probe in {"ridge": Ridge(1.0), "neighbours": KNeighborsRegressor(20)}.items():
            measures[f"{name}_{kind}_r2"] = r2_within_digit(probe, (*train, train_writing[name]), (*test, targets))
    return measures


def errors(reconstructions: Array, images: Array) -> Measures:
    """Return "l1" and "mse" per pixel, means over images and pixels of the same shape."""
    differences = _rows(reconstructions) - _rows(images)
    return {"l1": float(abs(differences).mean()), "mse": float((differences**2).mean())}


def reconstruction_measures(reconstructions: Array, images: Array, labels: Array, mean_images: Array) -> Measures:
    """Measure reconstructions: "l1", "mse" and how much comes back of what sets an image apart within its digit.

    - within_digit_variance_explained: 1 - MSE / MSE of ``mean_images``, the ``class_means`` of the *training* images,
      the best that the digit alone can give. From minus infinity through 0 (as good as these) to 1 (perfect).
    - within_class_std_ratio: the reconstructions' standard deviation within digits over the images'. From 0 (one
      prototype per digit) through 1 (all of the variability kept, rightly placed or not) upwards. Our own.
    """
    reconstructions, images, labels = _checked(reconstructions, images, labels)
    mean_images, expected = _rows(mean_images), (CLASSES, images.shape[1])
    if mean_images.shape != expected:
        raise ValueError(f"mean_images: got {mean_images.shape}, expected {expected}: pass class_means of train images")
    kept, originals = _squares_within(reconstructions, labels), _squares_within(images, labels)
    if originals.min() <= ROUNDING * (images**2).sum():
        raise ValueError(f"images: got the same image for all of digit {originals.argmin()}, expected different ones")
    unexplained = ((reconstructions - images) ** 2).sum() / ((mean_images[labels] - images) ** 2).sum()
    ratio = float(numpy.sqrt(kept.sum() / originals.sum()))
    measures = {"within_digit_variance_explained": float(1 - unexplained), "within_class_std_ratio": ratio}
    return errors(reconstructions, images) | measures


def pca_code(train_images: Array, images: Array, dimensions: int) -> tuple[Array, Array, Array]:
    """Return the train images' codes (N, D), those of ``images``, and ``images`` reconstructed from these, by the best
    linear autoencoder: ``dimensions`` principal components, or as many as there are (Jolliffe 2002, section 6.1).
    """
    rows, test_rows = (numpy.asarray(of).reshape(len(of), -1) for of in (train_images, images))
    pca = PCA(min(dimensions, *rows.shape), random_state=0).fit(rows)
    codes = pca.transform(test_rows)
    return pca.transform(rows), codes, pca.inverse_transform(codes).reshape(images.shape)


def measure(
    dataset: Dataset, codes: dict[str, tuple[Array, Array]], reconstructions: dict[str, Array], judge: Module, seed: int
) -> dict[str, Measures]:
    """Return name -> measure -> value, for name -> (train, test latents) and name -> reconstructed test images, and for
    the mean image of each one's digit, the best that the digit alone can give. ``judge`` reads reconstructions.
    """
    train_images, images = dataset.train.inputs.cpu().numpy(), dataset.test.inputs.cpu().numpy()
    train_labels, labels = dataset.train.targets.cpu().numpy(), dataset.test.targets.cpu().numpy()
    train_writing, writing = handwriting(train_images), handwriting(images)
    mean_images = class_means(train_images, train_labels)
    measures, reconstructions = {}, reconstructions | {"digit's mean image": mean_images[labels].reshape(images.shape)}
    for name, guesses in tqdm(reconstructions.items(), desc="measures", leave=False, disable=None):
        measures[name] = reconstruction_measures(guesses, images, labels, mean_images)
        measures[name]["reading_accuracy"] = reader.reading_accuracy(judge, guesses, labels)
        if name in codes:
            train, test = (codes[name][0], train_labels), (codes[name][1], labels)
            measures[name] |= latent_measures(train, train_writing, test, writing, seed=seed)
    return measures


def in_words(claim: str, panels: dict[str, list[str]], q1: Measures, q3: Measures) -> str:
    """Say what one seed's measures of Q1 and Q3 are: ``panels`` is measure -> its words, and what the claim wants of Q3
    against Q1. The verdict is the report's, over seeds.
    """
    texts = []
    for measure, (words, _) in panels.items():
        texts.append(f"{words} {q1[measure]:.3g} in Q1, {q3[measure]:.3g} in Q3")
    return f"{claim}: {'; '.join(texts)}"


def _rows(points: Array) -> Array:
    """Return points as (N, D) float64, all finite."""
    points = numpy.asarray(points, numpy.float64).reshape(len(points), -1)
    if not numpy.isfinite(points).all():
        raise ValueError("points: got values that are not finite, expected numbers: has the training diverged?")
    return points


def _checked(*points_and_labels: Array) -> list[Array]:
    """Return points, one array or more, as (N, D) float64, and labels (N,) int64, as the module wants them."""
    points, labels = [_rows(array) for array in points_and_labels[:-1]], numpy.asarray(points_and_labels[-1])
    shapes, counts = [array.shape for array in points], [int((labels == digit).sum()) for digit in range(CLASSES)]
    if {shape[:1] for shape in shapes} != {labels.shape} or len(set(shapes)) > 1:
        raise ValueError(f"shapes: got labels {labels.shape} for {shapes}, expected one for each point of equal shapes")
    if min(counts) < 2 or sum(counts) < len(labels):
        expected = "expected 2 points or more of each digit: pass more points, or drop the others"
        raise ValueError(f"labels: got {counts} of 0 to 9 and {len(labels) - sum(counts)} others, {expected}")
    return [*points, labels.astype(numpy.int64)]


def _squares_within(points: Array, labels: Array) -> Array:
    """Sum the squared distances to the class mean, per class: (10,)."""
    return numpy.bincount(labels, ((points - class_means(points, labels)[labels]) ** 2).sum(1))
