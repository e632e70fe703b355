"""Tests of common/measures/latents.py: against scikit-learn, normal equations and loops."""

from math import sqrt

import numpy
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import silhouette_samples
from sklearn.neighbors import KNeighborsRegressor

from common.measures.latents import (
    Coded,
    linear_probe_accuracy,
    r2_within_digits,
    silhouette,
    within_class_share,
)

DIGITS = numpy.arange(10)
SCALES = 10.0 ** numpy.arange(-4, 5)  # of latents, of which none may matter


def clouds(dimensions: int, count: int = 300, seed: int = 0) -> Coded:
    """Return ten overlapping clouds of unequal sizes and shapes, far from the origin."""
    layout = numpy.random.default_rng(7)
    shapes = layout.normal(size=(10, dimensions, dimensions)) / sqrt(dimensions)
    centres = layout.normal(5, 2, (10, dimensions))
    random = numpy.random.default_rng(seed)
    drawn = random.choice(10, count - 20, p=(DIGITS + 1) / 55)
    labels = random.permutation(numpy.concatenate([DIGITS, DIGITS, drawn]))
    noise = random.normal(size=(count, dimensions))
    return Coded(centres[labels] + numpy.einsum("nij,nj->ni", shapes[labels], noise), labels)


def writing(count: int, seed: int, noise: float = 0.05) -> tuple[Coded, numpy.ndarray]:
    """Return latents (N, 9) and slants (N,): digits far apart, slant in a direction of each."""
    layout = numpy.random.default_rng(100)
    centres, directions = 50 * layout.normal(size=(10, 9)), layout.normal(size=(10, 9))
    random = numpy.random.default_rng(seed)
    labels, slants = numpy.arange(count) % 10, random.normal(size=count)
    latents = centres[labels] + slants[:, None] * directions[labels]
    return Coded(latents + noise * random.normal(size=(count, 9)), labels), slants


def test_share_worked_by_hand():
    # Class c has the points (c +- 1, +-2): variance 1 along the means and 4 across. The means 0
    # to 9 have variance (100 - 1) / 12 = 8.25.
    corners = numpy.array([(-1, -2), (-1, 2), (1, -2), (1, 2)])
    points = numpy.concatenate([corners + (digit, 0) for digit in DIGITS])
    assert within_class_share(points, DIGITS.repeat(4)) == pytest.approx(5 / 13.25)


def test_share_by_scikit_learn_at_any_scale():
    coded = clouds(6)
    analysis = LinearDiscriminantAnalysis(store_covariance=True).fit(coded.latents, coded.labels)
    expected = numpy.trace(analysis.covariance_) / coded.latents.var(0).sum()
    assert within_class_share(1e3 * coded.latents, coded.labels) == pytest.approx(expected)


def test_collapsed_classes_and_identical_clouds():
    cloud, labels = numpy.random.default_rng(0).normal(3, 1, (10, 5)), DIGITS.repeat(10)
    collapsed = cloud.repeat(10, axis=0)
    assert within_class_share(collapsed, labels) == pytest.approx(0, abs=1e-20)
    assert silhouette(collapsed, labels) == pytest.approx(1)
    same = numpy.concatenate([numpy.roll(cloud, digit, axis=0) for digit in DIGITS])
    assert within_class_share(same, labels) == pytest.approx(1)
    assert silhouette(same, labels) < 0  # the same point of another cloud is the nearest


def test_silhouette_by_scikit_learn_of_which_many_points_are_sampled():
    few, many = clouds(2), clouds(2, count=2_200)
    expected = silhouette_samples(few.latents, few.labels).mean()
    assert silhouette(few.latents, few.labels) == pytest.approx(expected)
    sampled = [silhouette(many.latents, many.labels, seed) for seed in (0, 0, 1)]
    assert sampled[0] == sampled[1] != sampled[2]
    expected = silhouette_samples(many.latents, many.labels).mean()
    assert sampled == pytest.approx([expected] * 3, abs=0.03)


def test_linear_probe_is_logistic_regression_at_any_scale():
    train, test = clouds(4), clouds(4, seed=1)
    mean, deviation = train.latents.mean(0), train.latents.std(0)
    probe = LogisticRegression(max_iter=1_000)
    probe.fit((train.latents - mean) / deviation, train.labels)
    right = probe.predict((test.latents - mean) / deviation) == test.labels
    scaled = Coded(train.latents * SCALES[:4], train.labels)
    accuracy = linear_probe_accuracy(scaled, Coded(test.latents * SCALES[:4], test.labels))
    assert accuracy == pytest.approx(right.mean())
    assert 0.3 < accuracy < 0.95


def test_ridge_by_the_normal_equations_of_each_digit():
    train, targets = writing(300, seed=0, noise=2.0)
    test, test_targets = writing(150, seed=1, noise=2.0)
    targets, test_targets = targets + train.labels, test_targets + test.labels
    error, total = 0.0, 0.0
    for digit in DIGITS:
        of_train, of_test = train.labels == digit, test.labels == digit
        mean, deviation = train.latents[of_train].mean(0), train.latents[of_train].std(0)
        a = (train.latents[of_train] - mean) / deviation
        b = (test.latents[of_test] - mean) / deviation
        level = targets[of_train].mean()
        weights = numpy.linalg.solve(a.T @ a + numpy.eye(9), a.T @ (targets[of_train] - level))
        wanted = test_targets[of_test]
        error += ((wanted - b @ weights - level) ** 2).sum()
        total += ((wanted - wanted.mean()) ** 2).sum()

    scaled, scaled_test = train.latents * SCALES, test.latents * SCALES
    r2 = r2_within_digits(
        Ridge(1.0),
        *(Coded(scaled, train.labels), targets),
        *(Coded(scaled_test, test.labels), test_targets),
    )
    assert r2 == pytest.approx(1 - error / total)
    assert 0.1 < r2 < 0.9


def test_neighbours_by_a_loop():
    train, targets = writing(200, seed=0, noise=1.0)
    test, test_targets = writing(50, seed=1, noise=1.0)
    error, total = 0.0, 0.0
    for latent, digit, wanted in zip(test.latents, test.labels, test_targets, strict=True):
        members, values = train.latents[train.labels == digit], targets[train.labels == digit]
        distances = numpy.linalg.norm((members - latent) / members.std(0), axis=1)
        error += (wanted - values[numpy.argsort(distances)[:3]].mean()) ** 2
        total += (wanted - test_targets[test.labels == digit].mean()) ** 2
    r2 = r2_within_digits(KNeighborsRegressor(3), train, targets, test, test_targets)
    assert r2 == pytest.approx(1 - error / total)


def test_a_slant_in_a_direction_of_each_digit_is_seen():
    (train, targets), (test, test_targets) = writing(4_000, seed=0), writing(1_000, seed=1)
    one_for_all = Ridge(1.0).fit(train.latents, targets).score(test.latents, test_targets)
    assert abs(one_for_all) < 0.02
    assert r2_within_digits(Ridge(1.0), train, targets, test, test_targets) > 0.9


def test_what_the_digit_tells_does_not_count_and_opposite_predictions_count_against():
    (train, targets), (test, test_targets) = writing(4_000, seed=0), writing(1_000, seed=1)
    random = numpy.random.default_rng(2)
    unrelated = [
        7 * coded.labels + random.normal(size=len(coded.labels)) for coded in (train, test)
    ]
    r2 = r2_within_digits(Ridge(1.0), train, unrelated[0], test, unrelated[1])
    assert r2 == pytest.approx(0, abs=0.05)
    # Predicting y for -y about 0: 1 - sum (2 y)^2 / sum y^2 = -3.
    r2 = r2_within_digits(Ridge(1.0), train, targets, test, -test_targets)
    assert r2 == pytest.approx(-3, abs=0.1)


def test_what_no_measure_takes():
    right, other = clouds(4, count=500), clouds(4, seed=1)
    targets = numpy.arange(500.0)
    numbers = numpy.arange(300)
    wrong = [
        Coded(
            numpy.where(other.latents == other.latents[5, 2], numpy.inf, other.latents),
            other.labels,
        ),
        Coded(other.latents, other.labels[1:]),
        Coded(other.latents, numpy.where(numbers == 299, -1, other.labels)),
        Coded(other.latents, numpy.where(other.labels == 3, 4, other.labels)),  # no 3
    ]
    for coded in wrong:
        with pytest.raises(ValueError):
            within_class_share(coded.latents, coded.labels)
        with pytest.raises(ValueError):
            silhouette(coded.latents, coded.labels)
        for train, test in ((coded, right), (right, coded)):
            with pytest.raises(ValueError):
                linear_probe_accuracy(train, test)
            with pytest.raises(ValueError):
                r2_within_digits(
                    Ridge(1.0),
                    *(train, targets[: len(train.latents)]),
                    *(test, targets[: len(test.latents)]),
                )


def test_what_does_not_vary_is_refused():
    coded = clouds(4)
    with pytest.raises(ValueError):
        within_class_share(numpy.full_like(coded.latents, 0.1), coded.labels)
    targets = numpy.arange(300.0)
    with pytest.raises(ValueError):
        r2_within_digits(Ridge(1.0), coded, targets, coded, coded.labels / 10)
