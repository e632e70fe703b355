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
