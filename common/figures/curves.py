"""Curves over training steps."""

from pathlib import Path

import numpy
import pandas
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from common.few_shot import REPORT
from common.figures import style
from common.measures.names import MEASURES

SMOOTHING = 0.02  # of all steps: the length of the moving average


def plot_training(
    path: Path,
    title: str,
    caption: str,
    history: pandas.DataFrame,
    measure: str,
    levels: dict[str, float] | None = None,
) -> None:
    """Plot a measure of ``train.fit``'s history over training steps.

    Every step and its moving average on the training images, the held-out splits after each epoch,
    and ``levels`` of baselines and other models as lines across.
    """
    history = history[history.measure == measure]
    by_split = {
        split: rows.set_index("step").value for split, rows in history.groupby("split", sort=False)
    }
    every_step = by_split.pop("train")
    width = max(1, round(SMOOTHING * len(every_step)))
    smooth = every_step.rolling(width, center=True).mean().dropna()
    with style.figure(path, 4.4, title, caption) as figure:
        axes = figure.subplots()
        colour = style.colour("train")
        axes.plot(
            every_step, color=colour, alpha=0.3, linewidth=0.6, label="training batch, every step"
        )
        axes.plot(smooth, color=colour, label=f"its mean over {width} steps")
        for split, values in by_split.items():
            label = f"{split} images, after each epoch"
            values = values[values.index > 0]  # the value before training would take up the axis
            axes.plot(values, "o:", color=style.colour(split), label=label, markersize=4)
        for name, level in (levels or {}).items():
            axes.axhline(level, color=style.colour(name), linestyle="--", linewidth=1)
            place = {
                "xycoords": ("axes fraction", "data"),
                "va": "center",
                "color": style.colour(name),
            }
            axes.annotate(name.replace(" ", "\n", 1), (1.01, level), fontsize=9, **place)

        axes.set(
            xlabel="training step", ylabel=MEASURES[measure].words, xlim=(0, len(every_step) * 1.01)
        )
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        later = smooth.iloc[len(smooth) // 20 :]  # the first steps would take up most of the axis
        if measure == "accuracy":
            axes.set_ylim(max(0.0, later.min() - 0.02), 1.002)
            style.percent_axis(axes.yaxis)
        else:
            style.log_axis(axes)
        style.legend_below(figure, axes, columns=2)


def plot_few_shot(
    path: Path,
    title: str,
    caption: str,
    history: pandas.DataFrame,
    models: list[str],
    measures: list[str],
) -> None:
    """Plot histories of fits on labelled subsets: a row of panels for each measure, a column for
    each model.

    A line is the mean of the balanced subsets and a band their range; the report's subset is
    dotted. The step axis is logarithmic.
    """
    with style.figure(path, 2.6 * len(measures) + 1.2, title, caption) as figure:
        grid = figure.subplots(len(measures), len(models), squeeze=False, sharex=True, sharey="row")
        for row, measure in zip(grid, measures, strict=True):
            row[0].set_ylabel(MEASURES[measure].words)
            for axes, model in zip(row, models, strict=True):
                chosen = history[(history.model == model) & (history.measure == measure)]
                plot_subsets(axes, chosen)
                if measure == "accuracy":
                    style.percent_axis(axes.yaxis)
                else:
                    mark_lowest(axes, chosen)
                    style.log_axis(axes)
        if len(models) > 1:
            for axes, model in zip(grid[0], models, strict=True):
                axes.set_title(model, fontsize=10, color=style.colour(model), weight="bold")
        for axes in grid[-1]:
            axes.set_xlabel("training step")
        last_step = history[history.model.isin(models)].step.max()
        grid[0][0].set_xlim(0, last_step * 1.1)  # of all panels
        style.legend_below(figure, grid[0][0], columns=2)


def plot_subsets(axes: Axes, history: pandas.DataFrame) -> None:
    """Plot one measure of one model, trained on several subsets."""
    steps = sorted(history[history.split != "train"].step.unique())
    for split, words in (("labelled", "its labelled images"), ("test", "test images")):
        table = history[history.split == split].pivot(
            index="step", columns="subset", values="value"
        )
        balanced = table.drop(columns=REPORT, errors="ignore")
        colour = style.colour(split)
        label = f"{words}, balanced subsets: mean and range"
        axes.plot(balanced.mean(axis=1), color=colour, linewidth=2, label=label)
        axes.fill_between(
            balanced.index, balanced.min(axis=1), balanced.max(axis=1), color=colour, alpha=0.2
        )
        if REPORT in table:
            label = f"{words}, the course report's subset"
            axes.plot(table[REPORT], ":", color=colour, linewidth=2, label=label)
    axes.set_xscale("symlog", linthresh=steps[1])  # logarithmic, but for the first step from 0
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def mark_lowest(axes: Axes, history: pandas.DataFrame) -> None:
    """Mark where the test loss of the balanced subsets is lowest, in the median."""
    table = history[history.split == "test"].pivot(index="step", columns="subset", values="value")
    table = table.drop(columns=REPORT, errors="ignore")
    lowest = table.idxmin().median()
    value = numpy.interp(lowest, table.index, table.mean(axis=1))
    label = "lowest test loss (median of balanced subsets)"
    axes.plot(lowest, value, "kv", markersize=8, label=label)
