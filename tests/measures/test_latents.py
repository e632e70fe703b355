"""Tests of common/measures/latents.py: worked by hand, by scikit-learn and normal equations."""

import numpy
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import silhouette_samples

from common.measures import latents
from common.measures.latents import Coded
from common.measures.points import class_means

DIGITS = numpy.arange(10)
SCALES = 10.0 ** numpy.arange(-4, 5)  # of nine latents, of which none may matter


def clouds(count: int, seed: int = 0, apart: float = 2.0) -> Coded:
    """Return ten clouds (N, 9), whose centres lie so far apart, about."""
    centres = 5 + apart * numpy.random.default_rng(7).normal(size=(10, 9))
    random = numpy.random.default_rng(seed)
    labels = random.permutation(numpy.arange(count) % 10)
    return Coded(centres[labels] + 3 * random.normal(size=(count, 9)), labels)


def slants_of(coded: Coded, noise: float = 0.0) -> numpy.ndarray:
    """Return what deviations from a digit's mean tell along a direction of that digit."""
    directions = numpy.random.default_rng(8).normal(size=(10, 9))
    deviations = coded.latents - class_means(coded.latents, coded.labels)[coded.labels]
    random = numpy.random.default_rng(len(coded.labels))
    return (deviations * directions[coded.labels]).sum(1) + noise * random.normal(
        size=len(deviations)
    )


def test_silhouette_at_its_limits():
    # Class c has the points (c +- 1, +-2), all in one place or in the same places as the others.
    corners = numpy.array([(-1, -2), (-1, 2), (1, -2), (1, 2)])
    points = numpy.concatenate([corners + numpy.array([digit, 0]) for digit in DIGITS])
    labels = DIGITS.repeat(4)
    collapsed, same = points[::4].repeat(4, axis=0), numpy.tile(corners, (10, 1))
    assert latents.silhouette(collapsed, labels) == pytest.approx(1)
    assert latents.silhouette(same, labels) < 0  # the nearest is a point of another class


def test_silhouette_by_scikit_learn_of_which_many_points_are_sampled():
    for count, tolerance in ((300, 1e-9), (2_200, 0.02)):
        coded = clouds(count)
        expected = silhouette_samples(coded.latents, coded.labels).mean()
        found = [latents.silhouette(coded.latents, coded.labels, seed) for seed in (0, 0, 1)]
        assert found == pytest.approx([expected] * 3, abs=tolerance)
        assert found[0] == found[1]
    assert found[1] != found[2]


def test_linear_probe_is_logistic_regression_at_any_scale():
    train, test = clouds(300), clouds(200, seed=1)
    mean, deviation = train.latents.mean(0), train.latents.std(0)
    probe = LogisticRegression(max_iter=1_000)
    probe.fit((train.latents - mean) / deviation, train.labels)
    right = probe.predict((test.latents - mean) / deviation) == test.labels
    scaled = [Coded(coded.latents * SCALES, coded.labels) for coded in (train, test)]
    assert latents.linear_probe_accuracy(*scaled) == pytest.approx(right.mean())
    assert 0.3 < right.mean() < 0.95


def test_r2_of_a_ridge_by_the_normal_equations_of_each_digit():
    train, test = clouds(300), clouds(150, seed=1)
    targets = slants_of(train, noise=6.0) + 100 * train.labels
    test_targets = slants_of(test, noise=6.0) + 100 * test.labels
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

    scaled = Coded(train.latents * SCALES, train.labels)
    scaled_test = Coded(test.latents * SCALES, test.labels)
    r2 = latents.r2_within_digits(Ridge(1.0), scaled, targets, scaled_test, test_targets)
    assert r2 == pytest.approx(1 - error / total)
    assert 0.1 < r2 < 0.9


def test_r2_sees_a_direction_of_each_digit_where_one_ridge_for_all_is_blind():
    train, test = clouds(2_000, apart=200.0), clouds(500, seed=1, apart=200.0)
    targets, test_targets = slants_of(train), slants_of(test)
    one_for_all = Ridge(1.0).fit(train.latents, targets).score(test.latents, test_targets)
    assert one_for_all < 0.1
    assert latents.r2_within_digits(Ridge(1.0), train, targets, test, test_targets) > 0.95
