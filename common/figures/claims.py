"""Figures of claims (b) and (c): values beside what they are measured on."""

from pathlib import Path

import numpy
import pandas
from matplotlib import patheffects
from numpy.typing import NDArray as Array

from common.figures import dots, style

PICTURE = 3.6  # inches high
# Digits are drawn as digits: no palette keeps ten apart. All are dark enough for text.
DIGIT_COLOURS = (
    "#000000",
    "#0072B2",
    "#00805E",
    "#B54F00",
    "#882255",
    "#5B6C8F",
    "#A36A00",
    "#A8538B",
    "#0B7A8A",
    "#666666",
)


def plot_by_digit(
    path: Path, title: str, caption: str, values: pandas.DataFrame, ylabel: str
) -> None:
    """Plot values of each digit (index) and model (column), joined by a line for each digit."""
    with style.figure(path, 3.8, title, caption) as figure:
        axes = figure.subplots()
        axes.axhline(1, color="black", linestyle="--", linewidth=1, label="original images")
        axes.vlines(
            values.index, values.min(axis=1), values.max(axis=1), color=style.BASELINE, linewidth=1
        )
        for model in values:
            axes.plot(values[model], "o", color=style.colour(model), markersize=9, label=model)
        top = 1.08 * max(1.0, values.max(axis=None))
        axes.set(xlabel="digit", xticks=values.index, ylim=(0, top), ylabel=ylabel)
        style.percent_axis(axes.yaxis)
        style.legend_below(figure, axes, columns=1 + len(values.columns))


def plot_separation(
    path: Path,
    title: str,
    caption: str,
    projections: dict[str, tuple[Array, Array]],
    numbers: pandas.DataFrame,
    measures: list[str],
) -> None:
    """Plot 2-D projections (title -> points (N, 2), labels (N,)) above the panels of ``measures``
    of Q1 and Q3.
    """
    with style.figure(path, PICTURE + 2.6, title, caption) as figure:
        above, below = figure.subfigures(2, 1, height_ratios=(PICTURE, 2.0))
        for axes, (name, (points, labels)) in zip(
            above.subplots(1, len(projections)), projections.items(), strict=True
        ):
            draw_digits(axes, points, labels)
            axes.set_title(name, fontsize=10)
        dots.draw_panels(below, numbers, ["Q1", "Q3"], measures)


def draw_digits(axes, points: Array, labels: Array) -> None:
    """Draw each point as a small digit in its digit's colour, and each digit's median as a large
    one.
    """
    outline = patheffects.withStroke(linewidth=3, foreground="white")
    for digit, colour in enumerate(DIGIT_COLOURS):
        members = points[labels == digit]
        axes.scatter(*members.T, marker=f"${digit}$", color=colour, s=16, linewidths=0.2, alpha=0.8)
        place = {"fontsize": 18, "weight": "bold", "ha": "center", "va": "center"}
        axes.text(
            *numpy.median(members, axis=0),
            str(digit),
            color=colour,
            path_effects=[outline],
            **place,
        )
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
