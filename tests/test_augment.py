import numpy
import pytest
import scipy.ndimage
import torch
from torch import nn

from common.augment import Averaged, warp

STILL = {"rotation": 0.0, "scale": 0.0, "shear": 0.0, "shift": 0.0, "elastic": 0.0}
CENTRE = 13.5  # of pixel coordinates 0 to 27
GRID = numpy.mgrid[:28, :28].astype(numpy.float32)  # (2, 28, 28): row and column of each pixel
LINEAR = {"order": 1, "mode": "grid-constant"}  # scipy's name for zeros around the image


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_images(count: int) -> torch.Tensor:
    return torch.rand(count, 1, 28, 28, generator=seeded(9))


def warped_copies(image: torch.Tensor, count: int, seed: int = 0, **strengths: float) -> numpy.ndarray:
    """Warp ``image`` (28, 28) ``count`` times: (count, 28, 28)."""
    return warp(image.expand(count, 1, 28, 28), seeded(seed), **strengths)[:, 0].numpy()


def origins(count: int, seed: int = 0, **strengths: float) -> numpy.ndarray:
    """Return row and column that each pixel of ``count`` results comes from: (count, 2, 28, 28).

    Read from the warped row and column numbers, so only right where they lie inside the image.
    """
    return numpy.stack([warped_copies(torch.from_numpy(ramp), count, seed, **strengths) for ramp in GRID], axis=1)


def linear_parts(origin: numpy.ndarray) -> numpy.ndarray:
    """Return the 2x2 matrices (result's row and column to the original's) of affine warps, and check them to be such.

    Also checks that the centre of the image stays where it is.
    """
    middle = slice(8, 20)
    down = (origin[:, :, 19, 13] - origin[:, :, 8, 13]) / 11
    right = (origin[:, :, 13, 19] - origin[:, :, 13, 8]) / 11
    matrices = numpy.stack([down, right], axis=2)
    expected = numpy.einsum("nij,jrc->nirc", matrices, GRID - CENTRE) + CENTRE
    numpy.testing.assert_allclose(origin[:, :, middle, middle], expected[:, :, middle, middle], atol=1e-3)
    return matrices


def assert_uniform(values: numpy.ndarray, limit: float) -> None:
    """Check 300 values to be spread evenly over [-limit, limit]."""
    assert numpy.abs(values).max() <= limit + 1e-4
    counts, _ = numpy.histogram(values, bins=5, range=(-limit, limit))
    assert counts.min() > 35  # 60 expected, and 25 are 3.6 standard deviations
    assert counts.max() < 85


@pytest.mark.parametrize("count", [1, 5])
def test_shape_dtype_and_range_are_kept(count):
    images = some_images(count)
    warped = warp(images, seeded())
    assert warped.shape == images.shape
    assert warped.dtype == torch.float32
    assert warped.min() >= 0
    assert warped.max() <= images.max()
    assert not torch.allclose(warped, images, atol=0.1)


def test_strong_warps_keep_the_range_and_bring_zeros_from_outside():
    warped = warp(torch.ones(50, 1, 28, 28), seeded(), rotation=45, scale=0.5, shear=0.5, shift=10, elastic=5)
    assert warped.min() == 0
    assert warped.max() <= 1 + 1e-6
    assert warped.isfinite().all()


def test_the_input_is_not_modified():
    images = some_images(4)
    before = images.clone()
    warped = warp(images, seeded())
    assert torch.equal(images, before)
    warped.zero_()
    assert torch.equal(images, before)


def test_the_same_generator_seed_gives_the_same_bits():
    images = some_images(4)
    warped = warp(images, seeded(3))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)
        assert torch.equal(warp(images, seeded(3)), warped)
    assert not torch.allclose(warp(images, seeded(4)), warped, atol=0.1)


def test_successive_calls_with_one_generator_differ():
    generator, images = seeded(), some_images(2)
    assert not torch.allclose(warp(images, generator), warp(images, generator), atol=0.1)


@pytest.mark.parametrize("part", ["rotation", "scale", "shear", "shift", "elastic"])
def test_each_image_of_a_batch_gets_a_warp_of_its_own_from_every_part(part):
    strength = {"rotation": 30.0, "scale": 0.3, "shear": 0.3, "shift": 3.0, "elastic": 2.0}[part]
    image = some_images(1)[0, 0]
    warped = warped_copies(image, 6, **(STILL | {part: strength}))
    for one in range(6):
        assert numpy.abs(warped[one] - image.numpy()).max() > 0.01
        for other in range(one):
            assert numpy.abs(warped[one] - warped[other]).max() > 0.01


@pytest.mark.parametrize("size", [(28, 28), (20, 28)])
def test_zero_strengths_give_the_images_back(size):
    images = torch.rand(5, 1, *size, generator=seeded())
    assert torch.allclose(warp(images, seeded(), **STILL), images, atol=1e-4)


def test_a_pure_shift_agrees_with_scipy_and_fills_its_range():
    strengths = STILL | {"shift": 3.0}
    moved = origins(300, **strengths) - GRID
    by = moved[:, :, 13, 13]
    numpy.testing.assert_allclose(moved[:, :, 4:24, 4:24], numpy.tile(by[:, :, None, None], (20, 20)), atol=1e-4)
    assert_uniform(by[:, 0], 3)
    assert_uniform(by[:, 1], 3)
    assert abs(numpy.corrcoef(by.T)[0, 1]) < 0.2  # rows and columns are drawn apart
    image = some_images(1)[0, 0]
    for result, rows_and_columns in zip(warped_copies(image, 300, **strengths)[:10], by, strict=False):
        expected = scipy.ndimage.shift(image.numpy(), -rows_and_columns, **LINEAR)
        numpy.testing.assert_allclose(result, expected, atol=1e-4)


def test_a_pure_rotation_agrees_with_scipy_and_fills_its_range():
    strengths = STILL | {"rotation": 20.0}
    matrices = linear_parts(origins(300, **strengths))
    numpy.testing.assert_allclose(
        matrices @ matrices.transpose(0, 2, 1), numpy.tile(numpy.eye(2), (300, 1, 1)), atol=1e-4
    )
    degrees = numpy.degrees(numpy.arctan2(matrices[:, 0, 1], matrices[:, 0, 0]))
    assert_uniform(degrees, 20)
    image = some_images(1)[0, 0]
    for result, angle in zip(warped_copies(image, 300, **strengths)[:10], degrees, strict=False):
        expected = scipy.ndimage.rotate(image.numpy(), angle, reshape=False, **LINEAR)
        numpy.testing.assert_allclose(result, expected, atol=5e-4)


def test_a_pure_scale_agrees_with_scipy_and_fills_its_range_on_each_axis():
    strengths = STILL | {"scale": 0.2}
    matrices = linear_parts(origins(300, **strengths))
    assert numpy.abs(matrices[:, [0, 1], [1, 0]]).max() < 1e-4
    factors = matrices[:, [0, 1], [0, 1]]
    assert_uniform(factors[:, 0] - 1, 0.2)
    assert_uniform(factors[:, 1] - 1, 0.2)
    assert abs(numpy.corrcoef(factors.T)[0, 1]) < 0.2
    image = some_images(1)[0, 0]
    for result, factor in zip(warped_copies(image, 300, **strengths)[:10], factors, strict=False):
        expected = scipy.ndimage.affine_transform(image.numpy(), factor, CENTRE * (1 - factor), **LINEAR)
        numpy.testing.assert_allclose(result, expected, atol=5e-4)


def test_a_pure_shear_agrees_with_scipy_and_fills_its_range():
    strengths = STILL | {"shear": 0.3}
    matrices = linear_parts(origins(300, **strengths))
    slopes = matrices[:, 1, 0].copy()
    matrices[:, 1, 0] = 0  # rows slide along themselves, and nothing else happens
    numpy.testing.assert_allclose(matrices, numpy.tile(numpy.eye(2), (300, 1, 1)), atol=1e-4)
    assert_uniform(slopes, 0.3)
    image = some_images(1)[0, 0]
    for result, slope in zip(warped_copies(image, 300, **strengths)[:10], slopes, strict=False):
        expected = scipy.ndimage.affine_transform(image.numpy(), [[1, 0], [slope, 1]], [0, -slope * CENTRE], **LINEAR)
        numpy.testing.assert_allclose(result, expected, atol=5e-4)


def test_rotation_scale_and_shear_together_leave_the_centre_in_place():
    matrices = linear_parts(origins(50, rotation=30, scale=0.2, shear=0.2, shift=0, elastic=0))
    areas = numpy.linalg.det(matrices)
    assert areas.min() >= 0.8**2 - 1e-3
    assert areas.max() <= 1.2**2 + 1e-3


@pytest.mark.parametrize("elastic", [0.5, 1.5])
def test_elastic_displacements_have_the_standard_deviation_asked_for_at_a_node(elastic):
    # Nodes lie on rows and columns 0, 6.75, 13.5, 20.25 and 27; the corner is left out, it looks outside the image.
    moved = origins(400, **(STILL | {"elastic": elastic})) - GRID
    for row, column in ((7, 7), (7, 20), (20, 7), (13, 20)):
        node = moved[:, :, row, column]
        assert node.std(0) == pytest.approx(elastic, rel=0.12)
        assert numpy.abs(node.mean(0)).max() < 0.2 * elastic
        assert abs(numpy.corrcoef(node.T)[0, 1]) < 0.2  # rows and columns are drawn apart


def test_elastic_displacements_agree_nearby_and_not_far_away():
    moved = origins(400, **(STILL | {"elastic": 1.0})) - GRID
    for axis in (0, 1):
        here, near, far = (moved[:, axis, row, column] for row, column in ((7, 7), (7, 8), (20, 20)))
        assert numpy.corrcoef(here, near)[0, 1] > 0.95
        assert abs(numpy.corrcoef(here, far)[0, 1]) < 0.2


def test_elastic_warps_agree_with_scipy():
    strengths = STILL | {"elastic": 1.0}
    image = some_images(1)[0, 0]
    inside = slice(6, 22)
    for result, coordinates in zip(warped_copies(image, 5, **strengths), origins(5, **strengths), strict=True):
        expected = scipy.ndimage.map_coordinates(image.numpy(), coordinates, **LINEAR)
        numpy.testing.assert_allclose(result[inside, inside], expected[inside, inside], atol=5e-4)


def test_all_parts_together_move_no_pixel_of_the_middle_far():
    strengths = {"rotation": 10.0, "scale": 0.1, "shear": 0.1, "shift": 1.5, "elastic": 1.0}
    middle = (..., slice(9, 19), slice(9, 19))
    # At most 4.5 pixels along each axis from the centre, 6.4 in all: rotation moves by 6.4 * 10 degrees = 1.1, scale by
    # 0.5, shear by 0.5 and shift by 1.5; together a little more than their sum.
    affine = numpy.abs((origins(300, **(strengths | {"elastic": 0.0})) - GRID)[middle])
    assert affine.max() < 1.1 + 0.5 + 0.5 + 1.5 + 0.2
    both = numpy.abs((origins(300, **strengths) - GRID)[middle])
    assert both.max() < 3.8 + 4.5  # 4.5 standard deviations
    assert both.mean() > affine.mean() > 0.5


def test_averaged_answers_are_the_mean_of_the_probabilities_over_image_and_warps():
    images = some_images(3)
    weights = torch.randn(784, 10, generator=seeded(2)) / 5
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(784, 10, bias=False))
    classifier[1].weight.data = weights.T.contiguous()
    generator = torch.Generator().manual_seed(0)
    shown = [images, warp(images, generator), warp(images, generator)]
    expected = sum(torch.softmax(each.flatten(1) @ weights, 1) for each in shown) / 3
    averaged = Averaged(classifier.eval(), 2)
    assert torch.allclose(averaged(images).exp(), expected, atol=1e-6)
    assert torch.equal(averaged(images), averaged(images)), "one classifier always gets one answer"
    assert not averaged.training
