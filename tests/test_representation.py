from functools import partial
from math import sqrt

import numpy
import pytest
import torch
from scipy.ndimage import correlate
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import silhouette_samples
from sklearn.neighbors import KNeighborsRegressor

from common import reader, representation
from common.models import digest

DIGITS = numpy.arange(10)
R2 = [
    partial(representation.r2_within_digit, probe)
    for probe in (Ridge(1.0), KNeighborsRegressor(20))
]
SCALES = 10.0 ** numpy.arange(-4, 5)


def clouds(dimensions, *, count=300, spread=1.0, seed=0):
    """Sample ten overlapping clouds of unequal sizes and shapes, far from the origin: points (N, D) and labels (N,)."""
    random = numpy.random.default_rng(seed)
    labels = random.permutation(
        numpy.concatenate([DIGITS, DIGITS, random.choice(10, count - 20, p=(DIGITS + 1) / 55)])
    )
    shapes = numpy.random.default_rng(7).normal(size=(10, dimensions, dimensions)) / sqrt(
        dimensions
    )
    centres = numpy.random.default_rng(8).normal(5, 2, (10, dimensions))
    noise = random.normal(size=(count, dimensions))
    return centres[labels] + spread * numpy.einsum("nij,nj->ni", shapes[labels], noise), labels


def writing_in_latents(count, seed, *, apart=50.0, noise=0.05):
    """Sample latents (N, 9), labels and slants (N,): digits far apart, the slant along another direction in each."""
    random = numpy.random.default_rng(seed)
    labels, slants = numpy.arange(count) % 10, random.normal(size=count)
    layout = numpy.random.default_rng(100)
    centres, directions = apart * layout.normal(size=(10, 9)), layout.normal(size=(10, 9))
    latents = (
        centres[labels]
        + slants[:, None] * directions[labels]
        + noise * random.normal(size=(count, 9))
    )
    return latents, labels, slants


def bar(height: int, width: int, lean: int = 0) -> numpy.ndarray:
    """Draw a bar whose rows each start ``lean`` pixels to the right of the row below: (1, 28, 28)."""
    image = numpy.zeros((28, 28))
    for above in range(height):
        start = 12 + lean * (above - height // 2)
        image[22 - above, start : start + width] = 1
    return image[None]


def test_class_means_and_share_of_a_hand_worked_case():
    # Class c has the four points (c +- 1, +-2): variance 1 along the means, 4 across, 5 in all. The means 0 to 9 have
    # variance (100 - 1) / 12 = 8.25.
    corners = numpy.array([(-1, -2), (-1, 2), (1, -2), (1, 2)])
    points, labels = (
        numpy.concatenate([numpy.add(corners, (digit, 0)) for digit in DIGITS]),
        DIGITS.repeat(4),
    )
    assert numpy.array_equal(
        representation.class_means(points, labels), [(digit, 0) for digit in DIGITS]
    )
    assert representation.within_class_share(points, labels) == pytest.approx(5 / 13.25)


def test_within_class_share_agrees_with_scikit_learn_at_any_scale_and_label_type():
    points, labels = clouds(6)
    within = numpy.trace(
        LinearDiscriminantAnalysis(store_covariance=True).fit(points, labels).covariance_
    )
    share = representation.within_class_share(
        (1e3 * points).astype("float32"), labels.astype("float32")
    )
    assert share == pytest.approx(within / points.var(0).sum(), rel=1e-5)


@pytest.mark.parametrize("dimensions", [1, 5, 30])
def test_collapsed_classes_share_nothing_and_identical_clouds_all(dimensions):
    cloud, labels = numpy.random.default_rng(0).normal(3, 1, (10, dimensions)), DIGITS.repeat(10)
    assert representation.within_class_share(cloud.repeat(10, axis=0), labels) == pytest.approx(
        0, abs=1e-20
    )
    assert representation.silhouette(cloud.repeat(10, axis=0), labels) == pytest.approx(1)
    same = numpy.concatenate([numpy.roll(cloud, digit, axis=0) for digit in DIGITS])
    assert representation.within_class_share(same, labels) == pytest.approx(1)
    assert (
        representation.silhouette(same, labels) < 0
    )  # the same point of another cloud is the nearest


def test_silhouette_is_the_mean_over_points_of_which_it_samples_many_by_seed():
    (points, labels), few = clouds(2, count=3_000), clouds(2)
    assert representation.silhouette(*few) == pytest.approx(silhouette_samples(*few).mean())
    samples = [representation.silhouette(points, labels, seed=seed) for seed in (0, 0, 1)]
    assert samples[0] == samples[1] != samples[2]
    assert samples == pytest.approx([silhouette_samples(points, labels).mean()] * 3, abs=0.03)


def test_linear_probe_is_logistic_regression_on_dimensions_of_any_scale():
    (points, labels), (others, other_labels) = clouds(4, spread=1.5), clouds(4, spread=1.5, seed=1)
    a, b = ((x - points.mean(0)) / points.std(0) for x in (points, others))
    expected = (LogisticRegression(max_iter=1_000).fit(a, labels).predict(b) == other_labels).mean()
    accuracy = representation.linear_probe_accuracy(
        points * SCALES[:4], labels, others * SCALES[:4], other_labels
    )
    assert accuracy == pytest.approx(expected) and 0.3 < expected < 0.9


def test_a_slant_with_a_direction_per_digit_is_seen_where_one_ridge_for_all_digits_is_blind():
    train, test = writing_in_latents(4_000, 0), writing_in_latents(1_000, 1)
    assert abs(Ridge(1.0).fit(train[0], train[2]).score(test[0], test[2])) < 0.02
    assert all(measure(train, test) > 0.9 for measure in R2)


def test_ridge_r2_agrees_with_the_normal_equations_of_each_digit():
    train, labels, targets = writing_in_latents(300, 0, noise=2.0)
    test, test_labels, test_targets = (
        values[:150] for values in writing_in_latents(200, 1, noise=2.0)
    )
    targets, test_targets = targets + labels, test_targets + test_labels
    errors, total = 0, 0
    for digit in DIGITS:
        members, target, wanted = (
            train[labels == digit],
            targets[labels == digit],
            test_targets[test_labels == digit],
        )
        a, b = (
            (x - members.mean(0)) / members.std(0) for x in (members, test[test_labels == digit])
        )
        weights = numpy.linalg.inv(a.T @ a + numpy.eye(9)) @ a.T @ (target - target.mean())
        errors += ((wanted - b @ weights - target.mean()) ** 2).sum()
        total += ((wanted - wanted.mean()) ** 2).sum()
    r2 = R2[0]((train * SCALES, labels, targets), (test * SCALES, test_labels, test_targets))
    assert r2 == pytest.approx(1 - errors / total)


@pytest.mark.parametrize("neighbours", [3, 20])
def test_neighbours_r2_agrees_with_a_loop(neighbours):
    train, labels, targets = writing_in_latents(300, 0, apart=0.1, noise=1.0)
    test, test_labels, test_targets = writing_in_latents(50, 1, apart=0.1, noise=1.0)
    errors, total = 0, 0
    for latent, digit, wanted in zip(test, test_labels, test_targets, strict=True):
        members, values = train[labels == digit], targets[labels == digit]
        distances = [numpy.linalg.norm((latent - member) / members.std(0)) for member in members]
        errors += (wanted - values[numpy.argsort(distances)[:neighbours]].mean()) ** 2
        total += (wanted - test_targets[test_labels == digit].mean()) ** 2
    scaled = (train * SCALES, labels, targets), (test * SCALES, test_labels, test_targets)
    r2 = representation.r2_within_digit(KNeighborsRegressor(neighbours), *scaled)
    assert r2 == pytest.approx(1 - errors / total)


def test_r2_of_linear_reversed_curved_and_unrelated_targets():
    (train, train_labels, slants), (test, labels, others) = (
        writing_in_latents(10_000, 0),
        writing_in_latents(5_000, 1),
    )

    def both(train_targets, targets):
        return [
            measure((train, train_labels, train_targets), (test, labels, targets)) for measure in R2
        ]

    assert both(slants + 7 * train_labels, others + 7 * labels)[0] == pytest.approx(1, abs=0.01)
    centred = others - representation.class_means(others, labels)[labels, 0]
    # Predicting y for -y around 0: 1 - sum (2 y)^2 / sum y^2 = -3.
    assert both(slants, -centred)[0] == pytest.approx(-3, abs=0.1)
    linear, curved = both(abs(slants), abs(others))
    assert linear < 0.05 and curved > 0.9
    random = numpy.random.default_rng(2)
    # The mean of 20 unrelated values has 1/20 of their variance. What only the digit tells does not count.
    noise = [7 * digits + random.normal(size=len(digits)) for digits in (train_labels, labels)]
    assert both(*noise) == pytest.approx([0, -1 / 20], abs=0.02)


def test_latent_measures_are_the_single_ones():
    (*train, slants), (*test, others) = writing_in_latents(800, 0), writing_in_latents(2_500, 1)
    measures = representation.latent_measures(
        train, {"slant": slants}, test, {"slant": others}, seed=3
    )
    assert measures == {
        "linear_probe_accuracy": representation.linear_probe_accuracy(*train, *test),
        "latent_silhouette": representation.silhouette(*test, seed=3),
        "latent_within_class_share": representation.within_class_share(*test),
        "slant_ridge_r2": R2[0]((*train, slants), (*test, others)),
        "slant_neighbours_r2": R2[1]((*train, slants), (*test, others)),
    }


@pytest.mark.parametrize(
    "height, width, lean", [(18, 2, 0), (2, 14, 0), (1, 1, 0), (1, 9, 0), (12, 3, -1), (12, 3, 1)]
)
def test_handwriting_of_bars_of_which_one_that_leans_to_the_right_has_a_positive_slant(
    height, width, lean
):
    # A rectangle's second moments are height^2 / 12 and width^2 / 12, those of its rows' middles (height^2 - 1) / 12.
    # On its outline lie 2 * (height + width) - 4 blocks with two bright pixels side by side, gradient 1, and at its
    # corners 4 with one, gradient sqrt(1/2).
    writing, rows = representation.handwriting(bar(height, width, lean)), height**2 - 1
    if lean == 0 and 1 not in (height, width):
        assert writing["thickness"] == pytest.approx(
            2 * height * width / (2 * (height + width) - 4 + 4 * sqrt(0.5))
        )
    assert writing["slant"] == pytest.approx(lean * rows / height**2)
    assert writing["size"] == pytest.approx(sqrt((height**2 + width**2 + lean**2 * rows) / 12))


def test_neither_shift_nor_contrast_changes_anything():
    image = bar(10, 3, 1)
    shifted = [
        image,
        0.2 * numpy.roll(image, (3, -4), (1, 2)),
        0.5 * numpy.roll(image, (-3, 2), (1, 2)),
    ]
    for values in representation.handwriting(numpy.stack(shifted)).values():
        assert values == pytest.approx(values[0])


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
            correlate(numpy.pad(image, 1), kernel)
            for kernel in ([[1, 0], [0, -1]], [[0, 1], [-1, 0]])
        ]
        expected = {
            "slant": xy / yy,
            "thickness": 2 * ink / (numpy.hypot(*cross).sum() / sqrt(2)),
            "size": sqrt(xx + yy),
        }
        assert {name: values[index] for name, values in writing.items()} == pytest.approx(expected)
    flat = representation.handwriting(images.reshape(5, 784))  # and what is given is not modified
    assert all(numpy.array_equal(flat[name], writing[name]) for name in writing)


def test_reconstruction_measures_of_a_hand_worked_case():
    # Images of one pixel: digit c at 10 c +- 2. Reconstructions at 10 c + 2 +- 1: 1 from the first and 3 from the
    # second. Digit 0 has two of each, and 2 +- 3: 3 and 1 from them. The mean images are 1 too high: 1 and 3 from them.
    labels = numpy.array([0, 0, *DIGITS, *DIGITS])
    signs = numpy.array([1, -1, *10 * [1], *10 * [-1]])
    images = (10 * labels + 2 * signs)[:, None]
    reconstructions = (10 * labels + 2 + numpy.where(labels == 0, 3, 1) * signs)[:, None]
    mean_images = 10 * DIGITS[:, None] + 1
    squares, ratio = 2 * (9 + 1) + 9 * (1 + 9), sqrt((4 * 9 + 18 * 1) / (22 * 4))
    measures = representation.reconstruction_measures(reconstructions, images, labels, mean_images)
    expected = {"l1": 2, "mse": squares / 22, "within_class_std_ratio": ratio}
    assert measures == pytest.approx(
        expected | {"within_digit_variance_explained": 1 - squares / (11 * (1 + 9))}
    )
    assert all(type(value) is float for value in measures.values())


def test_perfect_mean_and_worse_reconstructions():
    images, labels = clouds(20)
    images, means = images.reshape(300, 4, 5), numpy.random.default_rng(1).normal(size=(10, 4, 5))
    guesses = images, means[labels], 3 * means[labels] - 2 * images
    measured = [
        representation.reconstruction_measures(guess, images, labels, means) for guess in guesses
    ]
    assert [of["within_digit_variance_explained"] for of in measured] == [
        1,
        0,
        pytest.approx(1 - 3**2),
    ]
    assert [of["within_class_std_ratio"] for of in measured] == pytest.approx([1, 0, 2], abs=1e-12)


def calls(points, labels):
    """Return a call of every measure that takes labels, with these in each place where it takes any."""
    right, right_targets, targets = (
        clouds(4, count=2_000),
        numpy.arange(2_000),
        numpy.arange(len(points)),
    )
    given = (points, labels)
    return [
        partial(representation.class_means, *given),
        partial(representation.within_class_share, *given),
        partial(representation.silhouette, *given),
        partial(representation.linear_probe_accuracy, *given, *right),
        partial(representation.linear_probe_accuracy, *right, *given),
        *(partial(measure, (*right, right_targets), (*given, targets)) for measure in R2),
        partial(R2[0], (*given, targets), (*right, right_targets)),
        partial(representation.reconstruction_measures, points, *given, numpy.zeros((10, 4))),
    ]


def test_classes_shapes_and_values_that_no_measure_takes():
    points, labels = clouds(4)
    absent, single = labels != 3, (labels != 3) | (numpy.arange(300) == (labels == 3).argmax())
    few = r"^labels: got \[.*, {}, .*\] of 0 to 9 and 0 others, expected 2 points or more of each digit: pass more"
    many = r"^labels: got .* and 1 others, expected .* drop the others"
    shapes = r"^shapes: got labels .*\(300, 4\).*, expected one for each point"
    refused = [
        ((points[absent], labels[absent]), few.format(0)),
        ((points[single], labels[single]), few.format(1)),
        *(
            ((points, numpy.where(numpy.arange(300) == 299, label, labels)), many)
            for label in (10, -1, 0.5)
        ),
        *(((points, wrong), shapes) for wrong in (labels[1:], labels[:, None])),
        *(
            ((numpy.where(points == points[5, 2], x, points), labels), "not finite")
            for x in (numpy.nan, numpy.inf)
        ),
    ]
    before = points.copy(), labels.copy()
    for call in calls(points, labels):
        call()
    assert numpy.array_equal(points, before[0]) and numpy.array_equal(labels, before[1])
    for given, message in refused:
        for call in calls(*given):
            with pytest.raises(ValueError, match=message):
                call()


def test_other_shapes_and_what_does_not_vary_are_refused():
    points, labels = clouds(4)
    means, measures = (
        representation.class_means(points, labels),
        representation.reconstruction_measures,
    )
    with pytest.raises(ValueError, match="got the same point everywhere, expected different ones"):
        representation.within_class_share(numpy.full_like(points, 0.1), labels)
    for wrong in (points[:, 1:], points[:, :1]):
        for pair in ((wrong, points), (points, wrong)):
            with pytest.raises(
                ValueError, match=r"^shapes: .*expected one for each point of equal shapes"
            ):
                measures(*pair, labels, means)
    for wrong in (means[:9], means[:, :1]):
        with pytest.raises(
            ValueError, match=r"mean_images: got .*, expected \(10, 4\): pass class_means"
        ):
            measures(points, points, labels, wrong)
    with pytest.raises(
        ValueError, match="got the same image for all of digit 4, expected different ones"
    ):
        measures(points, numpy.where(labels[:, None] == 4, 0.3, points), labels, means)


@pytest.mark.parametrize("measure", R2)
def test_wrong_targets_are_refused(measure):
    latents, targets = clouds(4, count=2_000), numpy.arange(2_000.0)
    for message, wrong in {
        "s: ": targets[1:],
        "s: got": latents[0],
        "not finite": targets * numpy.nan,
    }.items():
        for train_targets, test_targets in ((wrong, targets), (targets, wrong)):
            with pytest.raises(ValueError, match=message):
                measure((*latents, train_targets), (*latents, test_targets))
    with pytest.raises(ValueError, match="got one value per digit, expected different ones"):
        measure((*latents, targets), (*latents, latents[1] / 10))


def test_handwriting_refuses_images_without_ink_and_of_another_size():
    blank, broken = numpy.ones((2, 4, 28, 28))
    blank[2], broken[2, 3, 4] = 0, numpy.nan
    wrongs = {
        "got no ink in image 2, expected": blank,
        "400 pixels": numpy.ones((3, 20, 20)),
        "not finite": broken,
    }
    for message, wrong in wrongs.items():
        with pytest.raises(ValueError, match=message):
            representation.handwriting(wrong)


def bars(count, seed):
    """Sample noisy images (N, 1, 28, 28) with a bright bar at a row that tells the label, and labels (N,)."""
    random = numpy.random.default_rng(seed)
    labels = random.permutation(numpy.arange(count) % 10)
    images = 0.2 * random.random((count, 1, 28, 28))
    for image, label in zip(images, labels, strict=True):
        image[0, 2 + 2 * label : 6 + 2 * label, 5:20] = 1.0
    return torch.from_numpy(images).float(), torch.from_numpy(labels)


def test_the_reader_learns_to_read_and_counts_right_answers():
    trained = reader.train_reader(*bars(600, 0), seed=3, epochs=5)
    images, labels = bars(400, 1)
    assert reader.reading_accuracy(trained, images, labels) > 0.95
    answers = trained(images).argmax(1)
    wrong = torch.where(torch.arange(400) < 100, (answers + 1) % 10, answers)
    assert reader.reading_accuracy(trained, images.numpy(), wrong.numpy()) == 0.75
    assert reader.reading_accuracy(trained, torch.zeros_like(images), labels) == pytest.approx(
        0.1, abs=0.01
    )
    for bad in (images[1:], images[:, 0], images * numpy.nan):
        with pytest.raises(
            ValueError, match=r"^images: got .*, expected finite \(400, 1, 28, 28\)"
        ):
            reader.reading_accuracy(trained, bad, labels)


def test_the_reader_depends_on_its_seed_alone(monkeypatch):
    def trained(seed):
        torch.rand(1)  # moves torch's global generator on
        return digest(reader.train_reader(*bars(200, 0), seed=seed, epochs=1))

    assert trained(3) == trained(3) and digest(reader.build(3)) != digest(reader.build(4))
    monkeypatch.setattr(reader, "build", lambda seed, build=reader.build: build(0))
    assert trained(3) != trained(4)  # for the order and the warps of the images
