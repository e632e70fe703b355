"""Tests of common/measures/handwriting.py: bars worked by hand."""

from math import sqrt

import numpy
import pytest

from common.measures.handwriting import from_thin_to_thick, handwriting, slope_within_digits


def bar(height: int, width: int, lean: int = 0) -> numpy.ndarray:
    """Draw a bar of which each row starts ``lean`` pixels right of the row below: (1, 28, 28)."""
    image = numpy.zeros((1, 28, 28))
    for above in range(height):
        start = 12 + lean * (above - height // 2)
        image[0, 22 - above, start : start + width] = 1
    return image


@pytest.mark.parametrize(
    ("height", "width", "lean"),
    [(18, 2, 0), (2, 14, 0), (1, 1, 0), (1, 9, 0), (12, 3, -1), (12, 3, 1)],
)
def test_bars(height, width, lean):
    measured = handwriting(bar(height, width, lean)[None])
    # The second moments of a rectangle are height^2 / 12 and width^2 / 12, those of the middles
    # of its rows (height^2 - 1) / 12. A lean to the right is positive.
    rows = height**2 - 1
    assert measured["slant"] == pytest.approx(lean * rows / height**2)
    assert measured["size"] == pytest.approx(sqrt((height**2 + width**2 + lean**2 * rows) / 12))
    if lean == 0 and min(height, width) > 1:
        # Of 2x2 blocks on its outline 2 * (height + width) - 4 have two bright pixels side by
        # side, gradient 1, and the 4 at the corners have one, gradient sqrt(1/2).
        outline = 2 * (height + width) - 4 + 4 * sqrt(0.5)
        assert measured["thickness"] == pytest.approx(2 * height * width / outline)


def test_neither_shift_nor_contrast_nor_the_other_images_count():
    image = bar(10, 3, 1)
    moved = 0.2 * numpy.roll(image, (3, -4), (1, 2))
    other = bar(5, 9)
    measured = handwriting(numpy.stack([image, moved, other] * 400))  # more than one batch
    for name, values in measured.items():
        alone = [handwriting(one[None])[name][0] for one in (image, image, other)]
        assert values == pytest.approx(alone * 400)


def test_what_it_does_not_take():
    blank, diverged = numpy.ones((4, 1, 28, 28)), numpy.ones((4, 1, 28, 28))
    blank[2], diverged[2, 0, 3, 4] = 0, numpy.nan
    for wrong in (blank, diverged, numpy.ones((3, 20, 20))):
        with pytest.raises(ValueError):
            handwriting(wrong)


def test_slope_is_within_digits():
    labels = numpy.array([0, 0, 0, 1, 1, 1])
    originals = numpy.array([1.0, 2.0, 3.0, 11.0, 12.0, 13.0])
    offset = numpy.array([5.0, 5.0, 5.0, -40.0, -40.0, -40.0])  # of the digits, which do not count
    assert slope_within_digits(0.3 * originals + offset, originals, labels) == pytest.approx(0.3)
    assert slope_within_digits(offset, originals, labels) == pytest.approx(0)
    with pytest.raises(ValueError, match="no variation"):
        slope_within_digits(originals, offset, labels)


def test_digits_from_thin_to_thick():
    random = numpy.random.default_rng(0)
    labels = numpy.arange(600) % 2
    writing = {"thickness": random.uniform(1, 5, 600), "slant": random.normal(size=600)}
    writing["thickness"][labels == 0] = 9
    chosen = from_thin_to_thick(writing, labels, digit=1, count=5)
    assert len(set(chosen)) == 5 and set(labels[chosen]) == {1}
    assert writing["thickness"][chosen] == pytest.approx([1, 2, 3, 4, 5], abs=0.5)
    assert abs(writing["slant"][chosen]).max() < abs(writing["slant"][labels == 1]).max() / 2
    assert len(set(from_thin_to_thick(writing, labels, digit=0, count=3))) == 3  # all alike
