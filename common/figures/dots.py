"""Dots: the values of models, one row a model."""

import textwrap
from pathlib import Path

import numpy
import pandas
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from common.few_shot import REPORT
from common.figures import style
from common.measures.names import MEASURES

PANELS_PER_ROW = 4
TITLE_COLUMNS = 78  # characters of the titles of a row of panels, side by side


def plot_subsets(
    path: Path,
    title: str,
    caption: str,
    numbers: pandas.DataFrame,
    models: list[str],
    measure: str = "accuracy",
) -> None:
    """Plot a measure on test images: a row for each model, a dot per balanced subset, the report's
    subset hollow.

    At the right stand mean and standard deviation of the balanced subsets. A model trained on all
    images has one dot.
    """
    form = MEASURES[measure]
    rows = numbers[(numbers.split == "test") & (numbers.measure == measure)]
    with style.figure(path, 0.4 * len(models) + 1.7, title, caption) as figure:
        axes = figure.subplots()
        for height, model in enumerate(models):
            values = rows[rows.model == model].set_index("subset").value
            balanced = values.drop(REPORT, errors="ignore")
            colour = style.colour(model)
            axes.plot(balanced, [height] * len(balanced), "o", color=colour, alpha=0.6)
            mean = balanced.mean()
            if len(balanced) > 1:
                axes.plot([mean, mean], [height - 0.3, height + 0.3], color="black", linewidth=1.5)
            text = form.format_mean(mean, balanced.std())
            if REPORT in values:
                axes.plot(values[REPORT], height, "D", fillstyle="none", color=colour, zorder=3)
                text += f"\nreport's {form.format(values[REPORT])}"
            place = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 9}
            axes.annotate(text, (1.01, height), **place)

        axes.plot([], [], "o", color="black", label="a balanced subset")
        axes.plot([], [], "|", color="black", markersize=10, label="their mean")
        axes.plot([], [], "D", fillstyle="none", color="black", label="the course report's subset")
        label_rows(axes, models)
        axes.set_xlabel(f"{form.words} on test images")
        if form.percent:
            style.percent_axis(axes.xaxis)
        style.legend_below(figure, axes, columns=3)


def plot_subset_groups(
    path: Path,
    title: str,
    caption: str,
    numbers: pandas.DataFrame,
    groups: dict[str, dict[str, str]],
    measure: str = "accuracy",
) -> None:
    """Plot a measure on test images: a row for each group, a line of dots for each of its models, a
    dot per balanced subset.

    ``groups`` is as in ``plot_groups``. At the right stand the means.
    """
    form = MEASURES[measure]
    chosen = (numbers.split == "test") & (numbers.measure == measure) & (numbers.subset != REPORT)
    values = numbers[chosen].set_index("model").value
    with style.figure(path, 0.8 * len(groups) + 1.5, title, caption) as figure:
        axes = figure.subplots()
        for row, models in enumerate(groups.values()):
            axes.axhspan(row - 0.42, row + 0.42, color="black", alpha=0.04, linewidth=0)
            for line, (name, model) in enumerate(models.items()):
                of_model = values[[model]]
                height = row + 0.27 * (line - (len(models) - 1) / 2)
                colour = style.colour(name)
                axes.plot(of_model, [height] * len(of_model), "o", color=colour, alpha=0.6)
                mean = of_model.mean()
                axes.plot([mean, mean], [height - 0.12, height + 0.12], color="black")
                place = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 9}
                axes.annotate(form.format(mean), (1.01, height), color=colour, **place)

        for name in next(iter(groups.values())):
            axes.plot([], [], "o", color=style.colour(name), label=name)
        axes.plot([], [], "|", color="black", markersize=10, label="mean of the balanced subsets")
        axes.grid(axis="y", visible=False)
        label_rows(axes, list(groups))
        axes.set_xlabel(f"{form.words} on test images")
        if form.percent:
            style.percent_axis(axes.xaxis)
        style.legend_below(figure, axes, columns=4)


def plot_panels(
    path: Path,
    title: str,
    caption: str,
    numbers: pandas.DataFrame,
    models: list[str],
    measures: list[str],
) -> None:
    """Plot measures on test images, a panel each: a row for each model, with its value beside the
    dot.
    """
    height = (0.42 * len(models) + 1.0) * panel_rows(measures) + 0.5
    with style.figure(path, height, title, caption) as figure:
        draw_panels(figure, numbers, models, measures)


def plot_groups(
    path: Path,
    title: str,
    caption: str,
    numbers: pandas.DataFrame,
    groups: dict[str, dict[str, str]],
    measures: list[str],
) -> None:
    """Plot measures on test images, a panel each: a row for each group, a dot for each of its
    models.

    ``groups`` maps the name of a row to its models, and each of these from the name that has a
    colour ("Q1") to the one in ``numbers`` ("Q1, MSE"). A dashed line is the originals' value.
    """
    height = (0.5 * len(groups) + 1.0) * panel_rows(measures) + 0.9
    with style.figure(path, height, title, caption) as figure:
        grid = panel_grid(figure, measures)
        for axes, measure in zip(grid.flat, measures, strict=False):
            values = values_by_model(numbers, measure)
            for row, models in enumerate(groups.values()):
                draw_group(axes, values.reindex(models.values()), list(models), row)
                axes.set_xmargin(0.2)
            draw_original(axes, values)
            name_panel(axes, measure, len(grid[0]))
        for axes in grid[:, 0]:
            label_rows(axes, list(groups))
        axes = grid[0, 0]
        for name in next(iter(groups.values())):
            axes.plot([], [], "o", color=style.colour(name), markersize=8, label=name)
        if "original" in set(numbers.model):
            axes.plot([], [], "k--", linewidth=1, label="original images")
        style.legend_below(figure, axes, columns=4)


def draw_group(axes: Axes, values: pandas.Series, names: list[str], row: int) -> None:
    """Draw the dots of one row, in the colours of ``names``, and a line that joins them.

    Later dots are smaller, so that equal values show as rings.
    """
    axes.plot([values.min(), values.max()], [row, row], color=style.BASELINE, linewidth=1)
    sizes = numpy.linspace(10, 6, len(names))
    for value, name, size in zip(values, names, sizes, strict=True):
        axes.plot(value, row, "o", color=style.colour(name), markersize=size)


def draw_panels(figure, numbers: pandas.DataFrame, models: list[str], measures: list[str]) -> None:
    """Draw what ``plot_panels`` plots into a figure or a part of one; a dashed line is the
    originals' value.
    """
    grid = panel_grid(figure, measures)
    for axes, measure in zip(grid.flat, measures, strict=False):
        form = MEASURES[measure]
        values = values_by_model(numbers, measure)
        for height, model in enumerate(models):
            if model not in values:
                continue
            axes.plot(values[model], height, "o", color=style.colour(model), markersize=8)
            place = {"textcoords": "offset points", "ha": "center", "va": "bottom", "fontsize": 9}
            axes.annotate(form.format(values[model]), (values[model], height), (0, 6), **place)
        axes.set_xmargin(0.1 + 0.06 * len(grid[0]))
        draw_original(axes, values)
        name_panel(axes, measure, len(grid[0]))
    for axes in grid[:, 0]:
        label_rows(axes, models)


def panel_rows(measures: list[str]) -> int:
    """Return in how many rows so many panels stand."""
    return -(-len(measures) // PANELS_PER_ROW)


def panel_grid(figure, measures: list[str]):
    """Return an array of axes with a place for each measure; those left over are removed."""
    rows = panel_rows(measures)
    grid = figure.subplots(rows, -(-len(measures) // rows), squeeze=False, sharey=True)
    for axes in grid.flat[len(measures) :]:
        axes.remove()
    return grid


def values_by_model(numbers: pandas.DataFrame, measure: str) -> pandas.Series:
    """Return a measure's values on test images, by model."""
    chosen = (numbers.split == "test") & (numbers.measure == measure)
    return numbers[chosen].set_index("model").value


def draw_original(axes: Axes, values: pandas.Series) -> None:
    """Draw the original images' value, where there is one."""
    if "original" in values:
        axes.axvline(values["original"], color="black", linestyle="--", linewidth=1)


def name_panel(axes: Axes, measure: str, panels: int) -> None:
    """Write the measure above its panel, one of so many side by side."""
    form = MEASURES[measure]
    axes.set_title(textwrap.fill(form.words, TITLE_COLUMNS // panels), fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(3 if panels < PANELS_PER_ROW else 2))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    if form.percent:
        style.percent_axis(axes.xaxis)


def label_rows(axes: Axes, models: list[str]) -> None:
    """Name the rows, from top to bottom, in the models' colours."""
    axes.set_yticks(range(len(models)), models)
    axes.set_ylim(len(models) - 0.4, -0.7)
    for text, model in zip(axes.get_yticklabels(), models, strict=True):
        text.set(color=style.colour(model), weight="bold" if model in style.COLOURS else "normal")
