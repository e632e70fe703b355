from collections.abc import Callable
from math import sqrt

import numpy
import pytest
import scipy.ndimage
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.feature_selection import f_classif
from sklearn.metrics import silhouette_samples

from common import representation
from common.representation import class_statistics

DIGITS = numpy.arange(10)
OF_STATISTICS = [
    representation.within_class_share,
    representation.fisher_ratio,
    representation.nc1,
    representation.cdnv,
    representation.directional_cdnv,
]
ACCURACIES = [
    representation.linear_probe_accuracy,
    representation.knn_accuracy,
    representation.class_mean_accuracy,
]
RATIOS = [
    representation.variance_kept,
    representation.within_class_std_ratio,
    representation.class_mean_distance_ratio,
]


def clouds(
    dimensions: int, *, count: int = 300, spread: float = 1.0, seed: int = 0
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Draw ten overlapping clouds of unequal sizes and shapes, far from the origin: points (N, D) and labels (N,)."""
    random = numpy.random.default_rng(seed)
    labels = random.permutation(numpy.concatenate([DIGITS, DIGITS, random.choice(10, count - 20, p=(DIGITS + 1) / 55)]))
    shapes = numpy.random.default_rng(7).normal(size=(10, dimensions, dimensions)) / sqrt(dimensions)
    centres = numpy.random.default_rng(8).normal(5, 2, (10, dimensions))
    noise = random.normal(size=(count, dimensions))
    return centres[labels] + spread * numpy.einsum("nij,nj->ni", shapes[labels], noise), labels


def rotation(dimensions: int) -> numpy.ndarray:
    return numpy.linalg.qr(numpy.random.default_rng(3).normal(size=(dimensions, dimensions)))[0]


def bar(height: int, width: int, lean: int = 0) -> numpy.ndarray:
    """Draw a bar whose rows each start ``lean`` pixels to the right of the row below: (1, 28, 28)."""
    image = numpy.zeros((28, 28))
    for above in range(height):
        start = 12 + lean * (above - height // 2)
        image[22 - above, start : start + width] = 1
    return image[None]


def frame(outer: int, thickness: int) -> numpy.ndarray:
    image = numpy.zeros((1, 28, 28))
    image[:, 3 : 3 + outer, 3 : 3 + outer] = 1
    image[:, 3 + thickness : 3 + outer - thickness, 3 + thickness : 3 + outer - thickness] = 0
    return image


def glyph() -> numpy.ndarray:
    """Draw a smooth open figure, asymmetric in every way, with room around it: (1, 28, 28)."""
    image = numpy.zeros((28, 28))
    image[7:9, 9:19] = image[7:15, 9:12] = image[13:15, 9:17] = image[14:20, 15:18] = 1
    return scipy.ndimage.gaussian_filter(image, 0.6)[None]


def sheared(image: numpy.ndarray, slope: float) -> numpy.ndarray:
    """Shear (1, 28, 28) about its centre so that a point one pixel further up moves ``slope`` further to the right."""
    return scipy.ndimage.affine_transform(image[0], [[1, 0], [slope, 1]], [0, -slope * 13.5], order=1)[None]


# Separation


def test_measures_of_a_hand_worked_case():
    # Class c has the four points (c +- 1, +-2): variance 1 along the means, 4 across, 5 in all. The means 0 to 9 have
    # variance (100 - 1) / 12 = 8.25.
    corners = numpy.array([(-1, -2), (-1, 2), (1, -2), (1, 2)])
    points = numpy.concatenate([numpy.add(corners, (digit, 0)) for digit in DIGITS])
    statistics = class_statistics(points, DIGITS.repeat(4))
    # Of the 45 pairs, 9 are 1 apart, 8 are 2 apart, and so on: the mean of 1 / distance^2.
    inverse = (9 / 1 + 8 / 4 + 7 / 9 + 6 / 16 + 5 / 25 + 4 / 36 + 3 / 49 + 2 / 64 + 1 / 81) / 45
    assert representation.within_class_share(statistics) == pytest.approx(5 / 13.25)
    assert representation.fisher_ratio(statistics) == pytest.approx(8.25 / 5)
    assert representation.nc1(statistics) == pytest.approx(1 / 8.25 / 10)
    assert representation.cdnv(statistics) == pytest.approx(5 * inverse)  # (5 + 5) / 2
    assert representation.directional_cdnv(statistics) == pytest.approx(1 * inverse)


@pytest.mark.parametrize("dimensions", [1, 5, 9, 30])  # fewer than, and more than, the 9 that ten means span
@pytest.mark.parametrize("dtype", [numpy.float32, numpy.float64])
def test_measures_agree_with_full_scatter_matrices(dimensions, dtype):
    given, labels = clouds(dimensions)
    given = given.astype(dtype)
    points = given.astype(numpy.float64)
    mean = sum(points) / len(points)
    groups = [[point for point, label in zip(points, labels, strict=True) if label == digit] for digit in DIGITS]
    means = [sum(group) / len(group) for group in groups]
    scatters = [
        sum(numpy.outer(p - m, p - m) for p in group) / len(group) for group, m in zip(groups, means, strict=True)
    ]
    within = sum(len(group) / len(points) * scatter for group, scatter in zip(groups, scatters, strict=True))
    between = sum(
        len(group) / len(points) * numpy.outer(m - mean, m - mean) for group, m in zip(groups, means, strict=True)
    )
    all_over, along_line = [], []
    for i in range(10):
        for j in range(10):
            if i != j:
                line = means[i] - means[j]
                distance = sqrt(line @ line)
                all_over.append((numpy.trace(scatters[i]) + numpy.trace(scatters[j])) / 2 / distance**2)
                unit = line / distance
                along_line.append((unit @ scatters[i] @ unit + unit @ scatters[j] @ unit) / 2 / distance**2)
    expected = {
        "within_class_share": numpy.trace(within) / numpy.trace(within + between),
        "fisher_ratio": numpy.trace(between) / numpy.trace(within),
        "nc1": numpy.trace(within @ numpy.linalg.pinv(between, hermitian=True)) / 10,
        "cdnv": numpy.mean(all_over),
        "directional_cdnv": numpy.mean(along_line),
    }
    statistics = class_statistics(given, labels)
    measured = {measure.__name__: measure(statistics) for measure in OF_STATISTICS}
    assert measured == pytest.approx(expected, rel=1e-8)
    assert statistics.variances == pytest.approx([numpy.trace(scatter) for scatter in scatters])


def test_shares_agree_with_scikit_learn():
    points, labels = clouds(6)
    within = numpy.trace(LinearDiscriminantAnalysis(store_covariance=True).fit(points, labels).covariance_)
    share = representation.within_class_share(class_statistics(points, labels))
    assert share == pytest.approx(within / points.var(0).sum())
    for column in points.T:  # F = between / within, each over its degrees of freedom
        f = f_classif(column[:, None], labels)[0][0]
        ratio = representation.fisher_ratio(class_statistics(column, labels))
        assert ratio == pytest.approx(f * 9 / (len(points) - 10))


def test_silhouette_agrees_with_a_loop():
    points, labels = clouds(3, count=60)
    scores = []
    for index, point in enumerate(points):
        to_class = []
        for digit in DIGITS:
            others = [p for i, p in enumerate(points) if labels[i] == digit and i != index]
            to_class.append(numpy.mean([numpy.linalg.norm(point - p) for p in others]))
        own, nearest = to_class[labels[index]], min(d for digit, d in enumerate(to_class) if digit != labels[index])
        scores.append((nearest - own) / max(nearest, own))
    assert representation.silhouette(points, labels) == pytest.approx(numpy.mean(scores))


def test_silhouette_of_many_points_is_that_of_a_seeded_subset():
    points, labels = clouds(2, count=3_000)
    whole = silhouette_samples(points, labels).mean()
    draws = [representation.silhouette(points, labels, seed=seed) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert draws == pytest.approx([whole] * 3, abs=0.03)
    assert representation.separation(points, labels, seed=1)["silhouette"] == draws[2]


@pytest.mark.parametrize("dimensions", [1, 5, 30])
def test_collapsed_classes_are_perfectly_separated(dimensions):
    centres, _ = clouds(dimensions, count=20)
    points, labels = centres[:10].repeat(7, axis=0), DIGITS.repeat(7)
    measures = representation.separation(points, labels)
    assert measures.pop("silhouette") == pytest.approx(1)
    assert measures == {"nc1": 0, "cdnv": 0, "directional_cdnv": 0, "fisher_ratio": float("inf")}
    assert representation.within_class_share(class_statistics(points, labels)) == 0


@pytest.mark.parametrize("dimensions", [1, 5, 30])
def test_identical_clouds_are_not_separated(dimensions):
    cloud = numpy.random.default_rng(0).normal(3, 1, (7, dimensions))
    points = numpy.concatenate([numpy.roll(cloud, digit, axis=0) for digit in DIGITS])
    measures = representation.separation(points, DIGITS.repeat(7))
    assert measures.pop("silhouette") < 0  # the own point in another cloud is nearer than any in the own
    infinite = float("inf")
    assert measures == {"nc1": infinite, "cdnv": infinite, "directional_cdnv": infinite, "fisher_ratio": 0}
    assert representation.within_class_share(class_statistics(points, DIGITS.repeat(7))) == 1


def test_two_classes_with_one_mean_make_only_the_pairwise_measures_infinite():
    points, labels = clouds(5)
    for collapse in (0, 1):
        for digit in (3, 4):
            members = points[labels == digit]
            points[labels == digit] = members.mean(0) * collapse + (members - members.mean(0)) * (1 - collapse)
        points[labels == 4] += points[labels == 3].mean(0) - points[labels == 4].mean(0) + 1e-9
        measures = representation.separation(points, labels)
        assert measures["cdnv"] == measures["directional_cdnv"] == float("inf")
        assert 0 < measures["nc1"] < 10
        assert 0 < measures["fisher_ratio"] < 10


def test_float32_rounding_adds_no_direction_between_classes():
    points, labels = clouds(2)
    embedded = (points @ rotation(30)[:2]).astype(numpy.float32)  # means in a plane, but for 1e-7
    expected = representation.separation(points, labels)
    assert representation.separation(embedded, labels) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32"])
def test_labels_may_be_of_any_number_type(dtype):
    points, labels = clouds(3)
    before = representation.separation(points, labels)
    assert representation.separation(points, labels.astype(dtype)) == before


@pytest.mark.parametrize("dimensions", [5, 30])
@pytest.mark.parametrize("change", ["scale up", "scale down", "rotate"])
def test_separation_is_free_of_scale_and_rotation(dimensions, change):
    points, labels = clouds(dimensions)
    changed = {"scale up": points * 1e4, "scale down": points * 1e-4, "rotate": points @ rotation(dimensions)}[change]
    before, after = class_statistics(points, labels), class_statistics(changed, labels)
    for measure in OF_STATISTICS:
        assert measure(after) == pytest.approx(measure(before), rel=1e-6)
    assert representation.silhouette(changed, labels) == pytest.approx(representation.silhouette(points, labels))
    factor = {"scale up": 1e8, "scale down": 1e-8, "rotate": 1}[change]
    assert after.variances == pytest.approx(factor * before.variances)  # which are not free of scale


# What latents keep


@pytest.mark.parametrize("measure", ACCURACIES)
def test_accuracy_is_perfect_for_clusters_and_counts_right_answers(measure):
    points, labels = clouds(8, spread=0.1)
    others, other_labels = clouds(8, spread=0.1, seed=1)
    assert measure(points, labels, others, other_labels) == 1
    wrong = numpy.where(numpy.arange(300) < 75, (other_labels + 1) % 10, other_labels)
    assert measure(points, labels, others, wrong) == 0.75
    shuffled = numpy.random.default_rng(0).permutation(labels)
    assert measure(points, shuffled, others, other_labels) < 0.35  # the largest class has 10/55


def test_accuracies_agree_with_loops():
    points, labels = clouds(3, spread=1.5)
    others, other_labels = clouds(3, spread=1.5, seed=1, count=100)
    means = [points[labels == digit].mean(0) for digit in DIGITS]
    nearest_mean, majority = [], []
    for other in others:
        nearest_mean.append(numpy.argmin([numpy.linalg.norm(other - mean) for mean in means]))
        nearest = numpy.argsort([numpy.linalg.norm(other - point) for point in points])[:5]
        majority.append(numpy.bincount(labels[nearest]).argmax())
    by_mean = representation.class_mean_accuracy(points, labels, others, other_labels)
    by_neighbours = representation.knn_accuracy(points, labels, others, other_labels)
    assert by_mean == pytest.approx(numpy.mean(nearest_mean == other_labels))
    assert by_neighbours == pytest.approx(numpy.mean(majority == other_labels))
    assert by_mean != by_neighbours


def test_only_neighbours_tell_shells_apart():
    random = numpy.random.default_rng(0)
    directions = random.normal(size=(2_000, 2))
    directions /= numpy.linalg.norm(directions, axis=1, keepdims=True)
    labels = numpy.arange(2_000) % 10
    shells = directions * (1 + labels[:, None])
    probe, neighbours, mean = (m(shells[:1_000], labels[:1_000], shells[1_000:], labels[1_000:]) for m in ACCURACIES)
    assert neighbours > 0.9
    assert max(probe, mean) < 0.3


@pytest.mark.parametrize("measure", [*ACCURACIES, representation.ridge_r2])
def test_what_latents_keep_is_free_of_scale(measure):
    (points, labels), (others, other_labels) = clouds(4, spread=1.5), clouds(4, spread=1.5, seed=1)
    before = measure(points, labels, others, other_labels)
    assert measure(points * 1e-3, labels, others * 1e-3, other_labels) == pytest.approx(before)
    if measure in (representation.knn_accuracy, representation.class_mean_accuracy):
        turn = rotation(4)
        assert measure(points @ turn, labels, others @ turn, other_labels) == pytest.approx(before)
    else:  # standardised, so that no dimension's own scale matters
        scales = numpy.array([1e-3, 1, 10, 1e3])
        assert measure(points * scales, labels, others * scales, other_labels) == pytest.approx(before)


def test_ridge_r2_of_linear_reversed_and_unrelated_targets():
    random = numpy.random.default_rng(0)
    train, test = random.normal(2, 3, (20_000, 12)), random.normal(2, 3, (5_000, 12))
    weights = random.normal(size=12)
    assert representation.ridge_r2(train, train @ weights + 4, test, test @ weights + 4) == pytest.approx(1, abs=1e-6)
    # Predicting -y for y around 0: 1 - sum (2 y)^2 / sum y^2 = -3.
    centred_train, centred_test = (x @ weights - (test @ weights).mean() for x in (train, test))
    assert representation.ridge_r2(train, centred_train, test, -centred_test) == pytest.approx(-3, abs=1e-3)
    noise = representation.ridge_r2(train, random.normal(size=20_000), test, random.normal(size=5_000))
    assert noise == pytest.approx(0, abs=0.01)


def test_ridge_r2_agrees_with_the_normal_equations():
    random = numpy.random.default_rng(0)
    train, test = random.normal(size=(30, 4)) * (1, 2, 3, 4), random.normal(size=(20, 4)) * (1, 2, 3, 4)
    target, test_target = train[:, 0] + random.normal(size=30), test[:, 0] + random.normal(size=20)
    a, b = ((x - train.mean(0)) / train.std(0) for x in (train, test))
    weights = numpy.linalg.inv(a.T @ a + numpy.eye(4)) @ a.T @ (target - target.mean())
    errors = test_target - (b @ weights + target.mean())
    expected = 1 - (errors**2).sum() / ((test_target - test_target.mean()) ** 2).sum()
    assert representation.ridge_r2(train, target, test, test_target) == pytest.approx(expected)


def test_deviations_leave_out_what_the_class_tells():
    # Class c holds c + 0 and c + 4 once, class 0 also holds 2: its mean is 2, the others' c + 2.
    values, labels = numpy.array([2, *DIGITS, *(DIGITS + 4)]), numpy.array([0, *DIGITS, *DIGITS])
    assert representation.deviations(values, labels) == pytest.approx([0] + 10 * [-2] + 10 * [2])


def test_latent_measures_are_the_single_ones_and_ask_for_what_is_not_the_class():
    random = numpy.random.default_rng(0)
    labels, train_labels = numpy.arange(2_500) % 10, numpy.arange(4_000) % 10
    train, test = random.normal(size=(4_000, 11)), random.normal(size=(2_500, 11))
    train[numpy.arange(4_000), train_labels] += 3
    test[numpy.arange(2_500), labels] += 3
    # Hidden in the latents: one number that depends on the class and on more, and one that depends on the class only.
    writings = [
        {"slant": digits + points[:, 10], "size": digits + 0.1 * random.normal(size=len(digits))}
        for points, digits in ((train, train_labels), (test, labels))
    ]
    measures = representation.latent_measures(train, train_labels, writings[0], test, labels, writings[1], seed=3)
    assert measures.pop("slant_within_digit_r2") == pytest.approx(1, abs=0.02)
    assert measures.pop("size_within_digit_r2") == pytest.approx(0, abs=0.02)
    assert representation.ridge_r2(train, writings[0]["size"], test, writings[1]["size"]) > 0.4
    single = {measure.__name__: measure(train, train_labels, test, labels) for measure in ACCURACIES}
    single["within_class_share"] = representation.within_class_share(class_statistics(test, labels))
    assert measures == single | representation.separation(test, labels, seed=3)
    assert all(type(value) is float for value in measures.values())


# Handwriting


@pytest.mark.parametrize(("height", "width"), [(18, 2), (2, 14), (10, 4), (1, 1), (1, 9)])
def test_handwriting_of_an_upright_bar(height, width):
    # A rectangle's second moments are height^2 / 12 and width^2 / 12. On its outline lie 2 * (height + width) - 4
    # blocks with two bright pixels side by side, gradient 1, and at its corners 4 with one, gradient sqrt(1/2).
    writing = representation.handwriting(bar(height, width))
    if 1 not in (height, width):
        assert writing["thickness"] == pytest.approx(2 * height * width / (2 * (height + width) - 4 + 4 * sqrt(0.5)))
    assert writing["slant"] == pytest.approx(0)
    assert writing["size"] == pytest.approx(sqrt((height**2 + width**2) / 12))
    assert all(value.shape == (1,) and numpy.isfinite(value).all() for value in writing.values())


@pytest.mark.parametrize("lean", [-1, 0, 1])
def test_slant_is_positive_to_the_right(lean):
    # Rows at distance 1 have variance (12^2 - 1) / 12 between them and 12^2 / 12 as a solid bar: lean * (1 - 1 / 144).
    assert representation.handwriting(bar(12, 3, lean))["slant"] == pytest.approx(lean * (1 - 1 / 144))


@pytest.mark.parametrize("slope", [-0.3, 0.3])
def test_a_shear_adds_to_the_slant_and_leaves_the_thickness(slope):
    before, after = (representation.handwriting(image) for image in (glyph(), sheared(glyph(), slope)))
    assert after["slant"] - before["slant"] == pytest.approx(slope, abs=0.01)
    assert after["thickness"] == pytest.approx(before["thickness"], rel=0.06)


@pytest.mark.parametrize("shift", [(3, 0), (0, -4), (-3, 2)])
def test_a_shift_changes_nothing(shift):
    before, after = (representation.handwriting(i) for i in (glyph(), numpy.roll(glyph(), shift, axis=(1, 2))))
    for name in before:
        assert after[name] == pytest.approx(before[name])


def test_contrast_changes_nothing():
    before, after = (representation.handwriting(image) for image in (glyph(), 0.2 * glyph()))
    for name in before:
        assert after[name] == pytest.approx(before[name])


def test_an_image_of_twice_the_size_has_twice_the_size_and_thickness_and_the_same_slant():
    small = numpy.zeros((28, 28))
    small[7:21, 7:21] = glyph()[0, 7:21, 7:21]
    large = numpy.kron(small[7:21, 7:21], numpy.ones((2, 2)))
    before, after = representation.handwriting(small[None]), representation.handwriting(large[None])
    assert after["slant"] == pytest.approx(before["slant"])
    assert after["size"] == pytest.approx(2 * before["size"])
    assert after["thickness"] == pytest.approx(2 * before["thickness"], rel=0.12)  # its edges are sharper, too


@pytest.mark.parametrize("thickness", [2, 3, 4])
@pytest.mark.parametrize("angle", [0, 30, 45])
def test_thickness_of_a_closed_stroke_is_its_width_in_every_direction(thickness, angle):
    # Area 4 t (a - t) over half of the outline 4 a + 4 (a - 2 t) is t.
    large = numpy.kron(frame(17, thickness)[0, 3:20, 3:20], numpy.ones((8, 8)))
    large = scipy.ndimage.rotate(numpy.pad(large, 44), angle, reshape=False, order=0)
    image = large.reshape(28, 8, 28, 8).mean((1, 3))
    assert representation.handwriting(image[None])["thickness"] == pytest.approx(thickness, rel=0.08)


@pytest.mark.parametrize("pixels", [3, 5])
def test_dilation_thickens_by_as_much_as_it_adds(pixels):
    image = frame(18, 2)
    dilated = scipy.ndimage.grey_dilation(image, (1, pixels, pixels))
    before, after = (representation.handwriting(i)["thickness"] for i in (image, dilated))
    assert after - before == pytest.approx(pixels - 1, rel=0.05)
    grown = representation.handwriting(scipy.ndimage.grey_dilation(glyph(), (1, pixels, pixels)))["thickness"]
    assert grown > representation.handwriting(glyph())["thickness"] + 0.5


def test_handwriting_agrees_with_a_loop_over_pixels_for_each_image_of_any_batch(monkeypatch):
    monkeypatch.setattr(representation, "HANDWRITING_BATCH", 2)
    images = numpy.random.default_rng(0).random((5, 1, 28, 28)).astype(numpy.float32)
    images *= images > 0.5
    writing = representation.handwriting(images)
    for index, image in enumerate(images[:, 0].astype(float)):
        inked = [(column, -row, value) for (row, column), value in numpy.ndenumerate(image)]
        ink = sum(value for *_, value in inked)
        x_mean, y_mean = (sum(point[axis] * point[2] for point in inked) / ink for axis in (0, 1))
        xx = sum((x - x_mean) ** 2 * value for x, _, value in inked) / ink + 1 / 12
        xy = sum((x - x_mean) * (y - y_mean) * value for x, y, value in inked) / ink
        yy = sum((y - y_mean) ** 2 * value for _, y, value in inked) / ink + 1 / 12
        cross = [
            scipy.ndimage.correlate(numpy.pad(image, 1), kernel, mode="constant")
            for kernel in ([[1, 0], [0, -1]], [[0, 1], [-1, 0]])
        ]
        assert writing["slant"][index] == pytest.approx(xy / yy)
        assert writing["size"][index] == pytest.approx(sqrt(xx + yy))
        outline = numpy.hypot(*cross).sum() / sqrt(2)
        assert writing["thickness"][index] == pytest.approx(2 * ink / outline)
    flat = representation.handwriting(images.reshape(5, 784))
    for name in writing:
        assert writing[name].shape == (5,)
        assert numpy.array_equal(flat[name], writing[name])


# Reconstructions


def test_ratios_of_a_hand_worked_case():
    # Images of one pixel: digit c at 10 c +- 2, so each is 2 from its mean. Reconstructions at 10 c + 2 +- 1, so their
    # deviation is 1 and they lie 3 and 1 from the images' mean. Digit 0 has two of each, and 2 +- 3: 3, and 5 and 1.
    labels = numpy.array([0, 0, *DIGITS, *DIGITS])
    signs = numpy.array([1, -1, *10 * [1], *10 * [-1]])
    images = (10 * labels + 2 * signs)[:, None]
    reconstructions = (10 * labels + 2 + numpy.where(labels == 0, 3, 1) * signs)[:, None]
    per_digit, overall = representation.within_class_std_ratio(reconstructions, images, labels)
    assert per_digit == pytest.approx([3 / 2] + 9 * [1 / 2])
    assert overall == pytest.approx(sqrt((4 * 9 + 18 * 1) / (22 * 4)))
    per_digit, overall = representation.class_mean_distance_ratio(reconstructions, images, labels)
    assert per_digit == pytest.approx([(5 / 2 + 1 / 2) / 2] + 9 * [(3 / 2 + 1 / 2) / 2])
    assert overall == pytest.approx((4 * 1.5 + 18 * 1) / 22)


def test_variance_kept_by_pca_is_its_explained_variance():
    images, _ = clouds(20)
    pca = PCA(3).fit(images)
    kept = representation.variance_kept(pca.inverse_transform(pca.transform(images)), images)
    assert kept == pytest.approx(pca.explained_variance_ratio_.sum())


def test_ratios_of_copies_prototypes_and_one_image_for_all():
    images, labels = clouds(20)
    images = images.astype(numpy.float32)
    means = numpy.stack([images[labels == digit].astype(float).mean(0) for digit in DIGITS])
    same = numpy.tile(images[:1], (300, 1))
    for ratio in RATIOS[1:]:
        per_digit, overall = ratio(images, images, labels)
        assert [*per_digit, overall] == pytest.approx([1] * 11)
        per_digit, overall = ratio(means[labels], images, labels)
        assert [*per_digit, overall] == pytest.approx([0] * 11, abs=1e-12)
    per_digit, overall = representation.within_class_std_ratio(same, images, labels)
    assert [*per_digit, overall] == [0] * 11
    assert representation.variance_kept(images, images) == 1
    assert representation.variance_kept(same, images) == 0
    share = representation.within_class_share(class_statistics(images, labels))
    assert representation.variance_kept(means[labels], images) == pytest.approx(1 - share)


def test_ratios_are_free_of_a_common_scale_and_rotation_and_not_of_the_reconstructions_own_scale():
    images, labels = clouds(20)
    reconstructions = images + numpy.random.default_rng(1).normal(size=images.shape)
    turn = rotation(20)

    def flat(result):
        return numpy.append(*result) if isinstance(result, tuple) else result

    for ratio in RATIOS:
        arguments = () if ratio is representation.variance_kept else (labels,)
        before = flat(ratio(reconstructions, images, *arguments))
        assert flat(ratio(reconstructions * 5, images * 5, *arguments)) == pytest.approx(before)
        assert flat(ratio(reconstructions @ turn, images @ turn, *arguments)) == pytest.approx(before)
    doubled = representation.within_class_std_ratio(2 * reconstructions, images, labels)[1]
    assert doubled == pytest.approx(2 * representation.within_class_std_ratio(reconstructions, images, labels)[1])
    doubled = representation.variance_kept(2 * reconstructions, images)
    assert doubled == pytest.approx(4 * representation.variance_kept(reconstructions, images))


def test_reconstruction_measures_are_the_single_ones():
    images, labels = clouds(6, count=2_500)
    reconstructions = 0.5 * images + numpy.random.default_rng(1).normal(size=images.shape)
    measures = representation.reconstruction_measures(reconstructions, images, labels, seed=3)
    expected = {"variance_kept": representation.variance_kept(reconstructions, images)}
    for ratio in RATIOS[1:]:
        per_digit, expected[ratio.__name__] = ratio(reconstructions, images, labels)
        expected |= {f"{ratio.__name__}/{digit}": per_digit[digit] for digit in range(10)}
    assert measures == expected | representation.separation(reconstructions, labels, seed=3)
    assert all(type(value) is float for value in measures.values())


# Bad input


def labelled(measure: Callable) -> Callable:
    """Turn a measure into a function of points and labels."""
    if measure in OF_STATISTICS:
        return lambda points, labels: measure(class_statistics(points, labels))
    if measure in ACCURACIES:
        return lambda points, labels: measure(points, labels, *clouds(4))
    if measure in RATIOS:
        return lambda points, labels: measure(points, points, labels)
    return measure


BY_LABEL = [*OF_STATISTICS, *ACCURACIES, *RATIOS[1:], representation.silhouette, representation.deviations]


@pytest.mark.parametrize("measure", BY_LABEL)
def test_a_class_that_is_missing_single_or_unknown_is_refused(measure):
    points, labels = clouds(4)
    measure = labelled(measure)
    present = labels != 3
    with pytest.raises(ValueError, match=r"^labels: got \[.*, 0, .*\] points of the classes 0 to 9 and 0 others, exp"):
        measure(points[present], labels[present])
    present[numpy.flatnonzero(labels == 3)[0]] = True
    with pytest.raises(ValueError, match=r", 1, .*expected two or more of each class.*pass more points"):
        measure(points[present], labels[present])
    for stranger in (10, -1):
        with pytest.raises(ValueError, match="and 1 others"):
            measure(points, numpy.where(numpy.arange(300) == 299, stranger, labels))


@pytest.mark.parametrize("measure", BY_LABEL)
def test_labels_of_another_shape_and_values_that_are_not_finite_are_refused(measure):
    points, labels = clouds(4)
    for wrong in (labels[1:], labels[:, None]):
        with pytest.raises(ValueError, match=r"labels: got shape .*, expected \(300,\), one for each point"):
            labelled(measure)(points, wrong)
    points[5, 2] = numpy.nan
    with pytest.raises(ValueError, match="not finite"):
        labelled(measure)(points, labels)


@pytest.mark.parametrize("measure", ACCURACIES)
def test_bad_points_to_score_are_refused_too(measure):
    points, labels = clouds(4)
    with pytest.raises(ValueError, match=r"^labels: got"):
        measure(points, labels, points[labels > 0], labels[labels > 0])
    with pytest.raises(ValueError, match=r"3 features.*4 features"):
        measure(points, labels, points[:, :3], labels)


def test_one_point_for_all_is_refused():
    with pytest.raises(ValueError, match="got the same point everywhere, expected different ones"):
        class_statistics(numpy.full((50, 3), 0.1), numpy.arange(50) % 10)


def test_ratios_refuse_other_shapes_and_images_without_variability():
    images, labels = clouds(4)
    same = numpy.full_like(images, 0.1)
    for ratio in RATIOS:
        arguments = () if ratio is representation.variance_kept else (labels,)
        with pytest.raises(ValueError, match=r"reconstructions: got \(299, 4\), expected \(300, 4\), as the images"):
            ratio(images[1:], images, *arguments)
        with pytest.raises(ValueError, match=r"^images: .*, expected"):
            ratio(images, same, *arguments)
        with pytest.raises(ValueError, match="not finite"):
            ratio(images * numpy.inf, images, *arguments)
    images[labels == 4] = 0.3
    with pytest.raises(ValueError, match="got the same image for all of digit 4"):
        representation.within_class_std_ratio(images, images, labels)


def test_handwriting_refuses_images_without_ink_and_of_another_size():
    images = numpy.repeat(glyph(), 4, axis=0)
    images[2] = 0
    with pytest.raises(ValueError, match="got 1 without ink, the first is 2, expected ink: leave them out"):
        representation.handwriting(images)
    with pytest.raises(ValueError, match="got 400 pixels each, expected 784"):
        representation.handwriting(numpy.ones((3, 20, 20)))
    images[2] = numpy.nan
    with pytest.raises(ValueError, match="not finite"):
        representation.handwriting(images)


def test_ridge_r2_refuses_targets_of_another_shape_and_constant_ones():
    latents, _ = clouds(4)
    targets = latents[:, 0]
    for wrong in (targets[1:], targets[:, None], numpy.ones(300), targets * numpy.nan):
        with pytest.raises(ValueError, match=r"^train targets: got shape"):
            representation.ridge_r2(latents, wrong, latents, targets)
        with pytest.raises(ValueError, match=r"^targets: got shape"):
            representation.ridge_r2(latents, targets, latents, wrong)


def test_nothing_that_is_given_is_modified():
    points, labels = clouds(784, count=40)
    before = points.copy(), labels.copy()
    writing = {"slant": points[:, 0].copy()}
    representation.latent_measures(points, labels, writing, points, labels, writing)
    representation.reconstruction_measures(points, points, labels)
    representation.handwriting(numpy.abs(points))
    assert numpy.array_equal(points, before[0])
    assert numpy.array_equal(labels, before[1])
    assert numpy.array_equal(writing["slant"], points[:, 0])


def test_the_pixel_classifier_reads_images_and_not_shuffled_labels():
    random = numpy.random.default_rng(3)
    labels = random.permutation(numpy.arange(600) % 10)
    images = random.random((600, 1, 28, 28)) * 0.3
    images[numpy.arange(600), 0, 2 * labels, 5:20] = 1.0
    classifier = representation.pixel_classifier(images[:400], labels[:400])
    assert representation.reading_accuracy(classifier, images[400:], labels[400:]) == 1.0
    wrong = labels[400:].copy()
    wrong[:50] = (wrong[:50] + 1) % 10
    assert representation.reading_accuracy(classifier, images[400:], wrong) == 150 / 200
    assert representation.reading_accuracy(classifier, numpy.zeros_like(images[400:]), labels[400:]) == pytest.approx(
        0.1, abs=0.05
    )
