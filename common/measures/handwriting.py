"""How a digit was written: its slant, the thickness of its strokes, its size."""

import numpy
from numpy.typing import NDArray as Array

from common.measures.points import as_rows
from common.models import IMAGE_SHAPE

SIDE = IMAGE_SHAPE[-1]
BATCH = 1_000  # images in float64 that fit a processor's cache


def handwriting(images: Array) -> dict[str, Array]:
    """Measure images (N, 1, 28, 28): "slant", "thickness" and "size", (N,) each; shift and contrast
    do not count.

    - slant: mu11 / mu02, pixels to the right per pixel upwards: 0 is upright, positive leans to the
      right, as italics do. The moments are those of the ink, a pixel being a unit square (Hu 1962).
    - thickness: 2 * ink / outline, in pixels, outline being the total variation by Roberts' cross,
      the sum of sqrt(((p00 - p11)^2 + (p01 - p10)^2) / 2) over 2x2 blocks. Lines thinner than 2
      pixels read thicker than they are.
    - size: sqrt(mu20 + mu02), the radius of gyration in pixels.

    Raises ValueError for an image without ink.
    """
    rows = as_rows(images)
    if rows.shape[1] != SIDE * SIDE:
        raise ValueError(
            f"images: got {rows.shape[1]} pixels each, expected {SIDE * SIDE}: pass (N, 1, 28, 28)"
        )
    ink = rows.sum(1)
    if ink.min() <= 0:
        raise ValueError(
            f"images: got no ink in image {ink.argmin()}, expected some in every one: leave it out"
        )

    parts = [_handwriting(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH)]
    return {name: numpy.concatenate([part[name] for part in parts]) for name in parts[0]}


def slope_within_digits(drawn: Array, originals: Array, labels: Array) -> float:
    """Return by how much a feature of reconstructions (N,) grows where that of the originals (N,)
    does, within digits: 1 if it follows, 0 if it does not.

    The least-squares slope, each digit's means subtracted. ValueError if the originals do not vary.
    """
    drawn_deviation = numpy.empty(len(labels))
    original_deviation = numpy.empty(len(labels))
    for digit in numpy.unique(labels):
        of_digit = labels == digit
        drawn_deviation[of_digit] = drawn[of_digit] - drawn[of_digit].mean()
        original_deviation[of_digit] = originals[of_digit] - originals[of_digit].mean()
    squares = (original_deviation**2).sum()
    if squares == 0:
        raise ValueError("originals: got no variation within a digit, expected some")
    return float((drawn_deviation * original_deviation).sum() / squares)


def from_thin_to_thick(
    writing: dict[str, Array], labels: Array, digit: int, count: int
) -> list[int]:
    """Return the indices of ``count`` different images of a digit, from thin strokes to thick ones.

    Their thicknesses are as good as equally far apart, from the digit's 1st to its 99th percentile,
    and their slants near its median. The choice is by how they are written alone.
    """
    of_digit = numpy.flatnonzero(labels == digit)
    thickness, slant = writing["thickness"][of_digit], writing["slant"][of_digit]
    tilt = abs(slant - numpy.median(slant)) / (slant.std() or 1.0)
    chosen = []
    for wanted in numpy.linspace(*numpy.quantile(thickness, [0.01, 0.99]), count):
        distance = abs(thickness - wanted) / (thickness.std() or 1.0) + tilt / 2
        distance[chosen] = numpy.inf
        chosen.append(distance.argmin())
    return of_digit[chosen].tolist()


def _handwriting(ink: Array) -> dict[str, Array]:
    """Measure ink (B, 784)."""
    coordinates = numpy.arange(SIDE) - (SIDE - 1) / 2
    x = numpy.tile(coordinates, SIDE)
    y = numpy.repeat(-coordinates, SIDE)  # upwards

    total = ink.sum(1)
    x_mean = ink @ x / total
    y_mean = ink @ y / total
    # Central moments; 1/12 because a pixel is a unit square, not a point.
    mu20 = ink @ (x * x) / total - x_mean**2 + 1 / 12
    mu02 = ink @ (y * y) / total - y_mean**2 + 1 / 12
    mu11 = ink @ (x * y) / total - x_mean * y_mean

    padded = numpy.pad(ink.reshape(-1, SIDE, SIDE), ((0, 0), (1, 1), (1, 1)))
    falling = padded[:, :-1, :-1] - padded[:, 1:, 1:]
    rising = padded[:, :-1, 1:] - padded[:, 1:, :-1]
    outline = numpy.sqrt((falling**2 + rising**2) / 2).sum((1, 2))
    return {"slant": mu11 / mu02, "thickness": 2 * total / outline, "size": numpy.sqrt(mu20 + mu02)}
