"""Curves over an option that takes several values: the dimension of the latents, the number of
labels.

Values are tidy: x (the option), series, measure, value; several values of one x and series are
repetitions.
"""

import textwrap
from pathlib import Path

import pandas
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from common.figures import style
from common.measures.names import MEASURES

MARKERS = "os^Dv*P"
PANELS_PER_ROW = 3


def plot_sweep(
    path: Path,
    title: str,
    caption: str,
    values: pandas.DataFrame,
    measures: list[str],
    xlabel: str,
) -> None:
    """Plot a panel for each measure, with a line for each series; x is above 0, on a logarithmic
    axis.
    """
    rows = -(-len(measures) // PANELS_PER_ROW)
    with style.figure(path, 2.3 * rows + 0.9, title, caption) as figure:
        grid = figure.subplots(rows, min(PANELS_PER_ROW, len(measures)), squeeze=False, sharex=True)
        for axes in grid.flat[len(measures) :]:
            axes.remove()
        looks = series_looks(values)
        for axes, measure in zip(grid.flat, measures, strict=False):
            form = MEASURES[measure]
            draw_series(axes, values[values.measure == measure], looks)
            axes.set_title(textwrap.fill(form.words, 32), fontsize=10)
            if form.percent:
                style.percent_axis(axes.yaxis)
        for axes in grid[-1]:
            axes.set_xlabel(xlabel)
        for name, look in looks.items():
            grid[0, 0].plot([], [], label=name, **look)
        style.legend_below(figure, grid[0, 0], columns=4)


def plot_label_curve(
    path: Path, title: str, caption: str, values: pandas.DataFrame, reading: dict[str, float]
) -> None:
    """Plot test accuracies over labelled images per digit: a line is a mean, a band the range of
    the subsets.

    ``reading`` says at which "accuracy" to look across from "labels" per digit to the "worth", the
    number of labels from scratch that gives as much; no line is drawn if it is empty.
    """
    with style.figure(path, 4.8, title, caption) as figure:
        axes = figure.subplots()
        looks = series_looks(values)
        draw_series(axes, values, looks)
        axes.set_xlabel("labelled images per digit")
        axes.set_ylabel("accuracy on test images")
        style.percent_axis(axes.yaxis)
        if reading:
            low = axes.get_ylim()[0]
            across = [reading["labels"], reading["worth"], reading["worth"]]
            axes.plot(across, [reading["accuracy"], reading["accuracy"], low], "k--", linewidth=1)
            text = f" {reading['worth']:.0f} from scratch"
            axes.annotate(text, (reading["worth"], low), (0, 6), textcoords="offset points")
            axes.set_ylim(bottom=low)
        for name, look in looks.items():
            axes.plot([], [], label=name, **look)
        style.legend_below(figure, axes, columns=3)


def series_looks(values: pandas.DataFrame) -> dict[str, dict]:
    """Return colour and marker of each series, in their order in ``values``."""
    looks = {}
    for number, name in enumerate(values.series.unique()):
        marker = MARKERS[number % len(MARKERS)]
        looks[name] = {"color": style.colour(name), "marker": marker, "markersize": 5}
    return looks


def draw_series(axes: Axes, values: pandas.DataFrame, looks: dict[str, dict]) -> None:
    """Draw means and ranges of each series over a logarithmic x axis with a tick at each x."""
    for name, rows in values.groupby("series", sort=False):
        over_x = rows.groupby("x").value
        alone = {"markersize": 9, "markeredgecolor": "white", "zorder": 4}  # on top of a line
        axes.plot(over_x.mean(), **looks[name] | (alone if len(over_x) == 1 else {}))
        if over_x.count().max() > 1:
            band = {"color": looks[name]["color"], "alpha": 0.2, "linewidth": 0}
            axes.fill_between(over_x.min().index, over_x.min(), over_x.max(), **band)
    axes.set_xscale("log")
    ticks = sorted(values.x.unique())
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=8)  # 12 stands beside 16
    axes.xaxis.set_minor_locator(NullLocator())
