"""Tests of common/augment.py: where pixels come from, by hand, and strokes by scipy."""

import numpy
import pytest
import scipy.ndimage
import torch
from torch import nn

from common.augment import STRONG_WARP, WARP, Averaged, Warp, thicken, warp_and_thicken

STILL = {"rotation": 0.0, "scale": 0.0, "shear": 0.0, "shift": 0.0, "elastic": 0.0}
CENTRE = 13.5  # of pixel coordinates 0 to 27
GRID = numpy.mgrid[:28, :28].astype(numpy.float32)  # (2, 28, 28): row and column of each pixel


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_images(count: int) -> torch.Tensor:
    return torch.rand(count, 1, 28, 28, generator=seeded(9))


def origins(count: int, **strengths: float) -> numpy.ndarray:
    """Return row and column that each pixel of ``count`` warps comes from: (count, 2, 28, 28).

    It is right where that is within the image.
    """
    warp = Warp(**STILL | strengths)
    ramps = [torch.from_numpy(ramp).expand(count, 1, 28, 28) for ramp in GRID]
    return torch.cat([warp(ramp, seeded()) for ramp in ramps], dim=1).numpy()


@pytest.mark.parametrize("augment", [WARP, STRONG_WARP, warp_and_thicken, thicken])
def test_range_and_input_are_kept_and_the_generator_alone_decides(augment):
    images, generator = some_images(5), seeded(3)
    changed = augment(images, generator)
    assert changed.shape == images.shape
    assert changed.min() >= 0 and changed.max() <= images.max() + 1e-6
    assert torch.equal(images, some_images(5))
    torch.rand(1)
    assert torch.equal(augment(images, seeded(3)), changed)
    for other in (images, augment(images, generator)):  # the generator has moved on
        assert not torch.allclose(other, changed, atol=0.1)


@pytest.mark.parametrize(
    ("part", "limit"), [("rotation", 20.0), ("scale", 0.2), ("shear", 0.3), ("shift", 3.0)]
)
def test_affine_parts(part, limit):
    origin = origins(300, **{part: limit})
    down = (origin[:, :, 19, 13] - origin[:, :, 8, 13]) / 11
    right = (origin[:, :, 13, 19] - origin[:, :, 13, 8]) / 11
    moves = origin[:, :, 13:15, 13:15].mean((2, 3)) - CENTRE
    rows, columns = GRID - CENTRE
    affine = CENTRE + numpy.multiply.outer(down, rows) + numpy.multiply.outer(right, columns)
    affine += moves[:, :, None, None]
    inside = numpy.s_[:, :, 8:20, 8:20]
    numpy.testing.assert_allclose(origin[inside], affine[inside], atol=1e-3)

    # Every image of a batch has amounts of its own, uniform within the limit.
    turns = numpy.degrees(numpy.arctan2(right[:, 0], down[:, 0]))
    factors = numpy.stack([down[:, 0], right[:, 1]], axis=1)
    slopes = down[:, 1]  # rows slide along themselves
    amounts = {"rotation": turns, "scale": factors - 1, "shear": slopes, "shift": moves}[part]
    assert numpy.abs(amounts).max() <= limit + 1e-3
    for column in amounts.reshape(300, -1).T:
        counts, _ = numpy.histogram(column, bins=5, range=(-limit, limit))
        assert 35 < counts.min() <= counts.max() < 85  # 60 +/- 3.6 standard deviations
    if part in ("rotation", "shear"):
        areas = numpy.linalg.det(numpy.stack([down, right], axis=2))
        assert areas == pytest.approx(1, abs=1e-3)
    if part != "shift":
        assert numpy.abs(moves).max() < 1e-3


def test_elastic_displacements():
    moved = origins(400, elastic=1.5) - GRID
    # Nodes lie on rows and columns 0, 6.75, 13.5, 20.25 and 27.
    for row, column in ((7, 7), (7, 20), (20, 7), (13, 20)):
        node = moved[:, :, row, column]
        assert node.std(0) == pytest.approx(1.5, rel=0.12)
        assert numpy.abs(node.mean(0)).max() < 0.3


def test_strokes_are_blended_with_the_highest_or_lowest_of_3x3_pixels():
    images = some_images(400)
    change = (thicken(images, seeded(), thicker=0.6, thinner=0.3) - images).numpy()
    images = images.numpy()
    is_thicker = change.sum((1, 2, 3)) > 0
    assert 150 < is_thicker.sum() < 250
    for extreme, most, members in (
        (scipy.ndimage.maximum_filter, 0.6, is_thicker),
        (scipy.ndimage.minimum_filter, 0.3, ~is_thicker),
    ):
        reach = (extreme(images, (1, 1, 3, 3), mode="constant") - images)[members]
        weights = (change[members] * reach).sum((1, 2, 3)) / (reach**2).sum((1, 2, 3))
        # One weight for all pixels of an image.
        by_hand = weights[:, None, None, None] * reach
        numpy.testing.assert_allclose(change[members], by_hand, atol=1e-5)
        assert 0.95 * most < weights.max() <= most + 1e-5
        assert weights.mean() == pytest.approx(most / 2, rel=0.15)


def test_averaged_answers_are_the_mean_of_the_probabilities():
    images, generator = some_images(3), seeded(0)
    weights = torch.randn(784, 10, generator=seeded(2)) / 5
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(784, 10, bias=False))
    classifier[1].weight.data = weights.T.contiguous()
    shown = [images, WARP(images, generator), WARP(images, generator)]
    expected = sum(torch.softmax(copies.flatten(1) @ weights, 1) for copies in shown) / 3
    averaged = Averaged(classifier, 2)
    assert torch.allclose(averaged(images).exp(), expected, atol=1e-6)
    assert torch.equal(averaged(images), averaged(images))
