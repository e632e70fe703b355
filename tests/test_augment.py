import numpy
import pytest
import scipy.ndimage
import torch
from torch import nn

from common.augment import STRONG_WARP, Averaged, thicken, warp, warp_and_thicken

LARGE = {"rotation": 20.0, "scale": 0.2, "shear": 0.3, "shift": 3.0, "elastic": 1.0}
STILL = dict.fromkeys(LARGE, 0.0)
CENTRE = 13.5  # of pixel coordinates 0 to 27
GRID = numpy.mgrid[:28, :28].astype(numpy.float32)  # (2, 28, 28): row and column of each pixel


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_images(count: int) -> torch.Tensor:
    return torch.rand(count, 1, 28, 28, generator=seeded(9))


def warped_copies(image: torch.Tensor, count: int, **strengths: float) -> numpy.ndarray:
    return warp(image.expand(count, 1, 28, 28), seeded(), **(STILL | strengths))[
        :, 0
    ].numpy()  # (count, 28, 28)


def origins(count: int, **strengths: float) -> numpy.ndarray:
    """Return row and column that each pixel of ``count`` results comes from: (count, 2, 28, 28), right inside it."""
    return numpy.stack(
        [warped_copies(torch.from_numpy(ramp), count, **strengths) for ramp in GRID], axis=1
    )


def affine_parts(origin: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Check warps to be affine; return matrices (N, 2, 2) and offsets (N, 2) from the result's row and column."""
    down, right = (
        origin[:, :, 19, 13] - origin[:, :, 8, 13],
        origin[:, :, 13, 19] - origin[:, :, 13, 8],
    )
    matrices = numpy.stack([down, right], axis=2) / 11
    offsets = origin[:, :, 13:15, 13:15].mean((2, 3)) - CENTRE
    expected = (
        numpy.einsum("nij,jrc->nirc", matrices, GRID - CENTRE) + CENTRE + offsets[:, :, None, None]
    )
    numpy.testing.assert_allclose(origin[:, :, 8:20, 8:20], expected[:, :, 8:20, 8:20], atol=1e-3)
    return matrices, offsets


def assert_uniform(values: numpy.ndarray, limit: float) -> None:
    """Check 300 values, or 300 pairs (300, 2), to be spread evenly and independently over [-limit, limit]."""
    assert numpy.abs(values).max() <= limit + 1e-4
    for column in values.reshape(300, -1).T:
        counts, _ = numpy.histogram(column, bins=5, range=(-limit, limit))
        assert (
            35 < counts.min() <= counts.max() < 85
        )  # 60 expected, and 25 are 3.6 standard deviations
    assert values.ndim == 1 or abs(numpy.corrcoef(values.T)[0, 1]) < 0.2


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("warping", [warp, STRONG_WARP, warp_and_thicken])
def test_shape_dtype_range_and_input_are_kept_and_zero_strengths_change_nothing(count, warping):
    images, before = some_images(count), some_images(count)
    warped = warping(images, seeded())
    assert (warped.shape, warped.dtype) == (images.shape, torch.float32)
    assert 0 <= warped.min() <= warped.max() <= images.max() + 1e-6  # true for no nan
    assert torch.allclose(warp(images, seeded(), **STILL), images, atol=1e-4)
    assert not torch.allclose(warped, images, atol=0.1)
    warped.zero_()
    assert torch.equal(images, before)


def test_random_numbers_come_from_the_generator_alone():
    images, generator = some_images(4), seeded(3)
    warped = warp(images, generator)
    assert torch.equal(warp(images, seeded(3)), warped)  # torch's own generator would have moved on
    for other in (generator, seeded(4)):  # the generator has moved on
        assert not torch.allclose(warp(images, other), warped, atol=0.1)


@pytest.mark.parametrize("part", STILL)
def test_every_image_of_a_batch_gets_another_warp_by_every_part(part):
    shown = warped_copies(some_images(1)[0, 0], 7, **{part: LARGE[part]})  # (7, 28, 28)
    assert (
        numpy.abs(shown[:, None] - shown[None]).max((2, 3))[~numpy.eye(7, dtype=bool)].min() > 0.01
    )


@pytest.mark.parametrize("part", ["rotation", "scale", "shear", "shift"])
def test_affine_parts_fill_their_range_and_do_nothing_else_as_scipy_confirms(part):
    matrices, offsets = affine_parts(origins(300, **{part: LARGE[part]}))
    factors, slopes = matrices[:, [0, 1], [0, 1]], matrices[:, 1, 0]
    turns = numpy.arctan2(matrices[:, 0, 1], factors[:, 0])
    values = {
        "rotation": numpy.degrees(turns),
        "scale": factors - 1,
        "shear": slopes,
        "shift": offsets,
    }
    assert_uniform(values[part], LARGE[part])
    one, nought, cos, sin = numpy.ones(300), numpy.zeros(300), numpy.cos(turns), numpy.sin(turns)
    by_hand = {
        "rotation": [[cos, sin], [-sin, cos]],
        "scale": [[factors[:, 0], nought], [nought, factors[:, 1]]],
        "shear": [[one, nought], [slopes, one]],  # rows slide along themselves
        "shift": [[one, nought], [nought, one]],
    }[part]
    numpy.testing.assert_allclose(matrices, numpy.moveaxis(by_hand, 2, 0), atol=1e-4)
    assert part == "shift" or numpy.abs(offsets).max() < 1e-4
    image = some_images(1)[0, 0]
    results = warped_copies(image, 300, **{part: LARGE[part]})
    for matrix, offset, result in list(zip(matrices, offsets, results, strict=True))[:20]:
        start = CENTRE + offset - matrix @ [CENTRE, CENTRE]
        expected = scipy.ndimage.affine_transform(
            image.numpy(), matrix, start, order=1, mode="grid-constant"
        )
        numpy.testing.assert_allclose(
            result, expected, atol=5e-4
        )  # zeros around the image included


def test_rotation_scale_and_shear_together_leave_the_centre_in_place():
    matrices, offsets = affine_parts(origins(50, rotation=30, scale=0.2, shear=0.2))
    areas = numpy.linalg.det(matrices)
    assert (
        numpy.abs(offsets).max() < 1e-3
        and 0.8**2 - 1e-3 <= areas.min() < areas.max() <= 1.2**2 + 1e-3
    )


@pytest.mark.parametrize("elastic", [0.5, 1.5])
def test_elastic_displacements_have_the_standard_deviation_asked_for_at_a_node(elastic):
    # Nodes lie on rows and columns 0, 6.75, 13.5, 20.25 and 27; the corner is left out, it looks outside the image.
    moved = origins(400, elastic=elastic) - GRID
    for row, column in ((7, 7), (7, 20), (20, 7), (13, 20)):
        node = moved[:, :, row, column]
        assert (
            node.std(0) == pytest.approx(elastic, rel=0.12)
            and numpy.abs(node.mean(0)).max() < 0.2 * elastic
        )
        assert abs(numpy.corrcoef(node.T)[0, 1]) < 0.2  # rows and columns move independently
    for axis in (0, 1):
        here, near, far = (
            moved[:, axis, row, column] for row, column in ((7, 7), (7, 8), (20, 20))
        )
        assert (
            numpy.corrcoef(here, near)[0, 1] > 0.95 and abs(numpy.corrcoef(here, far)[0, 1]) < 0.2
        )


def test_strokes_are_blended_with_the_highest_or_lowest_of_3x3_pixels_as_scipy_confirms():
    images = some_images(400)
    high, low = (
        extreme(images.numpy(), size=(1, 1, 3, 3), mode="constant")
        for extreme in (scipy.ndimage.maximum_filter, scipy.ndimage.minimum_filter)
    )
    changed = thicken(images, seeded(), thicker=0.6, thinner=0.3).numpy()
    # each image has one weight, up towards the highest or down towards the lowest
    change = (changed - images.numpy()).reshape(400, -1)
    up, down = (
        (change * reach).sum(1) / (reach**2).sum(1)
        for reach in ((of - images.numpy()).reshape(400, -1) for of in (high, low))
    )
    thicker, by_hand = change.sum(1) > 0, images.numpy().copy()
    by_hand[thicker] += (up[:, None, None, None] * (high - images.numpy()))[thicker]
    by_hand[~thicker] += (down[:, None, None, None] * (low - images.numpy()))[~thicker]
    numpy.testing.assert_allclose(changed, by_hand, atol=1e-5)
    assert 150 < thicker.sum() < 250
    for weights, most in ((up[thicker], 0.6), (down[~thicker], 0.3)):
        assert 0.95 * most < weights.max() <= most + 1e-5 and weights.mean() == pytest.approx(
            most / 2, rel=0.15
        )


def test_averaged_answers_are_the_mean_of_the_probabilities_over_image_and_warps():
    images, generator = some_images(3), seeded(0)
    weights = torch.randn(784, 10, generator=seeded(2)) / 5
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(784, 10, bias=False)).eval()
    classifier[1].weight.data = weights.T.contiguous()
    shown = [images, warp(images, generator), warp(images, generator)]
    expected = sum(torch.softmax(warped.flatten(1) @ weights, 1) for warped in shown) / 3
    averaged = Averaged(classifier, 2)
    assert torch.allclose(averaged(images).exp(), expected, atol=1e-6) and not averaged.training
    assert torch.equal(averaged(images), averaged(images)), "one classifier always gets one answer"
