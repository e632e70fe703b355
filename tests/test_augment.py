"""Tests of common/augment.py: warps and strokes against scipy."""

import numpy
import pytest
import scipy.ndimage
import torch
from torch import nn

from common.augment import STRONG_WARP, WARP, Averaged, Warp, thicken, warp_and_thicken

STILL = {"rotation": 0.0, "scale": 0.0, "shear": 0.0, "shift": 0.0, "elastic": 0.0}
LARGE = {"rotation": 20.0, "scale": 0.2, "shear": 0.3, "shift": 3.0, "elastic": 1.0}
CENTRE = 13.5  # of pixel coordinates 0 to 27
GRID = numpy.mgrid[:28, :28].astype(numpy.float32)  # (2, 28, 28): row and column of each pixel


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_images(count: int) -> torch.Tensor:
    return torch.rand(count, 1, 28, 28, generator=seeded(9))


def warped_copies(image: torch.Tensor, count: int, **strengths: float) -> numpy.ndarray:
    """Warp copies of an image (28, 28), by these strengths alone: (count, 28, 28)."""
    warp = Warp(**STILL | strengths)
    return warp(image.expand(count, 1, 28, 28), seeded())[:, 0].numpy()


def origins(count: int, **strengths: float) -> numpy.ndarray:
    """Return row and column that each pixel of ``count`` results comes from: (count, 2, 28, 28).

    It is right where that is within the image.
    """
    ramps = [warped_copies(torch.from_numpy(ramp), count, **strengths) for ramp in GRID]
    return numpy.stack(ramps, axis=1)


def affine_parts(origin: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return matrices (N, 2, 2) and offsets (N, 2) of warps, and check that they are affine."""
    down = (origin[:, :, 19, 13] - origin[:, :, 8, 13]) / 11
    right = (origin[:, :, 13, 19] - origin[:, :, 13, 8]) / 11
    matrices = numpy.stack([down, right], axis=2)
    offsets = origin[:, :, 13:15, 13:15].mean((2, 3)) - CENTRE
    expected = numpy.einsum("nij,jrc->nirc", matrices, GRID - CENTRE)
    expected += CENTRE + offsets[:, :, None, None]
    inside = (slice(None), slice(None), slice(8, 20), slice(8, 20))
    numpy.testing.assert_allclose(origin[inside], expected[inside], atol=1e-3)
    return matrices, offsets


def assert_uniform(values: numpy.ndarray, limit: float) -> None:
    """Check that 300 values, or 300 pairs (300, 2), are spread evenly over [-limit, limit]."""
    assert numpy.abs(values).max() <= limit + 1e-4
    for column in values.reshape(300, -1).T:
        counts, _ = numpy.histogram(column, bins=5, range=(-limit, limit))
        assert 35 < counts.min() <= counts.max() < 85  # 60 +/- 3.6 standard deviations


@pytest.mark.parametrize("augment", [WARP, STRONG_WARP, warp_and_thicken, thicken])
def test_shape_and_range_are_kept_and_so_is_the_input(augment):
    images = some_images(5)
    changed = augment(images, seeded())
    assert (changed.shape, changed.dtype) == (images.shape, torch.float32)
    assert 0 <= changed.min() and changed.max() <= images.max() + 1e-6
    assert not torch.allclose(changed, images, atol=0.1)
    assert torch.equal(images, some_images(5))


def test_no_strength_no_change():
    images = some_images(5)
    assert torch.allclose(Warp(**STILL)(images, seeded()), images, atol=1e-4)


@pytest.mark.parametrize("augment", [WARP, thicken])
def test_random_numbers_come_from_the_generator_alone(augment):
    images, generator = some_images(4), seeded(3)
    changed = augment(images, generator)
    torch.rand(1)
    assert torch.equal(augment(images, seeded(3)), changed)
    for other in (generator, seeded(4)):  # the generator has moved on
        assert not torch.allclose(augment(images, other), changed, atol=0.1)


@pytest.mark.parametrize("part", LARGE)
def test_every_image_of_a_batch_is_warped_in_another_way(part):
    copies = warped_copies(some_images(1)[0, 0], 7, **{part: LARGE[part]})
    differences = numpy.abs(copies[:, None] - copies[None]).max((2, 3))
    assert differences[~numpy.eye(7, dtype=bool)].min() > 0.01


@pytest.mark.parametrize("part", ["rotation", "scale", "shear", "shift"])
def test_affine_parts_fill_their_range_and_are_scipys(part):
    matrices, offsets = affine_parts(origins(300, **{part: LARGE[part]}))
    factors, slopes = matrices[:, [0, 1], [0, 1]], matrices[:, 1, 0]
    turns = numpy.arctan2(matrices[:, 0, 1], factors[:, 0])
    amounts = {
        "rotation": numpy.degrees(turns),
        "scale": factors - 1,
        "shear": slopes,
        "shift": offsets,
    }
    assert_uniform(amounts[part], LARGE[part])

    one, nought, cos, sin = numpy.ones(300), numpy.zeros(300), numpy.cos(turns), numpy.sin(turns)
    by_hand = {
        "rotation": [[cos, sin], [-sin, cos]],
        "scale": [[factors[:, 0], nought], [nought, factors[:, 1]]],
        "shear": [[one, nought], [slopes, one]],  # rows slide along themselves
        "shift": [[one, nought], [nought, one]],
    }
    numpy.testing.assert_allclose(matrices, numpy.moveaxis(by_hand[part], 2, 0), atol=1e-4)
    if part != "shift":
        assert numpy.abs(offsets).max() < 1e-4

    image = some_images(1)[0, 0]
    results = warped_copies(image, 300, **{part: LARGE[part]})
    for number in range(20):
        start = CENTRE + offsets[number] - matrices[number] @ [CENTRE, CENTRE]
        expected = scipy.ndimage.affine_transform(
            image.numpy(), matrices[number], start, order=1, mode="grid-constant"
        )
        numpy.testing.assert_allclose(results[number], expected, atol=5e-4)


@pytest.mark.parametrize("elastic", [0.5, 1.5])
def test_elastic_displacements(elastic):
    moved = origins(400, elastic=elastic) - GRID
    # Nodes lie on rows and columns 0, 6.75, 13.5, 20.25 and 27.
    for row, column in ((7, 7), (7, 20), (20, 7), (13, 20)):
        node = moved[:, :, row, column]
        assert node.std(0) == pytest.approx(elastic, rel=0.12)
        assert numpy.abs(node.mean(0)).max() < 0.2 * elastic
        assert abs(numpy.corrcoef(node.T)[0, 1]) < 0.2  # rows and columns move independently
    for axis in (0, 1):
        here = moved[:, axis, 7, 7]
        assert numpy.corrcoef(here, moved[:, axis, 7, 8])[0, 1] > 0.95
        assert abs(numpy.corrcoef(here, moved[:, axis, 20, 20])[0, 1]) < 0.2


def test_strokes_are_blended_with_the_highest_or_lowest_of_3x3_pixels():
    images = some_images(400)
    changed = thicken(images, seeded(), thicker=0.6, thinner=0.3).numpy()
    images = images.numpy()
    reaches = {
        "thicker": scipy.ndimage.maximum_filter(images, (1, 1, 3, 3), mode="constant") - images,
        "thinner": scipy.ndimage.minimum_filter(images, (1, 1, 3, 3), mode="constant") - images,
    }
    change = changed - images
    is_thicker = change.sum((1, 2, 3)) > 0
    assert 150 < is_thicker.sum() < 250
    for name, most, members in (("thicker", 0.6, is_thicker), ("thinner", 0.3, ~is_thicker)):
        reach = reaches[name][members]
        weights = (change[members] * reach).sum((1, 2, 3)) / (reach**2).sum((1, 2, 3))
        # One weight for all pixels of an image.
        by_hand = weights[:, None, None, None] * reach
        numpy.testing.assert_allclose(change[members], by_hand, atol=1e-5)
        assert 0.95 * most < weights.max() <= most + 1e-5
        assert weights.mean() == pytest.approx(most / 2, rel=0.15)


def test_averaged_answers_are_the_mean_of_the_probabilities():
    images, generator = some_images(3), seeded(0)
    weights = torch.randn(784, 10, generator=seeded(2)) / 5
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(784, 10, bias=False)).eval()
    classifier[1].weight.data = weights.T.contiguous()
    shown = [images, WARP(images, generator), WARP(images, generator)]
    expected = sum(torch.softmax(copies.flatten(1) @ weights, 1) for copies in shown) / 3
    averaged = Averaged(classifier, 2)
    assert not averaged.training
    assert torch.allclose(averaged(images).exp(), expected, atol=1e-6)
    assert torch.equal(averaged(images), averaged(images))
