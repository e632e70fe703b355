"""Tests of common/measures/handwriting.py: bars worked by hand, and a loop over pixels."""

from math import sqrt

import numpy
import pytest
from scipy.ndimage import correlate

from common.measures.handwriting import handwriting


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
def test_bars_by_hand(height, width, lean):
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


def test_neither_shift_nor_contrast_counts():
    image = bar(10, 3, 1)
    there = 0.2 * numpy.roll(image, (3, -4), (1, 2))
    elsewhere = 0.5 * numpy.roll(image, (-3, 2), (1, 2))
    for values in handwriting(numpy.stack([image, there, elsewhere])).values():
        assert values == pytest.approx(values[0])


def test_noise_by_a_loop_over_pixels_in_more_than_one_batch():
    drawn = numpy.random.default_rng(0).random((5, 1, 28, 28)).astype(numpy.float32)
    drawn *= drawn > 0.5
    measured = handwriting(numpy.tile(drawn, (210, 1, 1, 1)))  # batches are of 1,000
    for name in measured:
        measured[name] = measured[name].reshape(210, 5)
        assert (measured[name] == measured[name][0]).all()

    for index, image in enumerate(drawn[:, 0].astype(float)):
        ink = image.sum()
        x_mean = y_mean = xx = xy = yy = 0.0
        for (row, column), value in numpy.ndenumerate(image):
            x_mean += column * value / ink
            y_mean += -row * value / ink
        for (row, column), value in numpy.ndenumerate(image):
            x, y = column - x_mean, -row - y_mean
            xx += x * x * value / ink
            xy += x * y * value / ink
            yy += y * y * value / ink
        padded = numpy.pad(image, 1)
        cross = numpy.hypot(
            correlate(padded, [[1, 0], [0, -1]]), correlate(padded, [[0, 1], [-1, 0]])
        )
        assert measured["slant"][0, index] == pytest.approx(xy / (yy + 1 / 12))
        assert measured["size"][0, index] == pytest.approx(sqrt(xx + yy + 1 / 6))
        assert measured["thickness"][0, index] == pytest.approx(2 * ink / (cross.sum() / sqrt(2)))


def test_what_it_does_not_take():
    blank, diverged = numpy.ones((4, 1, 28, 28)), numpy.ones((4, 1, 28, 28))
    blank[2], diverged[2, 0, 3, 4] = 0, numpy.nan
    for wrong in (blank, diverged, numpy.ones((3, 20, 20))):
        with pytest.raises(ValueError):
            handwriting(wrong)
